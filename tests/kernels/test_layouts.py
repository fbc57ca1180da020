"""Blocks of numbers that a kernel takes apart lie in the registers of one thread: were they spread over threads, shared memory or
shuffles would have to bring them together, which no test of numbers sees. Compiled for an H100, whatever is here."""

from typing import Any

import pytest

pytest.importorskip("triton")


def compiled(kernel: Any, integers: dict[str, str], constants: dict[str, Any]) -> Any:
    """The kernel for pointers to float32 and the given integers, one warp."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    signature = {name: "constexpr" if name in constants else integers.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if signature[name].startswith("*")}
    used = {name: value for name, value in constants.items() if name in kernel.arg_names}
    return compile(ASTSource(kernel, signature, used, aligned), GPUTarget("cuda", 90, 32), {"num_warps": 1})


@pytest.mark.parametrize("name", ["gradient", "second", "coefficients"])
def test_symmetric_contraction(name: str) -> None:
    from mosso.kernels.fused.symmetric_contraction_source import kernels_of
    from mosso.math.coupling import contraction_table, symmetric_coupling

    kernels = kernels_of(contraction_table([[symmetric_coupling(1, 0, nu) for nu in (1, 2, 3)]]).text)
    integers = {"species_ptr": "*i64", "order_ptr": "*i64", "num_atoms": "i32"}
    tile = {"ORDERED": True, "CHANNELS": 128, "BLOCK_N": 2, "BLOCK_C": 32}
    chunk = {"CHANNELS": 128, "CHUNK": 16, "BLOCK_C": 32}
    assert compiled(getattr(kernels, name), integers, chunk if name == "coefficients" else tile).metadata.shared == 0


def test_tabulated_convolution() -> None:
    from mosso.kernels.fused.edge_convolution_source import PathTable, Tabulated, kernel
    from mosso.math.coupling import convolution_paths

    table = PathTable.parse(PathTable.describe((0, 1), convolution_paths((0, 1), 1)), 4)
    integers = {"senders": "*i64", "rows": "*i32", "order": "*i32", "receiver_offsets": "*i64"}
    made = compiled(kernel("forward", table, 1, 128, weights=Tabulated()), integers, {"CHANNELS": 128, "BLOCK": 32})
    assert made.metadata.shared == 0
    assert "shfl" not in made.asm["ptx"]
    # one load of four coefficients per path, and one of the four numbers of an edge
    assert made.asm["ptx"].count("ld.global.v4") == len(table.paths) + 1
