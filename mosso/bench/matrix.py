"""The matrix: models, who computes them, and how blocks of models x systems x batches x precisions x tasks become cases."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from mosso.bench.rows import Task
from mosso.bench.systems import SYSTEMS, NamedSystem

Precision = Literal["fp64", "fp32", "tf32", "bf16", "fp16"]
TASKS: tuple[str, ...] = get_args(Task)
PRECISIONS: tuple[str, ...] = get_args(Precision)
# The system of ``largest``, whatever a block says: its size is what is looked for.
GROWING = "water"
SINGLE = ("largest", "startup")  # tasks that run on their own, in processes of their own


@dataclass(frozen=True)
class Competitor:
    """A package that has a model.

    Attributes:
        package: distribution; its adapter is ``peers/PACKAGE.py`` with ``_`` for ``-``, that of mosso ``ours.py``.
        backends: its implementations of the model.
        further: more of them, measured only where they are named.
        options: further arguments of the adapter.
    """

    package: str
    backends: tuple[str, ...]
    further: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One architecture and size; with the same weights in all packages that have it.

    Attributes:
        name, architecture: in rows.
        competitors: who computes it.
        precisions: policies it is offered in.
        elements: atomic numbers it knows; None where only the package can say.
        weights_from: the package that writes random weights for the others; None where every package makes its own.
    """

    name: str
    architecture: str
    competitors: tuple[Competitor, ...]
    precisions: tuple[Precision, ...] = ("fp64", "fp32")
    elements: frozenset[int] | None = None
    weights_from: str | None = None

    def competitor(self, package: str) -> Competitor:
        return next(c for c in self.competitors if c.package == package)


# Elements of the Materials Project's trajectories, which all models of materials here know.
MATERIALS = frozenset({*range(1, 84), *range(89, 95)})
_MOSSO = Competitor("mosso", ("auto",), ("eager", "stock", "stock-eager", "triton", "reference"))
_MACE = (
    _MOSSO,
    Competitor(
        "mace-torch",
        ("e3nn", "e3nn-compiled", "e3nn-graphs", "cueq", "cueq-compiled", "cueq-graphs", "oeq", "oeq-compiled", "hybrid"),
        ("oeq-graphs",),
    ),
)
_NEQUIP = (Competitor("nequip", ("eager", "compiled", "aoti", "aoti-openequivariance", "aoti-cuequivariance")),)
_ALLEGRO = (Competitor("nequip", ("eager", "compiled", "aoti", "aoti-triton", "aoti-cuequivariance")),)
_ORB = (Competitor("orb-models", ("eager", "compiled")),)
_SEVENNET = (Competitor("sevenn", ("e3nn", "cueq", "oeq", "flash")),)
_FAIRCHEM = (Competitor("fairchem-core", ("default", "fast")),)
_UPET = (Competitor("upet", ("default",)),)
_TF32: tuple[Precision, ...] = ("fp64", "fp32", "tf32")
_ROUNDED: tuple[Precision, ...] = (*_TF32, "bf16", "fp16")
# The shapes of cases.MODELS know the first 89 elements, as many as the Materials Project has.
_FIRST_89 = frozenset(range(1, 90))

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model("mosso-xtb-s", "MACE", (_MOSSO,), _ROUNDED, frozenset({1, 6, 7, 8})),
        Model("mace-mp0-medium", "MACE", _MACE, _ROUNDED, _FIRST_89, "mace-torch"),
        Model("mace-mp0-large", "MACE", _MACE, _ROUNDED, _FIRST_89, "mace-torch"),
        *(Model(f"nequip-oam-{size}", "NequIP", _NEQUIP, _TF32, MATERIALS) for size in ("s", "l", "xl")),
        *(Model(f"allegro-{size}", "Allegro", _ALLEGRO, _TF32, MATERIALS) for size in ("s", "m", "l")),
        *(
            Model(f"orb-v3-{head}-{near}", "Orb-v3", _ORB, _TF32, MATERIALS)
            for head in ("direct", "conservative")
            for near in ("20", "inf")
        ),
        *(Model(name, "SevenNet", _SEVENNET, _TF32, MATERIALS) for name in ("7net-0", "7net-l3i5")),
        Model("uma-s", "UMA", _FAIRCHEM, _TF32, MATERIALS),
        Model("esen-sm", "eSEN", _FAIRCHEM, _TF32, MATERIALS),
        Model("allscaip-md", "AllScAIP", _FAIRCHEM, _TF32, MATERIALS),
        *(Model(name, "PET", _UPET, _TF32, MATERIALS) for name in ("pet-mad-s", "pet-oam-xl")),
        Model("equiformer-v3", "EquiformerV3", (Competitor("equiformer-v3", ("default",)),), _TF32, MATERIALS),
    )
}


class Block(BaseModel):
    """A full product; ``packages`` and ``backends`` narrow who takes part.

    Precisions that a model is not offered in are left out of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Annotated[tuple[str, ...], Field(min_length=1)]
    systems: Annotated[tuple[str, ...], Field(min_length=1)] = (GROWING,)
    batches: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1,)
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = ("forces",)
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)] = ("fp32",)
    packages: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None


class Protocol(BaseModel):
    """How timings are taken.

    Attributes:
        warm_up: calls before the first that counts; fewer where they would take longer than ``seconds``.
        rounds: turns of every competitor.
        calls: timed calls in all turns together; None: as many as ``seconds`` allow, 100 at most.
        seconds: what a competitor's timed calls of one task may take.
        md_steps: steps of dynamics in one turn; fewer where they would take longer than ``seconds``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warm_up: Annotated[int, Field(ge=1)] = 10
    rounds: Annotated[int, Field(ge=1)] = 5
    calls: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0)] = 5.0
    md_steps: Annotated[int, Field(ge=1)] = 5000


class Case(BaseModel):
    """What one row measures."""

    model_config = ConfigDict(frozen=True)

    model: str
    precision: Precision
    system: str
    batch: int
    task: Task
    package: str
    backend: str

    @property
    def group(self) -> tuple[str, ...]:
        """Cases that share it are compared: same atoms, same task."""
        return (self.model, self.precision, self.system, str(self.batch), self.task)


@dataclass(frozen=True)
class Matrix:
    """Everything that has a name in this run: that of the package, and that of the user's file."""

    models: Mapping[str, Model] = field(default_factory=lambda: MODELS)
    systems: Mapping[str, NamedSystem] = field(default_factory=lambda: SYSTEMS)

    @property
    def packages(self) -> list[str]:
        return list(dict.fromkeys(c.package for model in self.models.values() for c in model.competitors))

    @property
    def backends(self) -> list[str]:
        of_all = (c for model in self.models.values() for c in model.competitors)
        return list(dict.fromkeys(backend for c in of_all for backend in (*c.backends, *c.further)))

    def expand(self, blocks: Iterable[Block]) -> list[Case]:
        """The cases of blocks, each once; models and precisions outermost, because loading is what takes longest, and behind the others
        those for which all processes end.

        Raises:
            ValueError: a name that does not exist; lists those that do.
        """
        cases = dict.fromkeys(case for block in blocks for case in self._cases(block))
        order = {case.group[:2]: place for place, case in reversed(list(enumerate(cases)))}
        return sorted(cases, key=lambda case: (order[case.group[:2]], case.task in SINGLE))

    def _cases(self, block: Block) -> Iterable[Case]:
        self._check(block)
        for name, precision in itertools.product(block.models, block.precisions):
            model = self.models[name]
            if precision not in model.precisions:
                continue
            for system, batch, task in itertools.product(block.systems, block.batches, block.tasks):
                at, size = (GROWING, 1) if task == "largest" else (system, batch)
                for package, backend in self._who(model, block):
                    yield Case(model=name, precision=precision, system=at, batch=size, task=task, package=package, backend=backend)

    def _who(self, model: Model, block: Block) -> Iterable[tuple[str, str]]:
        for competitor in model.competitors:
            if block.packages is not None and competitor.package not in block.packages:
                continue
            for backend in (*competitor.backends, *competitor.further):
                if backend in (block.backends or competitor.backends):
                    yield competitor.package, backend

    def _check(self, block: Block) -> None:
        require("model", block.models, self.models)
        if set(block.tasks) != {"largest"}:
            require("system", block.systems, self.systems)
        require("package", block.packages or (), self.packages)
        require("backend", block.backends or (), self.backends)


def require(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    """A ValueError that lists ``known`` where a name is not among them."""
    choices = list(known)
    if unknown := [name for name in names if name not in choices]:
        raise ValueError(f"There is no {kind} {', '.join(map(repr, unknown))}: choose of {', '.join(choices)}.")
