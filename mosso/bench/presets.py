"""Named blocks of the matrix, and the file in which users write their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mosso.bench.matrix import MODELS, PRECISIONS, TASKS, Block, Competitor, Matrix, Model, Precision, Protocol, require
from mosso.bench.rows import Task
from mosso.bench.systems import DHFR, DIAMOND, MOLECULES, SYSTEMS, WATER, from_files

PROTOCOL = Protocol()
# What a row of a table is about, and what one of each is called.
CHOOSING = {"models": "model", "systems": "system", "batches": "batch of", "tasks": "task"}


@dataclass(frozen=True)
class Preset:
    """A name for blocks and a protocol.

    Attributes:
        note: what it is for, in a line.
        table: whether its rows are settled: models, systems, batches and tasks that are asked for choose among them, where otherwise
            they stand in the place of those of every block.
    """

    note: str
    blocks: tuple[Block, ...]
    protocol: Protocol = PROTOCOL
    table: bool = False


ALL = tuple(MODELS)
ORGANIC = ("mosso-xtb-s",)
MACE = ("mace-mp0-medium", "mace-mp0-large")
MATERIALS = tuple(name for name in ALL if name not in ORGANIC)
FAST: tuple[Precision, ...] = ("fp32", "tf32")
STEPS: tuple[Task, ...] = ("forces", "stress")
LISTS: tuple[Task, ...] = ("forces+list", "stress+list", "list")
# One of every family, for machines without a GPU.
SMALL = (
    "mace-mp0-medium", "nequip-oam-s", "allegro-s", "orb-v3-direct-20", "orb-v3-conservative-20", "7net-0", "uma-s", "esen-sm",
    "allscaip-md", "pet-mad-s", "equiformer-v3",
)  # fmt: skip
# In the table of MACE: mosso as it is and without tables, mace-torch as it is (it does not hold more than some thousand atoms), with
# cuEquivariance, and with that compiled into CUDA graphs, the fastest on an H200 (twice the memory: not for the largest). The large shape
# is beyond the accuracy of cuEquivariance. The search for neighbours of 98,304 atoms takes mace-torch half a minute a call.
OURS, E3NN, CUEQ = ("auto", "stock"), "e3nn", ("cueq", "cueq-graphs")
HUGE, OEQ = ("cueq", "cueq-compiled"), ("oeq", "oeq-compiled")
LISTED: tuple[Task, ...] = (*STEPS, "stress+list")
MEDIUM, LARGE = MACE[:1], MACE[1:]
WATERS = ("W192", "W648", "W1536", "W5184")

PRESETS: dict[str, Preset] = {
    "default": Preset(
        "the whole matrix on a GPU: crystals, water, molecules, batches, lists, dynamics, start-up",
        (
            Block(models=MATERIALS, systems=("Cu64",), batches=(1, 16), tasks=STEPS, precisions=FAST),
            Block(models=MATERIALS, systems=("C1000", "W648"), tasks=STEPS, precisions=FAST),
            Block(models=MATERIALS, systems=(*DIAMOND, *WATERS), tasks=STEPS),
            Block(models=MATERIALS, systems=("mixed",), batches=(32,), tasks=STEPS),
            Block(models=ALL, systems=tuple(MOLECULES), batches=(1, 64)),
            Block(models=ORGANIC, systems=WATERS, tasks=STEPS, precisions=FAST),
            Block(models=MATERIALS, systems=("Cu64", "W648"), tasks=LISTS),
            Block(models=ALL, systems=("W648",), tasks=("md", "md-ase")),
            Block(models=MATERIALS, systems=("Cu64",), tasks=("startup",)),
            Block(models=MATERIALS, systems=(DHFR,), tasks=("forces", "md")),
        ),
    ),
    "cpu": Preset(
        "small systems, one model of every family; what runs where there is no GPU",
        (
            Block(models=(*ORGANIC, *SMALL), systems=("C8", "W24"), tasks=STEPS),
            Block(models=(*ORGANIC, *SMALL), systems=("chain25",)),
            Block(models=SMALL, systems=("Cu64",), batches=(1, 4)),
            Block(models=(*ORGANIC, *SMALL), systems=("W24",), tasks=("forces+list", "list", "md", "md-ase", "startup")),
        ),
        Protocol(warm_up=2, rounds=3, seconds=3.0, md_steps=20),
    ),
    "mlip-inference": Preset(
        "the protocol of the MLIP Inference page, copper only, with atoms that move and copies that differ",
        (Block(models=MATERIALS, systems=("Cu64",), batches=(1, 16), tasks=STEPS, precisions=FAST),),
        Protocol(warm_up=10, rounds=5, calls=100),
    ),
    "water-scaling": Preset(
        "water from 24 to 5184 atoms",
        (Block(models=ALL, systems=tuple(WATER), tasks=STEPS, precisions=FAST),),
    ),
    "largest": Preset(
        "the largest box of water that fits on a GPU",
        (
            Block(models=ALL, tasks=("largest",)),
            # Recordings take memory too, and gain nothing at that size.
            Block(models=(*ORGANIC, *MACE), tasks=("largest",), packages=("mosso",), backends=("eager",)),
        ),
    ),
    "mace-table": Preset(
        "MACE against mace-torch on one GPU, with times to reach: options choose among its rows",
        (
            Block(models=MEDIUM, systems=("Cu64",), batches=(1, 16), tasks=LISTED, backends=(*OURS, E3NN, *CUEQ)),
            Block(models=MEDIUM, systems=("C216", "C1000", "W3000"), tasks=LISTED, backends=(*OURS, E3NN, *CUEQ)),
            Block(models=MEDIUM, systems=("W24000",), tasks=LISTED, backends=(*OURS, *CUEQ)),
            Block(models=MEDIUM, systems=("W98304",), tasks=STEPS, backends=(*OURS, *HUGE)),
            Block(models=MEDIUM, systems=("W98304",), tasks=("stress+list",), backends=OURS),
            Block(models=LARGE, systems=("C1000",), tasks=STEPS, backends=(*OURS, E3NN, *OEQ)),
            Block(models=LARGE, systems=("W24000",), tasks=STEPS, backends=(*OURS, *OEQ)),
            Block(models=MEDIUM, systems=("W648",), tasks=("md", "md-ase"), backends=("auto", E3NN, *CUEQ, "oeq")),
            Block(models=MEDIUM, tasks=("largest",), backends=("eager", "cueq")),
        ),
        table=True,
    ),
    "quick": Preset(
        "a smoke test of mosso alone, under two minutes on a CPU",
        (
            Block(models=ORGANIC, systems=("W24",), tasks=("forces", "stress", "stress+list", "list", "md", "md-ase", "startup")),
            Block(models=ORGANIC, systems=("W24",), batches=(4,), tasks=STEPS),
            Block(models=ORGANIC, systems=("chain25", "C8"), precisions=("fp64", "fp32")),
            Block(models=("mace-mp0-medium",), systems=("C8",), tasks=STEPS, packages=("mosso",)),
        ),
        Protocol(warm_up=2, rounds=3, seconds=0.6, md_steps=10),
    ),
}  # fmt: skip


class _UserModel(BaseModel):
    """A model of the user's: any ASE calculator or TorchSim model, made by ``factory``, ``module:function``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    package: Literal["ase", "torch-sim"]
    factory: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    architecture: str = "unknown"
    precisions: tuple[Precision, ...] = ("fp64", "fp32")
    elements: tuple[int, ...] | None = None

    def model(self) -> Model:
        competitor = Competitor(self.package, ("default",), options={"factory": self.factory})
        elements = None if self.elements is None else frozenset(self.elements)
        return Model(self.name, self.architecture, (competitor,), self.precisions, elements)


class _CaseFile(BaseModel):
    """What a file of cases holds: blocks, and names that only exist there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: Annotated[tuple[Block, ...], Field(min_length=1)]
    protocol: Protocol = PROTOCOL
    models: tuple[_UserModel, ...] = ()
    structures: dict[str, Path] = {}


def read_cases(path: Path, structures: Mapping[str, Path]) -> tuple[Preset, Matrix]:
    """A user's file of cases, and the matrix with the names it adds; its structures are found beside it,
    ``structures`` where their paths say.

    Raises:
        ValueError: not YAML, or not of the shape of ``_CaseFile``; names the place.
        FileNotFoundError: the file is not there, or one of its structures.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        raise ValueError(f"{path} is not YAML{'' if where is None else f' (line {where.line + 1})'}: correct it.") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: the file needs `cases`, a list of blocks (docs/benchmark.md).")
    try:
        found = _CaseFile.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path}: {place}: {first['msg'].lower()}; it needs `cases`, a list of blocks (docs/benchmark.md).") from None
    if taken := [model.name for model in found.models if model.name in MODELS]:
        raise ValueError(f"{path}: there is a model {taken[0]} already: give yours another name.")
    files = {name: path.parent / file for name, file in found.structures.items()} | dict(structures)
    return Preset(str(path), found.cases, found.protocol), matrix_with({m.name: m.model() for m in found.models}, files)


def matrix_with(models: Mapping[str, Model], files: Mapping[str, Path]) -> Matrix:
    """The matrix with models and structures of the user's."""
    return Matrix(MODELS | dict(models), SYSTEMS | from_files(files))


def named(preset: str | None, has_gpu: bool) -> tuple[str, Preset]:
    """A preset and its name; None takes the one for this machine.

    Raises:
        ValueError: there is none of that name; lists those there are.
    """
    name = preset or ("default" if has_gpu else "cpu")
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}: choose of {', '.join(PRESETS)}.")
    return name, PRESETS[name]


def narrowed(preset: Preset, matrix: Matrix, **axes: tuple[Any, ...] | None) -> tuple[Block, ...]:
    """The blocks with axes (``models``, ``systems``, ...) replaced where they are given, and without systems whose file is not there.

    Raises:
        ValueError: an unknown task or precision, or the protein without its file.
    """
    given = {axis: values for axis, values in axes.items() if values}
    require("task", given.get("tasks", ()), TASKS)
    require("precision", given.get("precisions", ()), PRECISIONS)
    missing = DHFR not in matrix.systems
    if missing and DHFR in given.get("systems", ()):
        raise ValueError(f"{DHFR} needs a file: give one with --structure {DHFR}=FILE.")
    chosen = _chosen(preset, given) if preset.table else [block.model_dump() | given for block in preset.blocks]
    blocks = [Block.model_validate(block) for block in chosen]
    there = [tuple(name for name in block.systems if not missing or name != DHFR) for block in blocks]
    return tuple(block.model_copy(update={"systems": systems}) for block, systems in zip(blocks, there, strict=True) if systems)


def _chosen(preset: Preset, given: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The blocks of a table, with what was asked for and is in them; who takes part, and in which precision, may be anything."""
    for axis, one in CHOOSING.items():
        require(one, tuple(map(str, given.get(axis, ()))), dict.fromkeys(str(v) for block in preset.blocks for v in getattr(block, axis)))
    blocks = [block.model_dump() | {axis: values for axis, values in given.items() if axis not in CHOOSING} for block in preset.blocks]
    left = [block | {axis: tuple(v for v in block[axis] if v in given.get(axis, (v,))) for axis in CHOOSING} for block in blocks]
    return [block for block in left if all(block[axis] for axis in CHOOSING)]
