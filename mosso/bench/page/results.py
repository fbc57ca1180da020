"""What a report is made of: files of rows and of profiles, read and checked."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mosso.bench.rows import Row, read_rows

SCHEMA = "mosso-profile/2"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Block(_Part):
    """A part of a model: milliseconds of one call on the device and on the host, and kernels launched."""

    block: str
    device_ms: float | None = None
    host_ms: float | None = None
    launches: float | None = None


class Kernel(_Part):
    """A kernel (an op on the CPU) without those it calls: microseconds and launches in one call, share of all."""

    kernel: str
    us: float
    launches: float | None = None
    share: float | None = None


class Profile(_Part):
    """Where the time of one configuration goes, as ``mosso profile`` writes it; more fields than these are passed over."""

    blocks: list[Block]
    verdict: str
    kernels: list[Kernel] = []
    model: str | None = None
    system: str | None = None
    package: str | None = None
    backend: str | None = None
    precision: str | None = None
    device: str | None = None
    gpu: str | None = None
    mode: str | None = None
    atoms: int | None = None
    edges: int | None = None
    launches: float | None = None
    wall_ms: float | None = None
    gap_ms: float | None = None
    gflops: float | None = None
    gbytes: float | None = None
    limit_share: float | None = None
    notes: list[str] = []


@dataclass(frozen=True)
class Results:
    """Rows by the label of their file, in the order given, and profiles."""

    sets: dict[str, list[Row]]
    profiles: list[Profile]

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for rows in self.sets.values() for row in rows]


def read_results(paths: Sequence[Path]) -> Results:
    """Files of rows (JSON lines) and of profiles (``.json``).

    Raises:
        ValueError: a file is not what it should be (says which, where, and what to do), or there is no row in any of them.
    """
    of_rows = [path for path in paths if path.suffix != ".json"]
    sets = {label: _rows(path) for label, path in zip(labels(of_rows), of_rows, strict=True)}
    results = Results(sets, [_profile(path) for path in paths if path.suffix == ".json"])
    if not results.rows:
        where = ", ".join(map(str, of_rows)) or "the files given"
        raise ValueError(f"There are no rows in {where}, so there is nothing to report: measure with `mosso bench -o results.jsonl` first.")
    return results


def labels(paths: Sequence[Path]) -> list[str]:
    """File names without ending; with as much of the folder as tells them apart. A file given twice is refused."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("A results file is given twice; give each one once.")
    for depth in range(1, max((len(path.resolve().parts) for path in paths), default=1) + 1):
        names = ["/".join(path.resolve().with_suffix("").parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # the same name with different endings


def _rows(path: Path) -> list[Row]:
    try:
        return read_rows([path])
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file; give the JSON lines that `mosso bench` wrote.") from None


def _profile(path: Path) -> Profile:
    remedy = "give what `mosso profile` wrote, or leave the file out"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        schema = fields.get("schema_name") if isinstance(fields, dict) else None
        if schema != SCHEMA:
            raise ValueError(f"{path}: its schema is {schema!r} and this mosso reads {SCHEMA!r}; {remedy}.")
        return Profile.model_validate(fields)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); {remedy}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: not a profile ({'.'.join(map(str, first['loc']))}: {first['msg']}); {remedy}.") from None
