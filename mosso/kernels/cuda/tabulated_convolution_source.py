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
        ahead: paths whose coefficients are asked for before they are needed.
        paired: whether lanes of odd edges read their two channels in the other order.
        need_x, need_y: which gradients are asked for.
    """

    channels: int
    block: int
    resident: int
    table: torch.dtype
    senders: torch.dtype
    offsets: torch.dtype
    ahead: int = 2
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
    first, total = [0] * len(table.paths), 0
    for p in sorted(range(len(first)), key=lambda p: table.paths[p].l_edge):
        first[p] = total
        total += (2 * table.paths[p].l_in + 1) * (2 * table.paths[p].l_edge + 1)
    # Products read eight rows where a path may have fewer: least behind the one with most harmonics, which stands last.
    last = [start + 2 * p.l_in * (2 * p.l_edge + 1) for start, p in zip(first, table.paths, strict=True)]
    total = max(row + (8 if p.l_edge else 1) for row, p in zip(last, table.paths, strict=True))
    return _Rows(tuple(first), (total + 2) // 4 * 4 + 1)


def shared_bytes(table: PathTable, cut: Cut) -> int:
    return rows(table).total * cut.block * 4


def _times(value: float, name: str) -> str:
    return name if value == 1.0 else f"{float(np.float32(value))!r}f * {name}"


def _fill(table: PathTable) -> list[str]:
    """Lines that write G of one channel to ``at``."""
    where, lines = rows(table), []
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


def _load_ahead(place: int, order: list[int], ahead: int) -> list[str]:
    """Lines that ask for the coefficients that are needed ``ahead`` paths later, of the next 8 channels where these have no more."""
    then = place + ahead
    if then < len(order):
        return [f"load(c{then}, rows, {order[then]} * CHANNELS);"]
    turn = ["rows.next_channels();", "if (last) rows = Rows(table_at, next.rows, PATHS * CHANNELS, odd);"] if then == len(order) else []
    return [*turn, f"load(n{then - len(order)}, rows, {order[then - len(order)]} * CHANNELS);"]


def _degree(table: PathTable, degree: int, order: list[int], ahead: int) -> list[str]:
    """Lines for the paths of one degree of x, whose numbers have been read; ``order`` is that in which all paths are computed."""
    starts = {d: sum(2 * lower + 1 for lower in table.degrees_in if lower < d) for d in table.degrees_in}
    components, then = 2 * degree + 1, table.degrees_in.index(degree) + 1
    following = table.degrees_in[then % len(table.degrees_in)]
    where, first = rows(table), "true"
    lines = [f"float dx{degree}[{components}][4];"]
    if then < len(table.degrees_in):
        lines.append(f"float x{following}[{2 * following + 1}][4];")
        lines.append(f"load_inputs<{2 * following + 1}>(x{following}, inputs, {starts[following]} * CHANNELS, CHANNELS);")
    else:
        lines += ["inputs.next_channels();", "if (last) inputs = Inputs(x_at, next.atoms, COMPONENTS * CHANNELS);"]
        lines.append(f"load_inputs<{2 * following + 1}>(next_x, inputs, 0, CHANNELS);")
    for place, p in enumerate(order):
        l_edge, path = table.paths[p].l_edge, table.paths[p]
        if path.l_in != degree:
            continue
        lines += _load_ahead(place, order, ahead)
        g = f"{8 * where.first[p]}"
        if l_edge == 0:
            lines.append(f"add_scalar_path<{first}, {components}>(dx{degree}, dt, c{place}, x{degree}, t, odd, scalars + {g});")
        else:
            lines.append(
                f"add_path<{first}, {components}, {l_edge}>(dx{degree}, dt, sums{l_edge}, c{place}, x{degree}, y{l_edge}, t, odd, "
                f"by_harmonic + {g}, by_channel + {g});"
            )
        first = "false"
    if first == "true":
        lines.append(f"for (int i = 0; i < {4 * components}; i++) dx{degree}[i / 4][i % 4] = 0.0f;")
    store = f"store_inputs<{components}>(dx{degree}, dx_at + {starts[degree]} * CHANNELS, to, COMPONENTS * CHANNELS, CHANNELS);"
    return [*lines, f"if (NEED_X) {store}"]


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
  const int row = lane / 4, quarter = lane % 4;
  const bool odd = PAIRED && row % 2;
  const Quad *const table_at = table + channel + 2 * quarter;
  const float *const x_at = x + channel + 2 * quarter;
  parts += (size_t)blockIdx.y * (last_edge - first_edge) * FEATURES;

  // The numbers of the next 16 edges are asked for while these are computed, and what they lead to as soon as there is room.
  struct {{
    int own[2], atoms[2], rows[2];
  }} next;
  const auto ask = [&](int base) {{
    for (int e = 0; e < 2; e++) {{
      const int visit = min(base + row + 8 * e, end - 1);
      next.own[e] = order[visit], next.atoms[e] = (int)senders[visit], next.rows[e] = table_rows[visit];
    }}
  }};
  ask(start);
  Rows rows(table_at, next.rows, PATHS * CHANNELS, odd);
  Inputs inputs(x_at, next.atoms, COMPONENTS * CHANNELS);
  Coefficients {nexts};
  float next_x[{first_components}][4];
  {prologue}
  load_inputs<{first_components}>(next_x, inputs, 0, CHANNELS);

  {{  // G of the receiver; where channels are fewer than lanes, some are done twice
    const int c = lane % BLOCK;
    const float *const of_node = g + (size_t)node * (OUTPUTS * CHANNELS) + channel + c;
    float *const at = shared + c / 8 * (ROWS * 8) + c % 8;
    {read}
    {fill}
  }}
  wait_for_warp();
  for (int base = start; base < end; base += 16) {{
    float *dx_at = grad_edges + channel + 2 * quarter;
    const float *const edge = features + (size_t)next.own[0] * FEATURES, *const other = features + (size_t)next.own[1] * FEATURES;
    const float t[2] = {{edge[0], other[0]}};
    float dt[2] = {{0, 0}};
    int to[2];
    for (int e = 0; e < 2; e++) {{
      const bool here = base + row + 8 * e < end && next.own[e] >= first_edge && next.own[e] < last_edge;
      to[e] = here ? next.own[e] - first_edge : -1;
    }}
    {harmonics}
    ask(base + 16);
    const float *by_harmonic = shared + 8 * quarter + row, *by_channel = shared + 8 * row + 2 * quarter, *scalars = shared + 2 * quarter;
#pragma unroll 1
    for (int sub = 0; sub < BLOCK / 8; sub++) {{
      const bool last = sub == BLOCK / 8 - 1;
      Coefficients {names};
      float x{first_degree}[{first_components}][4];
      for (int i = 0; i < {first_components}; i++)
        for (int v = 0; v < 4; v++) x{first_degree}[i][v] = next_x[i][v];
      {body}
      dx_at += 8, by_harmonic += 8 * ROWS, by_channel += 8 * ROWS, scalars += 8 * ROWS;
    }}
    if (NEED_Y) {{
      {store}
    }}
  }}
}}
"""


@lru_cache(maxsize=256)
def source(table: PathTable, cut: Cut) -> str:
    """The text of the kernel ``backward`` of a table.

    Highest degrees first: they take most registers, and coefficients of the next channels are asked for while the last are computed.
    """
    order = sorted(range(len(table.paths)), key=lambda p: (table.paths[p].l_in, -table.paths[p].l_edge, table.paths[p].l_out))
    degrees = range(1, int(table.num_edge**0.5))
    ahead = min(cut.ahead, len(order))
    body = [line for degree in table.degrees_in for line in _degree(table, degree, order, ahead)]
    names = [f"c{place} = n{place}" if place < ahead else f"c{place}" for place in range(len(order))]
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
        read="\n    ".join(f"const float g{k} = of_node[{k} * CHANNELS];" for k in range(table.num_out)),
        fill="\n    ".join(_fill(table)),
        harmonics="\n    ".join(f"const Harmonics<{l}> y{l}(edge, other, quarter);\n    Sums sums{l};" for l in degrees),
        first_degree=table.degrees_in[0],
        first_components=2 * table.degrees_in[0] + 1,
        nexts=", ".join(f"n{place}" for place in range(ahead)),
        prologue="\n  ".join(f"load(n{place}, rows, {order[place]} * CHANNELS);" for place in range(ahead)),
        names=", ".join(names),
        body="\n      ".join(body),
        store="\n      ".join(store),
    )
    parts = [(_HERE / name).read_text() for name in ("primitives.cuh", "tabulated_convolution.cuh")]
    return f"{parts[0]}\n{_CUBICS[cut.table]}\n{parts[1]}{text}"
