"""Rows as short tables for the terminal, and the names one can choose from."""

from collections.abc import Iterable

from mosso.bench.matrix import Matrix
from mosso.bench.presets import PRESETS
from mosso.bench.rows import Row
from mosso.bench.systems import DHFR


def lines(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """One line for every row with a result, the fastest of a comparison first."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.status == "ok":
            groups.setdefault((row.model, _system(row), row.task, row.precision), []).append(row)
    found = []
    for group, members in groups.items():
        best = min((row.ms for row in members if row.ms is not None), default=None)
        for row in sorted(members, key=lambda row: row.ms or 0.0):
            ratio = "" if row.ms is None or best is None else f"{row.ms / best:.2f}"
            found.append((*group, _who(row), _result(row), _interval(row), _number(row.error_forces_relative, ".1e"), ratio))
    return found


def troubles(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """One line for every row without a result."""
    return [
        (row.model, _system(row), f"{row.task}, {row.precision}", _who(row), f"{row.status}: {row.reason}")
        for row in rows
        if row.status != "ok"
    ]


def choices() -> dict[str, dict[str, str]]:
    """Presets, models, systems and packages, with a few words on each."""
    matrix = Matrix()
    systems = {name: system.note for name, system in matrix.systems.items()}
    return {
        "presets": {name: preset.note for name, preset in PRESETS.items()},
        "models": {name: f"{m.architecture}: {', '.join(c.package for c in m.competitors)}" for name, m in matrix.models.items()},
        "systems": systems | {DHFR: f"protein in water, 23,558 atoms: --structure {DHFR}=FILE"},
        "packages": {package: ", ".join(_backends(matrix, package)) for package in matrix.packages},
    }


def _backends(matrix: Matrix, package: str) -> Iterable[str]:
    of_package = (c for model in matrix.models.values() for c in model.competitors if c.package == package)
    return dict.fromkeys(backend for c in of_package for backend in (*c.backends, *c.further))


def _system(row: Row) -> str:
    return row.system if row.batch == 1 else f"{row.system} x {row.batch}"


def _who(row: Row) -> str:
    return f"{row.package}, {row.backend}"


def _result(row: Row) -> str:
    if row.task == "startup":
        return f"{sum(filter(None, (row.start_s, row.load_s, row.first_call_s))):.1f} s"
    if row.task == "largest":
        return f"{row.atoms} atoms"
    return _number(row.ms, ".4g")


def _interval(row: Row) -> str:
    return "" if row.ms_low is None or row.ms_high is None else f"{row.ms_low:.4g} - {row.ms_high:.4g}"


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else f"{value:{form}}"
