"""Kernels matched to ops."""

from mosso.bench.limits import Cost
from mosso.bench.profile import kernel_table, share_table

KERNELS = [
    {"kernel": "tabulated_convolution_backward", "launches": 1.0, "us": 60.0},
    {"kernel": "contraction_gradient", "launches": 2.0, "us": 20.0},
    {"kernel": "sm90_xmma_gemm_f32f32", "launches": 4.0, "us": 10.0},
    {"kernel": "vectorized_elementwise_kernel", "launches": 7.0, "us": 5.0},
]


def test_every_kernel_counts_once() -> None:
    costs = [Cost("convolution 1", "backward", flops=67e12 * 30e-6, bytes=0.0), Cost("mix 1", "forward", flops=0.0, bytes=4.2e12 * 5e-6)]
    text = share_table(KERNELS, costs)
    assert "| convolution | 60 | 30 | 50% |" in text
    assert "| contraction | 20 | 0 | 0% |" in text
    assert "| linear | 10 | 5 | 50% |" in text
    assert "| everything else | 5 |" in text


def test_the_rest_is_summed() -> None:
    text = kernel_table(KERNELS, most=2)
    assert "| 2 others | 11 | 15 |" in text
    assert "| all | 14 | 95 |" in text
