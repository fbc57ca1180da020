"""Fused ops in Triton, one file per op, of the same name as its reference; only dispatch.py imports them."""

import triton

# Under TRITON_INTERPRET=1, as it was when this was imported, kernels run in numpy and take tensors of the CPU.
INTERPRETED: bool = triton.knobs.runtime.interpret
