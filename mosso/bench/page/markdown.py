"""Rows as Markdown tables: ours against the fastest peer, and what has no time; or one short table, for a README."""

from collections.abc import Sequence
from typing import Any

from mosso.bench.cases import TARGETS
from mosso.bench.compare import OURS, Contest, Ratio, contests, latest, machine
from mosso.bench.markdown import markdown
from mosso.bench.page.results import Results
from mosso.bench.rows import Row

NONE = "n/a"
TASKS = {
    "forces": "E+F", "stress": "E+F+S", "forces+list": "E+F, list", "stress+list": "E+F+S, list", "list": "list",
    "md": "MD step", "md-ase": "MD step by ASE", "largest": "largest system", "startup": "start-up",
}  # fmt: skip
HEADER = (
    "model", "system", "atoms", "task", "precision", "weights", "mosso, ms", "fastest peer, ms", "peer", "mosso is",
    "GB, mosso / peer", "force error, mosso / peer (eV/A)",
)  # fmt: skip
AIMED = "must / aim, ms"  # a column where there are such times
SINGLES = ("model", "package", "precision", "largest box of water, atoms", "start to first result, s", "the next time, s")
SHORT = ("model", "system", "task", "mosso, ms", "fastest peer, ms", "peer", "mosso is")


def tables(results: Results) -> str:
    """Times, what is no time of a call, what has none and why, and a line about where the numbers are from."""
    rows = latest(results.rows)
    parts = [_contests(contests(results.rows)), _notes(rows)]
    if singles := _singles(rows):
        parts += [markdown(SINGLES, singles)]
    if reasons := _reasons(rows):
        parts += ["Without a time:", markdown(("model", "package", "precision", "system", "task", "why"), reasons)]
    return "\n\n".join(parts) + "\n"


def short(results: Results) -> str:
    """Where ours and a peer did the same: a line each, lost ones included.

    Ours without a time beside a peer that has one is a line too, with its status.
    """
    rows = latest(results.rows)
    found = [contest for contest in contests(results.rows) if contest.peer and (contest.ours or _tried(contest, rows))]
    return "\n\n".join([markdown(SHORT, [_short_line(contest, rows) for contest in found]), _notes(rows)]) + "\n"


def _place(row: Row) -> tuple[Any, ...]:
    return row.model, row.system, row.batch, row.precision, machine(row)


def _tried(contest: Contest, rows: Sequence[Row]) -> Row | None:
    """Ours without a time where the peer has one."""
    place = (*_place(contest.either), contest.either.task)
    return next((row for row in rows if row.package == OURS and row.status != "ok" and (*_place(row), row.task) == place), None)


def _short_line(contest: Contest, rows: Sequence[Row]) -> tuple[str, ...]:
    row, peer, tried = contest.either, contest.peer, _tried(contest, rows)
    assert peer is not None
    lost = f"**no time: {tried.status}**" if tried else NONE
    return (
        _plain(row.model),
        _system(row),
        TASKS[row.task] + ("" if row.precision == "fp32" else f", {_plain(row.precision)}"),
        number(contest.ours.ms) if contest.ours else NONE,
        number(peer.ms),
        f"{_plain(peer.package)}, {_plain(peer.backend)}",
        _verdict(contest.ratio) if contest.ours else lost,
    )


def _contests(found: Sequence[Contest]) -> str:
    """With the times aimed at behind ours, where any of these has one."""
    targets = [_target(contest.either) for contest in found]
    if not any(targets):
        return markdown(HEADER, map(_line, found))
    behind = HEADER.index("mosso, ms") + 1
    lines = [(line[:behind], target, line[behind:]) for line, target in zip(map(_line, found), targets, strict=True)]
    return markdown((*HEADER[:behind], AIMED, *HEADER[behind:]), [(*before, target, *after) for before, target, after in lines])


def _target(row: Row) -> str:
    there = (row.precision, row.hardware.device) == ("fp32", "cuda")
    target = TARGETS.get((row.model, row.system, row.batch, row.task)) if there else None
    return f"{target.must:g} / {target.aim:g}" if target else ""


def number(value: float | None) -> str:
    """Three significant digits; ``n/a`` for what is not known."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:#.3g}".rstrip(".")


def _line(contest: Contest) -> tuple[str, ...]:
    row, ours, peer = contest.either, contest.ours, contest.peer
    return (
        _plain(row.model),
        _system(row),
        NONE if row.atoms is None else f"{row.atoms:,}",
        TASKS[row.task],
        _both(_precision(ours), _precision(peer)),
        _both(_weights(ours), _weights(peer)),
        _time(ours),
        _time(peer),
        f"{_plain(peer.package)}, {_plain(peer.backend)}" if peer else "none",
        _verdict(contest.ratio),
        f"{_memory(ours)} / {_memory(peer)}",
        f"{_error(ours)} / {_error(peer)}",
    )


def _system(row: Row) -> str:
    return _plain(row.system) + (f", batch of {row.batch}" if row.batch > 1 else "")


def _both(ours: str | None, peer: str | None) -> str:
    """One word where the sides agree, both where they do not."""
    present = list(dict.fromkeys(side for side in (ours, peer) if side is not None))
    return present[0] if len(present) == 1 else f"{ours} / {peer}"


def _precision(row: Row | None) -> str | None:
    if row is None:
        return None
    state = "" if row.tf32 is None else ", TF32 on" if row.tf32 else ", TF32 off"
    return _plain(row.precision) + state


def _weights(row: Row | None) -> str | None:
    return None if row is None else row.weights or NONE


def _time(row: Row | None) -> str:
    if row is None:
        return NONE
    interval = "" if row.ms_low is None or row.ms_high is None else f" ({number(row.ms_low)} to {number(row.ms_high)})"
    return number(row.ms) + interval


def _memory(row: Row | None) -> str:
    return NONE if row is None else number(row.peak_memory_GB)


def _error(row: Row | None) -> str:
    if row is None or row.error_forces is None:
        return NONE
    return f"{row.error_forces:.1e} against {_plain(row.truth or 'an unnamed truth')}"


def _verdict(found: Ratio | None) -> str:
    """``12.3 (11.9 to 12.8) times faster``; what is within chance is called so."""
    if found is None:
        return NONE
    if found.verdict == "slower":
        return f"**{_times(Ratio(1 / found.value, 1 / (found.high or 1), 1 / (found.low or 1)))} times slower**"
    word = {"faster": "times faster", "no difference": "times as fast: no difference", "no interval": "times as fast (no interval)"}
    return f"{_times(found)} {word[found.verdict]}"


def _times(found: Ratio) -> str:
    interval = "" if found.low is None or found.high is None else f" ({number(found.low)} to {number(found.high)})"
    return number(found.value) + interval


def _notes(rows: Sequence[Row]) -> str:
    where = sorted({_machine(row) for row in rows if row.status == "ok"} or {row.key[-1] for row in rows})
    commits = sorted({row.short_commit for row in rows if row.short_commit})
    days = sorted({row.started[:10] for row in rows})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    made = f"; mosso at {', '.join(commits)}" if commits else ""
    return (
        f"Median milliseconds of one call with its interval of 95 %, on {_plain(', '.join(where))}; {span}{made}. The peer is the fastest "
        "one that passed its check at the same precision policy. E: energy, F: forces, S: stress; list: neighbour search included."
    )


def _machine(row: Row) -> str:
    name, threads = machine(row)
    return name if threads is None else f"{name} ({threads} thread{'s' if threads > 1 else ''})"


def _singles(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """How large a system can be, and how long the first answer takes."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        values = {"largest": row.atoms, "startup": _start(row)}
        if row.status == "ok" and row.task in values:
            found.setdefault(_who(row), {})[row.task] = number(values[row.task])
            if row.task == "startup":
                found[_who(row)]["again"] = number(row.again_s)
    return [(*who, *(cells.get(one, NONE) for one in ("largest", "startup", "again"))) for who, cells in found.items()]


def _start(row: Row) -> float | None:
    return None if row.first_call_s is None else (row.start_s or 0.0) + (row.load_s or 0.0) + row.first_call_s


def _reasons(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Rows without a time; those of one configuration with the same reason in one line."""
    found: dict[tuple[tuple[str, ...], str], list[Row]] = {}
    for row in rows:
        if row.status != "ok":
            errors = f"; force error {row.error_forces:.1e} eV/A" if row.status == "refused" and row.error_forces is not None else ""
            found.setdefault((_who(row), _plain(f"{row.status}: {row.reason or NONE}{errors}")), []).append(row)
    return [
        (*who, ", ".join(dict.fromkeys(map(_system, group))), "; ".join(dict.fromkeys(TASKS[row.task] for row in group)), why)
        for (who, why), group in found.items()
    ]


def _who(row: Row) -> tuple[str, str, str]:
    return _plain(row.model), f"{_plain(row.package)}, {_plain(row.backend)}", _precision(row) or NONE


def _plain(text: str) -> str:
    """Text that cannot break a table or become markup."""
    one_line = " ".join(text.split())
    for sign in "\\|<>`*_[]":
        one_line = one_line.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return one_line
