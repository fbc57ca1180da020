"""Rows to one HTML file that needs nothing else: template, style, scripts, chart library and data inlined."""

import json
import re
from collections.abc import Hashable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from mosso.bench.compare import Contest, Ratio, contests, latest, machine, paired, ratio, same
from mosso.bench.page.results import Results
from mosso.bench.rows import Row
from mosso.bench.scores import score_of, score_of_shape, scores
from mosso.version import VERSION

FOLDER = files("mosso.bench.page")
# Library and licence, in the order in which they are needed; then the page's own scripts, which share one scope.
LIBRARIES = (("vendor/d3-7.9.0.min.js", "vendor/d3.LICENSE"), ("vendor/plot-0.6.17.min.js", "vendor/plot.LICENSE"))
SCRIPTS = ("state.js", "text.js", "labels.js", "charts.js", "sections.js", "panels.js", "table.js", "compare.js", "page.js")
# What a row whose check failed must not show.
TIMES = ("ms", "ms_p5", "ms_p95", "ms_low", "ms_high", "atoms_per_s", "ns_per_day", "limit_share", "first_call_s", "again_s")
DIGITS = 6  # of measured numbers; more would not be significant


def html(results: Results) -> str:
    """The page as one string."""
    libraries = "\n".join(f"/*\n{_text(licence)}*/\n{_text(library)}" for library, licence in LIBRARIES)
    parts = {
        "style": _text("page.css"),
        "libraries": libraries,
        "scripts": "\n".join(map(_text, SCRIPTS)),
        "data": embedded(document(results)),
    }
    # One pass, so that nothing in a part can be taken for a place.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _text("page.html"))


def embedded(data: Any) -> str:
    """JSON that may stand inside a script element: no string in it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def document(results: Results) -> dict[str, Any]:
    """All that the page shows. Rows are referred to by their place in ``rows``."""
    rows = results.rows
    place = {id(row): number for number, row in enumerate(rows)}
    environments: list[dict[str, Any]] = []
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": VERSION,
        "sets": list(results.sets),
        "rows": columns([entry | {"set": label} for label, own in results.sets.items() for entry in _entries(own, environments)]),
        "environments": environments,
        "same": _groups(map(same, rows)),
        "contests": {label: _contests(own, place) for label, own in {"": rows, **results.sets}.items()},
        "batched": [_ratio_of(single, many, place, scale=many.batch) for single, many in batched(rows)],
        "comparisons": [
            {"before": a, "after": b, "pairs": [_ratio_of(p.before, p.after, place) for p in paired(results.sets[a], results.sets[b])]}
            for a in results.sets
            for b in results.sets
            if a != b
        ],
        "profiles": [profile.model_dump() for profile in results.profiles],
        "scores": [{**score._asdict(), "cps": score.cps} for score in scores().values()],
        "published": json.loads(_text("published.json")),
    }


def _text(name: str) -> str:
    return FOLDER.joinpath(name).read_text(encoding="utf-8")


def _entries(rows: Sequence[Row], environments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the page wants them; machines and versions, which many share, are collected in ``environments``."""
    entries = []
    for row in rows:
        entry = row.model_dump(exclude={"schema_name", "hardware", "versions"}, exclude_none=True)
        environment = {"hardware": row.hardware.model_dump(exclude_none=True), "versions": row.versions}
        if environment not in environments:
            environments.append(environment)
        where, threads = machine(row)
        exact, of_shape = score_of(row), score_of_shape(row)
        more = {
            "where": where,
            "threads": threads,
            "environment": environments.index(environment),
            "series": series(row.system),
            "cps": exact.cps if exact else None,
            "cps_of_shape": of_shape.cps if of_shape else None,
        }
        hidden = () if row.status == "ok" else TIMES
        entries.append({name: _rounded(value) for name, value in entry.items() if name not in hidden} | more)
    return entries


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def columns(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Entries by field: one value each (``each``), or distinct values and their places (``of``, ``at``) where that is shorter.

    Fields that no entry has are left out; None stands for what an entry lacks.
    """
    names = dict.fromkeys(name for entry in entries for name in entry)
    found = {name: [entry.get(name) for entry in entries] for name in names}
    return {name: _column(values) for name, values in found.items() if any(value is not None for value in values)}


def _column(values: list[Any]) -> dict[str, list[Any]]:
    written = [json.dumps(value) for value in values]
    places = {text: place for place, text in enumerate(dict.fromkeys(written))}
    if len(places) > len(values) / 2:
        return {"each": values}
    return {"of": [json.loads(text) for text in places], "at": [places[text] for text in written]}


def series(system: str) -> str:
    """Systems that differ in size alone: the name up to its first digit."""
    return re.split(r"[-_ ]*\d", system, maxsplit=1)[0] or system


def batched(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """A single structure and a batch of as many atoms each, under otherwise equal conditions and from the same series."""

    def condition(row: Row) -> tuple[Any, ...]:
        return (row.model, row.package, row.backend, row.precision, row.tf32, row.weights, row.task, machine(row), series(row.system))

    timed = [row for row in latest(rows) if row.atoms is not None and row.ms is not None]
    single = {(condition(row), row.atoms): row for row in timed if row.batch == 1}
    pairs = [(single.get((condition(row), row.atoms // row.batch)), row) for row in timed if row.batch > 1 and not row.atoms % row.batch]
    return [(one, row) for one, row in pairs if one is not None]


def _groups(keys: Iterable[Hashable]) -> list[int]:
    """A number for each key, the same for equal ones."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _contests(rows: Sequence[Row], place: dict[int, int]) -> list[dict[str, Any]]:
    return [_contest(contest, place) for contest in contests(rows)]


def _contest(contest: Contest, place: dict[int, int]) -> dict[str, Any]:
    sides = {name: place[id(row)] for name, row in (("ours", contest.ours), ("peer", contest.peer)) if row is not None}
    return sides | _numbers(contest.ratio)


def _ratio_of(before: Row, after: Row, place: dict[int, int], scale: float = 1.0) -> dict[str, Any]:
    """A pair and how many times faster the second is; ``scale`` times that for ``scale`` times the work."""
    return {"before": place[id(before)], "after": place[id(after)]} | _numbers(ratio(before, after), scale)


def _numbers(found: Ratio | None, scale: float = 1.0) -> dict[str, Any]:
    if found is None:
        return {}
    numbers = {"ratio": found.value * scale, "verdict": found.verdict}
    if found.low is None or found.high is None:
        return numbers
    return numbers | {"low": found.low * scale, "high": found.high * scale}
