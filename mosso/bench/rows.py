"""A measurement as one JSON line: what every field means, and how files of them are written and read."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Schema = Literal["mosso-bench/1"]
SCHEMA: Schema = "mosso-bench/1"
Task = Literal["forces", "stress", "forces+list", "stress+list", "list", "md", "md-ase", "largest", "startup"]
Status = Literal["ok", "refused", "unsupported", "error"]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class Hardware(BaseModel):
    """Where a row was measured; None is what the machine does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"]
    gpu: str | None = None
    driver: str | None = None
    cpu: str | None = None
    threads: int | None = None


class Row(BaseModel):
    """One competitor at one task. What cannot be known is None and shown as n/a.

    Attributes:
        status: ``ok``; ``refused``, errors beyond the tolerance, so there is no time; ``unsupported``, the package cannot do this;
            ``error``, it should have but failed. ``reason`` says more for all but ``ok``.
        task: ``forces`` (energy and forces, edges given), ``stress`` (with stress), either with ``+list`` (search included);
            ``list`` (the search alone); ``md`` (a step of dynamics by the package's own engine, list and output included),
            ``md-ase`` (by ASE); ``largest`` (atoms of the largest box that fits); ``startup`` (a fresh process to its first result).
        model, architecture: name in the matrix, and family (``MACE``).
        package, backend: competitor, and which of its implementations.
        weights, weights_sha256, parameters: ``official``, ``random`` or ``file``; of the file; number of them.
        precision, tf32: named policy; whether the package's products are rounded to TF32 (None off CUDA).
        system, atoms, edges, batch: what was evaluated; atoms and edges of the whole batch, ``batch`` structures.
        ms, ms_p5, ms_p95: milliseconds of one call (of one step for dynamics): median and spread over all calls.
        ms_low, ms_high: bootstrap interval of the median, 95 %.
        calls, rounds, warm_up: how many were timed, in how many turns, after how many that were not.
        timestep_fs: of dynamics.
        atoms_per_s, ns_per_day: throughput; nanoseconds a day at 1 fs a step.
        peak_memory_GB, memory_of: largest memory of one call (1e9 bytes), of the ``device`` (tensors) or the whole ``process``.
        start_s, load_s, first_call_s: seconds until the interpreter has imported the package, the model is loaded, the first
            result is there (compilation included). The former two of ``startup`` only, where the process is alone.
        again_s: of ``startup``: all three of a second process, which finds what the first has compiled.
        error_energy: largest over structures, eV/atom. error_energy_relative: the same over the energy itself. error_forces: root
            mean square over atoms, eV/A. error_forces_relative: the same over that of the forces. error_stress: largest
            component, eV/A^3. All of this very configuration against ``truth``.
        truth, tolerance: which numbers these are errors of; name of the tolerance they have to pass. A truth that ends in ``itself``
            is this very configuration, and the errors are None.
        gflops, gbytes, limit_share: counted work of one call, and the least time it can take over the time it took.
        clock_MHz, temperature_C: of the GPU, before and after.
        command: what to run for this row. commit, source: of mosso ("-dirty": with changes), the latter a hash of its files as they ran.
        started: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_name: Schema = SCHEMA
    status: Status
    reason: str | None = None
    task: Task
    model: str
    architecture: str
    package: str
    backend: str
    weights: Literal["official", "random", "file"] | None = None
    weights_sha256: str | None = None
    parameters: Count | None = None
    precision: str
    tf32: bool | None = None
    system: str
    atoms: Count | None = None
    edges: Count | None = None
    batch: int = 1
    ms: Amount | None = None
    ms_p5: Amount | None = None
    ms_p95: Amount | None = None
    ms_low: Amount | None = None
    ms_high: Amount | None = None
    calls: Count | None = None
    rounds: Count | None = None
    warm_up: int | None = None
    timestep_fs: Amount | None = None
    atoms_per_s: Amount | None = None
    ns_per_day: Amount | None = None
    peak_memory_GB: Amount | None = None
    memory_of: Literal["device", "process"] | None = None
    start_s: Amount | None = None
    load_s: Amount | None = None
    first_call_s: Amount | None = None
    again_s: Amount | None = None
    error_energy: float | None = None
    error_energy_relative: float | None = None
    error_forces: float | None = None
    error_forces_relative: float | None = None
    error_stress: float | None = None
    truth: str | None = None
    tolerance: str | None = None
    gflops: float | None = None
    gbytes: float | None = None
    limit_share: float | None = None
    clock_MHz: tuple[float, float] | None = None
    temperature_C: tuple[float, float] | None = None
    hardware: Hardware
    versions: dict[str, str]
    commit: str | None = None
    source: str | None = None
    command: str
    started: str

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows measurements of the same thing."""
        where = self.hardware.gpu or self.hardware.cpu or self.hardware.device
        return (self.model, self.package, self.backend, self.precision, self.task, self.system, str(self.batch), where)

    @property
    def short_commit(self) -> str | None:
        """For reading."""
        return self.commit and self.commit[:10] + "-dirty" * self.commit.endswith("-dirty")


def append_row(path: Path, row: Row) -> None:
    """One more line, written out at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write(row.model_dump_json() + "\n")


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """All rows of files of them.

    Raises:
        ValueError: a line is not a row of this schema; says which file and line, and what to do.
    """
    return [row for path in paths for row in _rows_of(path)]


def _rows_of(path: Path) -> Iterator[Row]:
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {count}: not JSON ({error.msg}); delete the line, or measure again.") from None
        schema = fields.get("schema_name") if isinstance(fields, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path}, line {count}: its schema is {schema!r} and this mosso reads {SCHEMA!r}; measure again.")
        try:
            row = Row.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}, line {count}: {where}: {first['msg']}; delete the line, or measure again.") from None
        timed = row.status == "ok" and row.task not in ("largest", "startup")
        if timed != (row.ms is not None):
            raise ValueError(
                f"{path}, line {count}: a row of {row.task} whose status is {row.status} has {'a' if timed else 'no'} time of a call, ms; "
                "delete the line, or measure again."
            )
        yield row
