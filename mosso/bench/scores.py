"""Scores of published checkpoints in matbench-discovery, to set beside their speed.

The combined performance score (CPS) is computed here from its three parts, as that project defines it
(site/src/lib/combined-scores.svelte.ts): 0.5 F1 + 0.4 (1 - kappa_SRME / 2) + 0.1 (1 - RMSD / 0.15), each part within 0 and 1.
"""

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from mosso.bench.rows import Row

RMSD_OF_ZERO = 0.15  # where that part of the score reaches nothing

# Named models that are the scored checkpoint, where their name is not its key in the table.
CHECKPOINTS = {"mace-mp-0-medium": "mace-mp-0", "mace-mpa-0-medium": "mace-mpa-0"}
# Models of the matrix that have the shape of a scored checkpoint, and weights of their own.
SHAPES = {
    "mace-mp0-medium": "mace-mp-0",
    "nequip-oam-l": "nequip-oam-l-0.1",
    "nequip-oam-xl": "nequip-oam-xl-0.1",
    "orb-v3-conservative-inf": "orb-v3",
    "pet-oam-xl": "pet-oam-xl-1.0.0",
    "equiformer-v3": "equiformer-v3-oam",
}


class Score(NamedTuple):
    """One checkpoint's parts: F1 of stable prototypes, error of the thermal conductivity (0 to 2), RMSD of relaxed structures."""

    key: str
    name: str
    f1: float
    kappa_srme: float
    rmsd: float

    @property
    def cps(self) -> float:
        """The combined performance score, 0 to 1, more is better."""
        return combined(self.f1, self.kappa_srme, self.rmsd)


def combined(f1: float, kappa_srme: float, rmsd: float) -> float:
    """CPS of its parts."""
    conductivity = max(0.0, 1 - kappa_srme / 2)
    relaxation = min(1.0, max(0.0, 1 - rmsd / RMSD_OF_ZERO))
    return 0.5 * f1 + 0.4 * conductivity + 0.1 * relaxation


@cache
def scores() -> dict[str, Score]:
    """All that the package carries, by key; source and licence stand in the file."""
    lines = files("mosso.bench.page").joinpath("scores.csv").read_text(encoding="utf-8").splitlines()
    table = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {
        line["key"]: Score(line["key"], line["name"], float(line["f1"]), float(line["kappa_srme"]), float(line["rmsd"])) for line in table
    }


def score_of(row: Row) -> Score | None:
    """The score of exactly what was timed: None where weights are random or from a file of unknown origin."""
    return scores().get(CHECKPOINTS.get(row.model, row.model)) if row.weights == "official" else None


def score_of_shape(row: Row) -> Score | None:
    """The score of a checkpoint that has this row's shape, with whatever weights the row was timed."""
    return scores().get(SHAPES.get(row.model) or CHECKPOINTS.get(row.model, row.model))
