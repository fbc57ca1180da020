"""Precision policies: which number format each part of a computation uses.

A policy is a value that is passed in, never a global switch. This file is the only place that decides
dtypes; every other room asks the policy it was given.
"""

from dataclasses import dataclass, replace

import torch

# How dense products of float32 numbers may run: with nothing lost of the operands, and sums in float32 or better (ieee); or on tensor
# cores with operands rounded (tf32, bf16, fp16) and sums in float32. Float64 is never rounded.
MATMULS = ("ieee", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Precision:
    """Number formats of one evaluation.

    Attributes:
        name: what results call the policy.
        storage: weights and node features at rest.
        compute: operands of dense products and tensor products.
        accumulate: Clebsch-Gordan sums and sums over edges; float32 or better.
        geometry: edge vectors, radial functions, spherical harmonics; float32 or better.
        energy: per-atom energies, E0, ZBL, virial and every sum over atoms; always float64.
        matmul: how dense products run, one of MATMULS.
        table: radial weights that are tabulated on a GPU, but not their derivatives; may be shorter than ``compute``, in which they
            are used. Gradients of node features per edge wait for their sum in it where it is half precision.
        table_error: largest relative root mean square error of the derivative of a tabulated radial function; None where they are
            always evaluated.
    """

    name: str
    storage: torch.dtype
    compute: torch.dtype
    accumulate: torch.dtype
    geometry: torch.dtype
    energy: torch.dtype = torch.float64
    matmul: str = "ieee"
    table: torch.dtype = torch.float32
    table_error: float | None = None

    def __post_init__(self) -> None:
        assert self.energy == torch.float64, "energies are summed in float64 under every policy"
        assert self.matmul in MATMULS, f"{self.matmul!r} is none of {MATMULS}"
        for part in (self.accumulate, self.geometry):
            assert part in (torch.float32, torch.float64), f"{part} is too short for sums and geometry"

    @staticmethod
    def named(name: "str | Precision") -> "Precision":
        """The policy called ``name``; a ValueError lists what exists when there is none."""
        if isinstance(name, Precision):
            return name
        if name not in POLICIES:
            raise ValueError(f"Unknown precision {name!r}: choose one of {', '.join(POLICIES)}.")
        return POLICIES[name]


_FP64 = Precision("fp64", storage=torch.float64, compute=torch.float64, accumulate=torch.float64, geometry=torch.float64)
# Geometry is cheap beside the rest and its rounding is what the forces feel most, so it stays double.
_FP32 = Precision(
    "fp32", storage=torch.float32, compute=torch.float32, accumulate=torch.float32, geometry=torch.float64, table_error=6e-7
)  # fmt: skip
# Operands of dense products and tabulated radial weights rounded, all else as in fp32; docs/precision.md has their errors.
POLICIES = {
    policy.name: policy
    for policy in (
        _FP64,
        _FP32,
        replace(_FP32, name="tf32", matmul="tf32", table_error=1e-4),
        replace(_FP32, name="bf16", matmul="bf16", table=torch.bfloat16, table_error=5e-3),
        replace(_FP32, name="fp16", matmul="fp16", table=torch.float16, table_error=5e-4),
    )
}
