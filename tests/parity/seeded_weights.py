"""Random weights that two programs can make alike without exchanging files.

A tensor's values depend on the seed, its state-dict name and its shape only, so a full-size
model (tens of MB) is described by its list of names and shapes. Imports numpy only.
"""

from __future__ import annotations

import hashlib

import numpy as np

SCALE = "scale_shift.scale"
SHIFT = "scale_shift.shift"
ATOMIC_ENERGIES = "atomic_energies_fn.atomic_energies"

EMBEDDING = "node_embedding.linear.weight"

_INTERACTION_PARTS = ("linear_up", "linear", "skip_tp", "conv_tp_weights", "density_fn")

# Plain normal weights leave the messages so small that the higher correlation orders drown
# in rounding. These factors, and the gain of each case, bring forces to 1-100 eV/A.
_EMBEDDING_GAIN = 4.0
_RADIAL_GAIN = 4.0  # first layer of every radial network


def is_filled(name: str) -> bool:
    """Tell whether the tensor of this state-dict name is drawn by :func:`fill`.

    Filled are all trainable weights, the atomic energies, scale and shift. Not filled are
    the tensors that define constants: U matrices, Bessel weights, cutoff, ZBL and Agnesi
    constants, atomic numbers, output masks, flags, and the empty ``conv_tp.weight``.
    """
    if name in (SCALE, SHIFT, ATOMIC_ENERGIES, EMBEDDING):
        return True
    parts = name.split(".")
    if parts[0] == "interactions":
        return parts[2] in _INTERACTION_PARTS and parts[-1] == "weight"
    if parts[0] == "products":
        return name.endswith(".linear.weight") or _is_contraction_weight(parts)
    if parts[0] == "readouts":
        return parts[-1] == "weight"
    return False


def fill(name: str, shape: tuple[int, ...], seed: int = 0, message_gain: float = 1.0) -> np.ndarray:
    """Draw the float64 values of one tensor.

    ``seed`` and ``message_gain`` are the model's, the same for all its tensors.

    * weights: standard normal times a factor by name: ``message_gain`` for the linear map of
      each message (``interactions.N.linear``), 1/paths for symmetric-contraction weights
      (species, paths, channels), 4 for the embedding and the first radial layer, else 1;
    * atomic energies (eV): uniform in [-10, 0);
    * scale: uniform in [0.7, 0.9); shift (eV): uniform in [0.05, 0.15).
    """
    rng = np.random.default_rng(_key(name, seed))
    if name == ATOMIC_ENERGIES:
        return rng.uniform(-10.0, 0.0, shape)
    if name == SCALE:
        return np.asarray(rng.uniform(0.7, 0.9, shape))
    if name == SHIFT:
        return np.asarray(rng.uniform(0.05, 0.15, shape))
    return rng.standard_normal(shape) * _factor(name, shape, message_gain)


def fingerprint(values: np.ndarray) -> list[float]:
    """First value and root mean square: tells at once whether two sides drew the same."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return [float(flat[0]), float(np.sqrt(np.mean(flat**2)))]


def _key(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest(), "little")


def _factor(name: str, shape: tuple[int, ...], message_gain: float) -> float:
    parts = name.split(".")
    if name == EMBEDDING:
        return _EMBEDDING_GAIN
    if _is_contraction_weight(parts):
        return 1.0 / shape[1]
    if parts[0] == "interactions" and parts[-2] == "layer0":
        return _RADIAL_GAIN
    if parts[0] == "interactions" and parts[2] == "linear":
        return message_gain
    return 1.0


def _is_contraction_weight(parts: list[str]) -> bool:
    return "contractions" in parts and (parts[-1] == "weights_max" or parts[-2] == "weights")
