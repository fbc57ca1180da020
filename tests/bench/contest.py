"""A contest of harmonic adapters: live processes that start quickly, because torch is a stub in them."""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mosso.bench.cases import water
from mosso.bench.competitor import Contestant, Workplace
from mosso.bench.environments import Interpreter
from mosso.bench.matrix import Block, Competitor, Matrix, Model, Protocol
from mosso.bench.rows import Row
from mosso.bench.suite import Suite
from mosso.bench.systems import SYSTEMS, NamedSystem

ADAPTER = Path(__file__).with_name("harmonic_adapter.py")
QUICK = Protocol(warm_up=2, rounds=3, calls=6, seconds=0.05, md_steps=40)
# A box twice. The adapter pulls atoms to the origin, wherever their cell is, so both lie there.
BOXES = NamedSystem(lambda copy: replace(water(2), cell=np.zeros((3, 3)), pbc=np.zeros(3)), "copies", repeats=(1, 1, 2))
TORCH = """
__version__ = "stub"
class version: cuda = None
def get_num_threads(): return 3
"""


@dataclass
class Scene:
    """Where harmonic competitors run, and what they did."""

    folder: Path
    timeout: float = 20.0
    python: Path = Path(sys.executable)
    adapter: Callable[[str], Path] = field(default=lambda package: ADAPTER)
    obstacles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.journal_file = self.folder / "journal.jsonl"
        self.work = self.folder / "work"
        self.work.mkdir()
        (self.folder / "stub").mkdir()
        (self.folder / "stub" / "torch.py").write_text(TORCH)

    def interpreter(self, package: str) -> Interpreter:
        if package in self.obstacles:
            raise ValueError(self.obstacles[package])
        return Interpreter(self.python, {"PYTHONPATH": str(self.folder / "stub"), "HARMONIC_JOURNAL": str(self.journal_file)})

    @property
    def place(self) -> Workplace:
        return Workplace(self.interpreter, self.work, "cpu", self.timeout, self.adapter)

    def contestant(self, backend: str = "good", precision: str = "fp32", model: str = "spring", package: str = "harmonic") -> Contestant:
        return Contestant(package, backend, self.place, {"model": model, "precision": precision, "weights": None})

    def journal(self, *whats: str) -> list[dict[str, Any]]:
        """What adapters did, in order."""
        lines = self.journal_file.read_text().splitlines() if self.journal_file.exists() else []
        return [entry for entry in map(json.loads, lines) if not whats or entry["what"] in whats]

    def suite(self, *backends: str, protocol: Protocol = QUICK, competitors: Iterable[Competitor] = (), **block: Any) -> Suite:
        """A suite of one model, ``spring``, with these backends of the package ``harmonic``, or other ``competitors``."""
        options = {
            name: block.pop(name) for name in ("done", "weights", "elements", "weights_from", "precisions_of_model") if name in block
        }
        competing = tuple(competitors) or (Competitor("harmonic", backends),)
        precisions = options.pop("precisions_of_model", ("fp64", "fp32"))
        model = Model("spring", "Harmonic", competing, precisions, options.pop("elements", None), options.pop("weights_from", None))
        matrix = Matrix({"spring": model}, SYSTEMS | {"boxes": BOXES})
        cases = matrix.expand([Block(**{"models": ("spring",), "systems": ("C8",), **block})])
        return Suite(matrix, cases, protocol, self.place, **options)

    def rows(self, *backends: str, **options: Any) -> list[Row]:
        return list(self.suite(*backends, **options).rows())
