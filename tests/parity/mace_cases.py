"""The architectures for which golden values are made, as plain data.

Imports nothing beyond the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass

RESIDUAL = "RealAgnosticResidualInteractionBlock"
PLAIN = "RealAgnosticInteractionBlock"
DENSITY = "RealAgnosticDensityInteractionBlock"
DENSITY_RESIDUAL = "RealAgnosticDensityResidualInteractionBlock"

ELEMENTS_89 = (*range(1, 84), *range(89, 95))
ELEMENTS_OFF = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)


@dataclass(frozen=True)
class Case:
    """One model: hyperparameters as mace takes them, plus what to evaluate.

    ``species`` are the atomic numbers used in the structures. ``per_head`` chooses between
    the older buffers (atomic energies (Z,), scalar scale and shift) and the newer ones
    with a leading axis of heads. ``zero_shift`` keeps the shift at zero, as released
    models trained with ``--model=MACE`` have it.
    """

    name: str
    numbers: tuple[int, ...]
    species: tuple[int, ...]
    hidden_irreps: str
    interaction_first: str = RESIDUAL
    interaction: str = RESIDUAL
    model_class: str = "ScaleShiftMACE"
    num_interactions: int = 2
    max_ell: int = 3
    correlation: int = 3
    r_max: float = 6.0
    num_bessel: int = 10
    num_polynomial_cutoff: int = 5
    avg_num_neighbors: float = 61.964672446250916
    radial_MLP: tuple[int, ...] = (64, 64, 64)
    MLP_irreps: str = "16x0e"
    distance_transform: str = "None"
    pair_repulsion: bool = False
    heads: tuple[str, ...] = ("Default",)
    per_head: bool = True
    zero_shift: bool = False
    small: bool = False
    hessian: bool = False
    save_model: bool = False
    seed: int = 0
    message_gain: float = 1.0  # of seeded_weights.fill; tuned once so that max |F| is about 30 eV/A


FULL_SIZE = (
    Case(
        name="mp0_medium",
        message_gain=27.0,
        numbers=ELEMENTS_89,
        species=(26, 8, 79, 1, 92),
        hidden_irreps="128x0e+128x1o",
        per_head=False,
    ),
    Case(
        name="mp0_large",
        message_gain=27.0,
        numbers=ELEMENTS_89,
        species=(26, 8, 79, 1, 92),
        hidden_irreps="128x0e+128x1o+128x2e",
        per_head=False,
    ),
    Case(
        name="mpa0_medium",
        message_gain=2.2,
        numbers=ELEMENTS_89,
        species=(14, 8, 3, 29, 94),
        hidden_irreps="128x0e+128x1o",
        interaction_first=DENSITY,
        interaction=DENSITY_RESIDUAL,
        distance_transform="Agnesi",
        pair_repulsion=True,
    ),
    Case(
        name="off24_medium",
        message_gain=24.0,
        numbers=ELEMENTS_OFF,
        species=(6, 1, 8, 7, 17),
        hidden_irreps="128x0e+128x1o",
        interaction_first=PLAIN,
        num_bessel=8,
        avg_num_neighbors=41.5,
        zero_shift=True,
    ),
)


def _small(name: str, **changes: object) -> Case:
    """A model of 8 channels and four elements; ``changes`` override the defaults."""
    settings: dict = {
        "name": name,
        "numbers": (1, 6, 8, 29),
        "species": (29, 8, 6, 1),
        "hidden_irreps": "8x0e+8x1o",
        "r_max": 4.5,
        "num_bessel": 8,
        "avg_num_neighbors": 12.5,
        "small": True,
    }
    return Case(**{**settings, **changes})


SMALL = (
    _small("small_corr1", message_gain=4.7, correlation=1, hidden_irreps="16x0e+16x1o"),
    _small(
        "small_corr2_ell1",
        message_gain=1.8,
        correlation=2,
        max_ell=1,
        per_head=False,
        num_polynomial_cutoff=6,
    ),
    _small("small_corr3_ell2", message_gain=1.9, correlation=3, max_ell=2, hessian=True),
    _small("small_scalars", message_gain=1.6, hidden_irreps="16x0e", radial_MLP=(32, 16)),
    _small("small_l2_ell2", message_gain=1.8, hidden_irreps="8x0e+8x1o+8x2e", max_ell=2, MLP_irreps="8x0e"),
    _small("small_l3_ell3", message_gain=1.3, hidden_irreps="8x0e+8x1o+8x2e+8x3o", max_ell=3, correlation=3),
    _small("small_one_species", message_gain=0.92, numbers=(29,), species=(29,), max_ell=2, correlation=2),
    _small("small_three_heads", message_gain=1.8, heads=("first", "second", "third"), max_ell=2),
    _small("small_three_layers", message_gain=1.7, num_interactions=3, hidden_irreps="8x0e+8x1o+8x2e", max_ell=2),
    _small("small_one_layer", message_gain=1.8, num_interactions=1, max_ell=2),
    _small("small_mace_class", message_gain=3.1, model_class="MACE", interaction_first=PLAIN, max_ell=2),
    _small(
        "small_mace_class_zbl",
        message_gain=2.0,
        model_class="MACE",
        interaction_first=PLAIN,
        pair_repulsion=True,
        num_polynomial_cutoff=6,
        heads=("first", "second"),
        max_ell=2,
    ),
    _small("small_agnesi", message_gain=0.38, distance_transform="Agnesi", interaction_first=PLAIN, max_ell=2),
    _small(
        "small_density_large",
        message_gain=0.61,
        hidden_irreps="8x0e+8x1o+8x2e",
        interaction_first=DENSITY,
        interaction=DENSITY_RESIDUAL,
    ),
    _small(
        "small_density_agnesi_zbl",
        message_gain=0.2,
        numbers=(8, 29),
        species=(29, 8),
        interaction_first=DENSITY,
        interaction=DENSITY_RESIDUAL,
        distance_transform="Agnesi",
        pair_repulsion=True,
        heads=("pt_head", "Default"),
        max_ell=2,
        correlation=2,
        save_model=True,
    ),
)

CASES: dict[str, Case] = {case.name: case for case in (*FULL_SIZE, *SMALL)}
