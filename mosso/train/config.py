"""TrainConfig: everything that decides a training run, read from one file and checked before anything is computed."""

import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Where the labelled structures are and how they are split."""

    path: Path  # .npz or .extxyz; relative to the recipe
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of the tasks of every group
    split_seed: int = 0
    split_by: str = "task"  # npz only: the array of whole numbers whose equal values stay together
    energy_key: str = "energy"  # extxyz only
    forces_key: str = "forces"  # extxyz only


def _species(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < 1:
        raise ValueError("species are atomic numbers in ascending order, each once")
    return numbers


class ModelConfig(_Section):
    """Which architecture, and what the architecture itself asks for."""

    architecture: str = "mace"
    species: Annotated[tuple[int, ...], AfterValidator(_species)]
    cutoff: Positive  # Angstrom
    # "zero" keeps the energy of an isolated atom at exactly E0; "mean" starts nearer to the data.
    shift: Literal["zero", "mean"] = "zero"
    options: dict[str, Any] = {}  # fields of the architecture's specification


class OptimizerConfig(_Section):
    """AdamW, linear warm-up and cosine decay, clipping, moving average."""

    learning_rate: Positive = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    final_factor: Fraction = 0.01  # learning rate at the last step over the peak
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    amsgrad: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_on: tuple[str, ...] = ("interactions.*.linear.weight", "products.*")  # patterns of parameter names
    clip_norm: Positive = 10.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999


class Stage(_Section):
    """Loss weights from a fraction of the run onwards."""

    start: Annotated[float, Field(ge=0, lt=1)] = 0.0
    energy: Annotated[float, Field(ge=0)]
    forces: Annotated[float, Field(ge=0)]


class LossConfig(_Section):
    """Kind of loss and its weights."""

    kind: Literal["huber", "mse", "l2"] = "huber"
    huber_delta: Positive = 0.01  # eV/atom and eV/A
    stages: tuple[Stage, ...] = (Stage(energy=1.0, forces=10.0),)

    @model_validator(mode="after")
    def _ordered(self) -> "LossConfig":
        starts = [stage.start for stage in self.stages]
        if not starts or starts[0] != 0 or any(b <= a for a, b in zip(starts, starts[1:], strict=False)):
            raise ValueError("stages start at 0 and their `start` fractions ascend")
        return self

    def stage(self, step: int, max_steps: int) -> Stage:
        """The stage that step ``step`` of ``max_steps`` belongs to."""
        return [stage for stage in self.stages if step >= math.ceil(stage.start * max_steps)][-1]


class RunConfig(_Section):
    """What may differ between the pieces of one run: none of it changes the weights that come out."""

    device: str = "auto"
    minutes: Positive | None = None  # time budget of one piece, start-up included
    log_every: Annotated[int, Field(gt=0)] = 50
    validate_every: Annotated[int, Field(gt=0)] = 1000
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 2.0
    max_bad_steps: Annotated[int, Field(gt=0)] = 10  # steps in a row without a finite gradient before giving up


class TrainConfig(_Section):
    """A whole training run. Energies in eV, lengths in Angstrom."""

    data: DataConfig
    model: ModelConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    run: RunConfig = RunConfig()
    seed: int = 0
    precision: str = "fp32"
    max_edges: Annotated[int, Field(gt=0)] = 60_000  # per batch
    max_steps: Annotated[int, Field(gt=0)]

    @staticmethod
    def read(path: Path | str) -> "TrainConfig":
        """The configuration in a YAML, TOML or JSON file; the data path in it is relative to the file."""
        path = Path(path)
        try:
            config = TrainConfig.model_validate(_parse(path))
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
            raise ValueError("\n".join([f"{path} is not a valid training recipe:", *lines])) from None
        data = config.data.model_copy(update={"path": (path.parent / config.data.path).resolve()})
        return config.model_copy(update={"data": data})

    def piece(self, **changes: Any) -> "TrainConfig":
        """The same training with other ``run`` settings, for example ``minutes=8``."""
        return self.model_copy(update={"run": RunConfig.model_validate({**self.run.model_dump(), **changes})})

    def identity(self) -> dict[str, Any]:
        """What two pieces of one run must share, as plain JSON data.

        The place of the data may change (its content may not), and so may ``max_steps``: that only bends the rest of the schedule.
        """
        plain = self.model_dump(mode="json", exclude={"run": True, "max_steps": True, "data": {"path"}})
        return json.loads(json.dumps(plain))

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of the settings in which ``other``, an ``identity()``, differs from this one."""
        mine = _flatten(self.identity())
        theirs = _flatten(other)
        return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


def _parse(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"There is no training recipe at {path}.")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        return tomllib.loads(text)
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{path} is not a training recipe: expected .yaml, .toml or .json.")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None


def _flatten(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {name: tree}
    return {key: value for k, v in tree.items() for key, value in _flatten(v, f"{name}.{k}" if name else str(k)).items()}


def digest(*arrays: Any) -> str:
    """A short fingerprint of numpy arrays, to notice when the data changed under a run."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(str((array.dtype.str, array.shape)).encode())
        state.update(array.tobytes())
    return state.hexdigest()[:16]
