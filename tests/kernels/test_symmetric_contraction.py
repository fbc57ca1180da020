"""The fused symmetric contraction at full size on a GPU."""

import pytest
import torch

pytest.importorskip("triton")

ON_GPU = torch.cuda.is_available()

if ON_GPU:
    pytest.register_assert_rewrite("kernels.symmetric_contraction_contract")
    from kernels import symmetric_contraction_contract as contract

# With a GPU everything here runs on it; without one, what needs it is collected and skipped.
pytestmark = [pytest.mark.gpu] if ON_GPU else []
gpu = (pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="no CUDA device"))


@pytest.mark.skipif(ON_GPU, reason="there is a CUDA device")
def test_refuses_the_cpu() -> None:
    from mosso.kernels.fused.symmetric_contraction import symmetric_contraction_triton
    from mosso.math.coupling import contraction_table, symmetric_coupling

    table = contraction_table([[symmetric_coupling(1, 0, 1)]])
    with pytest.raises(ValueError, match=r"CUDA device .* reference"):
        symmetric_contraction_triton(torch.zeros(2, 4, 3), torch.zeros(1, 1, 3), torch.zeros(2, dtype=torch.int64), table)


def test_a_thread_holds_all_numbers_of_its_channel() -> None:
    """Compiled for an H100, whatever is here: were numbers of a block spread over threads, shared memory would bring them together."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from mosso.kernels.fused.symmetric_contraction_source import kernels_of
    from mosso.math.coupling import contraction_table, symmetric_coupling

    kernels = kernels_of(contraction_table([[symmetric_coupling(1, 0, nu) for nu in (1, 2, 3)]]).text)
    integers = {"species_ptr": "*i64", "order_ptr": "*i64", "num_atoms": "i32"}
    tile = {"ORDERED": True, "CHANNELS": 128, "BLOCK_N": 2, "BLOCK_C": 32}
    chunk = {"CHANNELS": 128, "CHUNK": 16, "BLOCK_C": 32}
    for kernel, constants in ((kernels.gradient, tile), (kernels.second, tile), (kernels.coefficients, chunk)):
        signature = {name: "constexpr" if name in constants else integers.get(name, "*fp32") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constants)
        assert compile(source, GPUTarget("cuda", 90, 32), {"num_warps": 1}).metadata.shared == 0


@pytest.mark.parametrize(
    ("degrees", "num_atoms", "dtype"),
    [
        pytest.param((0,), 500, torch.float64, marks=gpu, id="last layer, few atoms, float64"),
        pytest.param((0,), 5000, torch.float32, marks=gpu, id="last layer, many atoms, float32"),
        pytest.param((0, 1), 5000, torch.float32, marks=gpu, id="first layer, many atoms, float32"),
    ],
)
def test_full_size(degrees: tuple[int, ...], num_atoms: int, dtype: torch.dtype) -> None:
    """The tables of MACE medium."""
    case = contract.make_case(contract.table_of(3, degrees, 3), num_atoms, 5, 128)
    contract.check(case, (dtype,), torch.argsort(case.species))


@pytest.mark.parametrize("channels", [pytest.param(128, marks=gpu)])
def test_offsets_past_two_to_the_31(channels: int) -> None:
    """The last atoms of so many that A holds more than 2^31 numbers, against the same atoms alone."""
    table = contract.table_of(3, (0,), 2)
    few = contract.make_case(table, 8, 2, channels)
    a, w, g = few.a.float(), few.coefficients.float(), few.g.float()
    before = 2**31 // (16 * channels)
    many_a, many_g = (torch.cat([x.new_zeros(before, *x.shape[1:]), x]) for x in (a, g))
    many_species = torch.cat([few.species.new_zeros(before), few.species])
    fused = contract.fused
    want = fused.contraction(a, w, few.species, None, table.text, True), fused.gradient(g, a, w, few.species, None, table.text)
    got = fused.contraction(many_a, w, many_species, None, table.text, True)[before:]
    assert torch.equal(got, want[0])
    assert torch.equal(fused.gradient(many_g, many_a, w, many_species, None, table.text)[before:], want[1])
