"""Triton source of the edge features, written out for one largest degree of the harmonics.

Harmonics follow from one rule, Y_(l+1) = raising matrix x (Y_l outer direction), as in math/harmonics.py. Its few non-zero
entries become lines on registers, and run backwards they are the gradient.
"""

import linecache
from functools import lru_cache
from typing import Any

import numpy as np
import triton
import triton.language as tl

from mosso.kernels.fused.overlap import await_inputs
from mosso.math.harmonics import raising_matrix

_HEAD = """\
@triton.jit
def {name}({arguments}, num_edges, RATE: tl.constexpr, R_MAX: tl.constexpr, INTERVALS: tl.constexpr,
    SHORTEST: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False):
    await_inputs(OVERLAPS)
    edge = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = edge < num_edges
    r0 = tl.load(vectors + 3 * edge, mask=live, other=0.0).to(tl.float64)
    r1 = tl.load(vectors + 3 * edge + 1, mask=live, other=0.0).to(tl.float64)
    r2 = tl.load(vectors + 3 * edge + 2, mask=live, other=0.0).to(tl.float64)
    distance = tl.sqrt(r0 * r0 + r1 * r1 + r2 * r2)
    inverse = 1.0 / tl.maximum(distance, SHORTEST)
    u0 = r0 * inverse
    u1 = r1 * inverse
    u2 = r2 * inverse
    column = tl.arange(0, {width})[None, :]
    at = edge[:, None] * {count} + column
    inside = live[:, None] & (column < {count})"""

_POSITION = """\
    scaled = distance * RATE
    inner = distance < R_MAX
    row = tl.where(inner, tl.minimum(tl.floor(scaled), INTERVALS - 1.0), 1.0 * INTERVALS)
    f0 = tl.where(inner, scaled - row, 0.0)"""

_GRADIENT = """\
    along = d0 * u0 + d1 * u1 + d2 * u2
    radial = tl.where(distance < R_MAX, g0 * RATE, 0.0) - along * inverse
    tl.store(grad_vectors + 3 * edge, d0 * inverse + radial * u0, mask=live)
    tl.store(grad_vectors + 3 * edge + 1, d1 * inverse + radial * u1, mask=live)
    tl.store(grad_vectors + 3 * edge + 2, d2 * inverse + radial * u2, mask=live)"""


def _entries(ell: int) -> dict[tuple[int, int], list[tuple[int, float]]]:
    """Per pair (component a of Y_l, b of the direction) the components m of Y_(l+1) it enters and with what factor."""
    raising_ABM = raising_matrix(ell).reshape(2 * ell + 1, 3, 2 * ell + 3)
    pairs: dict[tuple[int, int], list[tuple[int, float]]] = {}
    # Entries that are zero but for the rounding of the coupling are left out.
    for a, b, m in np.argwhere(np.abs(raising_ABM) > 1e-12).tolist():
        pairs.setdefault((a, b), []).append((m, float(raising_ABM[a, b, m])))
    return pairs


def _harmonics(max_ell: int) -> list[str]:
    """Lines that make f1, f2, .. of u0, u1, u2: the harmonics of degree 1 to ``max_ell``."""
    lines = []
    for ell in range(max_ell):
        sums: dict[int, list[str]] = {}
        for (a, b), entries in _entries(ell).items():
            pair = f"p{ell}_{a}_{b}"
            lines.append(f"{pair} = u{b} * f{ell**2 + a}" if ell else f"{pair} = u{b}")
            for m, value in entries:
                sums.setdefault(m, []).append(f"{value!r} * {pair}")
        lines += [f"f{(ell + 1) ** 2 + m} = {' + '.join(parts)}" for m, parts in sorted(sums.items())]
    return lines


def _adjoints(max_ell: int) -> list[str]:
    """Lines that make d0, d1, d2, the gradient of sum_j g_j f_j (j >= 1) with respect to the direction; changes the g."""
    lines = [f"d{b} = tl.zeros((BLOCK,), tl.float64)" for b in range(3)]
    for ell in reversed(range(max_ell)):
        for (a, b), entries in _entries(ell).items():
            lines.append("q = " + " + ".join(f"{value!r} * g{(ell + 1) ** 2 + m}" for m, value in entries))
            lines.append(f"d{b} += q * f{ell**2 + a}" if ell else f"d{b} += q")
            if ell:
                lines.append(f"g{ell**2 + a} += q * u{b}")
    return lines


def _joined(names: list[str]) -> str:
    """The (BLOCK, 2, .., 2) tensor whose last axes count ``names`` in binary, one row in the registers of one thread."""
    return names[0] if len(names) == 1 else f"tl.join({_joined(names[::2])}, {_joined(names[1::2])})"


def _split(tile: str, width: int, first: int, stride: int) -> list[str]:
    """Lines that take the (BLOCK, width) ``tile`` apart into g{first}, g{first + stride}, ..."""
    if width == 1:
        return [f"g{first} = tl.reshape({tile}, (BLOCK,)).to(tl.float64)"]
    even, odd = f"t{first}_{2 * stride}", f"t{first + stride}_{2 * stride}"
    lines = [f"{even}, {odd} = tl.split(tl.reshape({tile}, (BLOCK, {width // 2}, 2)))"]
    return lines + _split(even, width // 2, first, 2 * stride) + _split(odd, width // 2, first + stride, 2 * stride)


def source(direction: str, max_ell: int) -> str:
    """The text of the ``forward`` or ``backward`` kernel."""
    count = (max_ell + 1) ** 2
    width = triton.next_power_of_2(count)
    sizes = {"name": f"edge_features_{direction}", "count": count, "width": width}
    if direction == "forward":
        names = [f"f{j}.to(features.dtype.element_ty)" for j in range(count)] + ["none"] * (width - count)
        body = [*_harmonics(max_ell), "none = tl.zeros((BLOCK,), features.dtype.element_ty)"]
        body.append(f"tl.store(features + at, tl.reshape({_joined(names)}, (BLOCK, {width})), mask=inside)")
        body.append("tl.store(rows + edge, row.to(tl.int32), mask=live)")
        parts = [_HEAD.format(arguments="vectors, features, rows", **sizes), _POSITION, *("    " + line for line in body)]
        return "\n".join(parts) + "\n"
    body = ["tile = tl.load(g + at, mask=inside, other=0.0)", *_split("tile", width, 0, 1)]
    body += [*_harmonics(max_ell - 1), *_adjoints(max_ell)]
    parts = [_HEAD.format(arguments="g, vectors, grad_vectors", **sizes), *("    " + line for line in body), _GRADIENT]
    return "\n".join(parts) + "\n"


@lru_cache(maxsize=64)
def kernel(direction: str, max_ell: int) -> Any:
    """The kernel itself; made once, compiled by triton for each device and set of constants."""
    text, name = source(direction, max_ell), f"<mosso edge_features_{direction} {max_ell}>"
    # triton reads the source of what it compiles through inspect, which looks here for code that has no file
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"triton": triton, "tl": tl, "await_inputs": await_inputs, "__name__": __name__}
    exec(compile(text, name, "exec"), namespace)
    return namespace[f"edge_features_{direction}"]
