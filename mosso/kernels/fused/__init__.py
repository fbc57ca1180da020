"""Fused ops in Triton, one file per op, of the same name as its reference; only dispatch.py imports them."""

import hashlib
from pathlib import Path
from typing import Any

import triton

# Under TRITON_INTERPRET=1, as it was when this was imported, kernels run in numpy and take tensors of the CPU.
INTERPRETED: bool = triton.knobs.runtime.interpret

# Ops carry this in an argument. Compilers that keep their results on disk know an op by name and arguments only, and
# would otherwise go on using the kernels of an older version.
FINGERPRINT = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:12]


def refuse_second_derivative(backward: Any, name: str) -> None:
    """Let differentiating ``backward``, the op that is the first derivative of ``name``, say what to do instead."""

    def refuse(ctx: Any, *cotangents: Any) -> None:
        raise ValueError(f"{name} in triton has first derivatives only: the reference implementation gives the second.")

    backward.register_autograd(refuse)
