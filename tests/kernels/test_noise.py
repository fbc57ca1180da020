"""Normal random numbers in Triton."""

import pytest
import torch

from mosso.kernels import gaussian

pytest.importorskip("triton")

ON_GPU = torch.cuda.is_available()


pytestmark = [pytest.mark.gpu] if ON_GPU else []


@pytest.mark.skipif(ON_GPU, reason="there is a CUDA device")
def test_refuses_the_cpu() -> None:
    with pytest.raises(ValueError, match="triton implementation of gaussian cannot run here"):
        gaussian(torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.tensor(0), 0, "triton")
