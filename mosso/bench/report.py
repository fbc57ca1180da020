"""Rows of the benchmark as Markdown tables. A row whose errors exceed its bars shows them and no time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mosso.bench.cases import TARGETS

Row = dict[str, Any]


def passes(row: Row) -> bool:
    """Whether a row has a time, and errors within its bars."""
    return "ms" in row and all(row["errors"][name] <= row["bars"][name] for name in row["errors"])


def best(rows: Iterable[Row]) -> Row | None:
    """The fastest of the rows that pass."""
    return min((row for row in rows if passes(row)), key=lambda row: row["ms"], default=None)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *lines))


def number(value: float | None) -> str:
    """Three significant digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def time_of(row: Row | None, *, named: bool = False) -> str:
    """Milliseconds, with who took them where asked."""
    if row is None:
        return "-"
    return f"{number(row['ms'])} ({row['name']})" if named else number(row["ms"])


def show(rows: Sequence[Row]) -> str:
    """All tables of a file of rows."""
    return "\n\n".join([_machine(rows), comparison(rows), details(rows), others(rows)])


def _machine(rows: Sequence[Row]) -> str:
    """What the rows were measured on."""
    names = ("gpu", "driver", "torch", "triton", "commit", "source")
    found = {", ".join(f"{name} {row[name]}" for name in names if row.get(name)) for row in rows}
    return "\n".join(sorted(found))


class Cell(NamedTuple):
    """One model and system: the fastest rows that pass, E+F and E+F+S."""

    peer: Row | None
    peer_stress: Row | None
    ours: Row | None
    ours_stress: Row | None

    @staticmethod
    def of(rows: Sequence[Row], precision: str) -> "Cell":
        own = [row for row in rows if row["side"] == "mosso" and row["precision"] == precision]
        peer = [row for row in rows if row["side"] != "mosso"]
        return Cell(*(best(row for row in side if row["stress"] == stress) for side in (peer, own) for stress in (False, True)))


COMPARISON = (
    "model", "system", "atoms", "edges", "peer E+F", "peer E+F+S", "ours E+F", "ours E+F+S", "ours with list", "must", "aim",
    "ratio E+F", "ratio E+F+S", "GB peer, ours", "force error peer, ours",
)  # fmt: skip


def comparison(rows: Sequence[Row], precision: str = "fp32") -> str:
    """Per model and system the fastest of the peer and of ours, milliseconds per call with the graph given unless said."""
    steps = [row for row in rows if row["kind"] == "step" and "atoms" in row]
    keys = dict.fromkeys((row["model"], row["system"], row["atoms"], row["edges"]) for row in steps)
    return markdown(
        COMPARISON, [_comparison_line(key, [r for r in steps if (r["model"], r["system"]) == key[:2]], precision) for key in keys]
    )


def _comparison_line(key: tuple[Any, ...], rows: Sequence[Row], precision: str) -> tuple[str, ...]:
    cell, target = Cell.of(rows, precision), TARGETS.get(key[:2])
    return (
        *map(str, key),
        time_of(cell.peer, named=True),
        time_of(cell.peer_stress, named=True),
        time_of(cell.ours),
        time_of(cell.ours_stress),
        entry(cell.ours, "ms_with_list"),
        number(target.must) if target else "",
        number(target.aim) if target else "",
        _ratio(cell.peer, cell.ours),
        _ratio(cell.peer_stress, cell.ours_stress),
        f"{entry(cell.peer, 'peak_GB')}, {entry(cell.ours, 'peak_GB')}",
        f"{_force_error(cell.peer)}, {_force_error(cell.ours)}",
    )


def entry(row: Row | None, name: str) -> str:
    """A number of a row; ``-`` where there is none."""
    return number(row[name]) if row and name in row else "-"


def _ratio(peer: Row | None, ours: Row | None) -> str:
    return number(peer["ms"] / ours["ms"]) if peer and ours else ""


def _force_error(row: Row | None) -> str:
    return f"{row['errors']['forces']:.1e}" if row else "-"


DETAILS = (
    "model", "system", "side", "name", "policy", "E+F", "E+F+S", "back to back", "with list", "GB",
    "errors E, F, S (bars)", "remark",
)  # fmt: skip


def details(rows: Sequence[Row]) -> str:
    """Every measurement of a step."""
    names = ("model", "system", "side", "name", "precision")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] == "step":
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return markdown(DETAILS, [(*key, *_details_of(group)) for key, group in groups.items()])


def _details_of(group: Sequence[Row]) -> Iterator[str]:
    last: dict[bool, Row] = {row["stress"]: row for row in group}
    plain, most = last.get(False), last.get(True) or last[False]
    yield _time_or_refusal(plain)
    yield _time_or_refusal(last.get(True))
    for name in ("ms_back_to_back", "ms_with_list", "peak_GB"):
        yield entry(plain, name)
    errors = most.get("errors", {})
    yield ", ".join(f"{error:.1e} ({most['bars'][name]:.1e})" for name, error in errors.items())
    yield "; ".join(dict.fromkeys(row["error"][:60] for row in group if "error" in row))


def _time_or_refusal(row: Row | None) -> str:
    if row is None or "ms" not in row:
        return "-"
    return time_of(row) if passes(row) else "refused"


def others(rows: Sequence[Row]) -> str:
    """The largest water box, dynamics (lists, log and trajectory included), full calls of a calculator, and what failed."""
    header = ("what", "side", "name", "system", "atoms", "ms", "steps/s", "GB", "remark")
    lines = [
        (
            row["kind"],
            row["side"],
            row["name"],
            row.get("system", ""),
            *(entry(row, n) for n in ("atoms", "ms", "steps_per_s", "peak_GB")),
            row.get("error", ""),
        )
        for row in rows
        if row["kind"] in ("largest", "md", "calculator", "failure")
    ]
    return markdown(header, lines)
