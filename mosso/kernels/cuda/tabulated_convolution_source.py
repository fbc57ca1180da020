"""CUDA C++ of the backward tabulated convolution, written out for one table of coupling paths; the parts are in the .cuh beside it."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mosso.kernels.fused.edge_convolution_source import PathTable

_HERE = Path(__file__).parent
# How a number of each type is called, and the four of a cubic read at once.
_INTEGERS = {torch.int32: "int", torch.int64: "long long"}
_CUBICS = {
    torch.float32: "using Quad = float4;\n__device__ __forceinline__ float4 numbers(float4 c) { return c; }",
    torch.float16: """using Quad = uint2;
__device__ __forceinline__ float half_at(unsigned pair, int place) { return half_to_float((unsigned short)(pair >> 16 * place)); }
__device__ __forceinline__ float4 numbers(uint2 c) {
  return make_float4(half_at(c.x, 0), half_at(c.x, 1), half_at(c.y, 0), half_at(c.y, 1));
}""",
}


class Cut(NamedTuple):
    """How the kernel is made.

    Attributes:
        channels: of x.
        block: channels of one warp, a multiple of 8 that divides them.
        resident: warps of a multiprocessor that there should be registers for.
        table, senders, offsets: types of the coefficients, of the senders and of the receiver offsets.
        paired: whether lanes of odd edges read their two channels in the other order.
        need_x, need_y: which gradients are asked for.
    """

    channels: int
    block: int
    resident: int
    table: torch.dtype
    senders: torch.dtype
    offsets: torch.dtype
    paired: bool = True
    need_x: bool = True
    need_y: bool = True


class _Rows(NamedTuple):
    """Where G stands in shared memory: rows of 8 channels, one per (p, i, j).

    Attributes:
        first: first row of each path.
        total: rows of 8 channels; one more than a multiple of four, which spreads blocks of 8 channels over the banks.
    """

    first: tuple[int, ...]
    total: int


def rows(table: PathTable) -> _Rows:
    first, total = [], 0
    for path in table.paths:
        first.append(total)
        total += (2 * path.l_in + 1) * (2 * path.l_edge + 1)
    # Products read eight rows where a path may have fewer.
    return _Rows(tuple(first), (total + 8 + 3) // 4 * 4 + 1)


def shared_bytes(table: PathTable, cut: Cut) -> int:
    return rows(table).total * cut.block * 4


def _times(value: float, name: str) -> str:
    return name if value == 1.0 else f"{float(np.float32(value))!r}f * {name}"


def _fill(table: PathTable) -> list[str]:
    """Lines that write G of one channel to ``at``."""
    where, lines = rows(table), [f"const float g{k} = of_node[{k} * CHANNELS];" for k in range(table.num_out)]
    starts = {degree: sum(2 * d + 1 for d in table.degrees_in if d < degree) for degree in table.degrees_in}
    filled = 0
    for path, terms, first in zip(table.paths, table.terms, where.first, strict=True):
        harmonics = 2 * path.l_edge + 1
        for i in range(2 * path.l_in + 1):
            for j in range(harmonics):
                here = [t for t in terms if (t.i, t.j) == (starts[path.l_in] + i, path.l_edge**2 + j)]
                total = " + ".join(_times(t.value, f"g{t.k}") for t in here) or "0.0f"
                value = f"packed({total})" if path.l_edge else total
                lines.append(f"at[{8 * (first + i * harmonics + j)}] = {value};")
                filled += 1
    return lines + [f"at[{8 * row}] = 0.0f;" for row in range(filled, where.total)]


def _degree(table: PathTable, degree: int, order: list[int]) -> list[str]:
    """Lines for the paths of one degree of x; ``order`` is that in which all paths are computed."""
    components, start = 2 * degree + 1, sum(2 * d + 1 for d in table.degrees_in if d < degree)
    lines = [
        "{",
        f"  float x[{components}][4], dx[{components}][4];",
        f"  load_inputs<{components}>(x, x_at + {start} * CHANNELS, atoms, COMPONENTS * CHANNELS, CHANNELS);",
    ]
    where, first = rows(table), "true"
    for p in (p for p in order if table.paths[p].l_in == degree):
        l_edge, place = table.paths[p].l_edge, order.index(p)
        if place + 1 < len(order):
            lines.append(f"  load(c{place + 1}, coefficients, {order[place + 1]} * CHANNELS);")
        g = f"{8 * where.first[p]}"
        if l_edge == 0:
            lines.append(f"  add_scalar_path<{first}, {components}>(dx, dt, c{place}, x, t, odd, scalars + {g});")
        else:
            lines.append(
                f"  add_path<{first}, {components}, {l_edge}>(dx, dt, sums{l_edge}, c{place}, x, y{l_edge}, t, odd, "
                f"by_harmonic + {g}, by_channel + {g});"
            )
        first = "false"
    if first == "true":
        lines.append(f"  for (int i = 0; i < {components}; i++) dx[i][0] = dx[i][1] = dx[i][2] = dx[i][3] = 0.0f;")
    store = f"  if (NEED_X) store_inputs<{components}>(dx, dx_at + {start} * CHANNELS, to, COMPONENTS * CHANNELS, CHANNELS);"
    return [*lines, store, "}"]


_KERNEL = """
constexpr int CHANNELS = {channels}, BLOCK = {block}, COMPONENTS = {components}, OUTPUTS = {outputs}, FEATURES = {features};
constexpr int PATHS = {paths}, ROWS = {rows};
constexpr bool PAIRED = {paired}, NEED_X = {need_x}, NEED_Y = {need_y};

// See the docstring of tabulated_convolution.py; dx and parts hold rows of the edges from first_edge to last_edge alone.
extern "C" __global__ __launch_bounds__(32, {resident}) void backward(
    const float *__restrict__ g, const float *__restrict__ x, const float *__restrict__ features, const Quad *__restrict__ table,
    const {senders} *__restrict__ senders, const int *__restrict__ table_rows, const int *__restrict__ order,
    const {offsets} *__restrict__ offsets, int first_edge, int last_edge, float *__restrict__ grad_edges, float *__restrict__ parts) {{
  DYNAMIC_SHARED(memory);
  float *const shared = reinterpret_cast<float *>(memory);
  const int node = blockIdx.x, lane = threadIdx.x, channel = blockIdx.y * BLOCK;
  const int start = (int)offsets[node], end = (int)offsets[node + 1];
  if (start >= end || start >= last_edge || end <= first_edge) return;
  for (int c = lane; c < BLOCK; c += 32) {{
    const float *of_node = g + (size_t)node * (OUTPUTS * CHANNELS) + channel + c;
    float *at = shared + c / 8 * (ROWS * 8) + c % 8;
    {fill}
  }}
  wait_for_warp();
  const int row = lane / 4, quarter = lane % 4;
  const bool odd = PAIRED && row % 2;
  parts += (size_t)blockIdx.y * (last_edge - first_edge) * FEATURES;
  for (int base = start; base < end; base += 16) {{
    const float *edge[2], *x_at = x + channel + 2 * quarter;
    float *dx_at = grad_edges + channel + 2 * quarter;
    Rows coefficients;
    float t[2], dt[2] = {{0, 0}};
    int atoms[2], to[2];
    for (int e = 0; e < 2; e++) {{
      const int place = base + row + 8 * e, visit = min(place, end - 1), own = order[visit];
      to[e] = place < end && own >= first_edge && own < last_edge ? own - first_edge : -1;
      edge[e] = features + (size_t)own * FEATURES, t[e] = edge[e][0], atoms[e] = (int)senders[visit];
      const Quad *from = table + (size_t)table_rows[visit] * (PATHS * CHANNELS) + channel + 2 * quarter;
      coefficients.first[e] = from + odd, coefficients.second[e] = from + !odd;
    }}
    {harmonics}
    const float *by_harmonic = shared + 8 * quarter + row, *by_channel = shared + 8 * row + 2 * quarter, *scalars = shared + 2 * quarter;
#pragma unroll 1
    for (int sub = 0; sub < BLOCK / 8; sub++) {{
      Coefficients {names};
      load(c0, coefficients, {first_path} * CHANNELS);
      {body}
      for (int e = 0; e < 2; e++) coefficients.first[e] += 8, coefficients.second[e] += 8;
      x_at += 8, dx_at += 8, by_harmonic += 8 * ROWS, by_channel += 8 * ROWS, scalars += 8 * ROWS;
    }}
    if (NEED_Y) {{
      {store}
    }}
  }}
}}
"""


@lru_cache(maxsize=256)
def source(table: PathTable, cut: Cut) -> str:
    """The text of the kernel ``backward`` of a table."""
    order = sorted(range(len(table.paths)), key=lambda p: (table.paths[p].l_in, table.paths[p].l_edge, table.paths[p].l_out))
    degrees = range(1, int(table.num_edge**0.5))
    body = [line for degree in table.degrees_in for line in _degree(table, degree, order)]
    harmonics = [f"Harmonics<{l}> y{l};\n    load_harmonics(y{l}, edge[0], edge[1], quarter);\n    Sums sums{l};" for l in degrees]
    store = [
        "store_position(dt, parts, to, FEATURES, quarter);",
        *[f"store_sums<{l}>(sums{l}, parts, to, FEATURES, quarter);" for l in degrees],
    ]
    text = _KERNEL.format(
        channels=cut.channels,
        block=cut.block,
        components=table.num_in,
        outputs=table.num_out,
        features=table.num_edge,
        paths=len(table.paths),
        rows=rows(table).total,
        paired=str(cut.paired).lower(),
        need_x=str(cut.need_x).lower(),
        need_y=str(cut.need_y).lower(),
        resident=cut.resident,
        senders=_INTEGERS[cut.senders],
        offsets=_INTEGERS[cut.offsets],
        fill="\n    ".join(_fill(table)),
        harmonics="\n    ".join(harmonics),
        names=", ".join(f"c{place}" for place in range(len(order))),
        first_path=order[0],
        body="\n      ".join(body),
        store="\n      ".join(store),
    )
    parts = [(_HERE / name).read_text() for name in ("primitives.cuh", "tabulated_convolution.cuh")]
    return f"{parts[0]}\n{_CUBICS[cut.table]}\n{parts[1]}{text}"
