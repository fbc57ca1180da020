"""Bulk liquid water from the flexible SPC/Fw model (Wu, Tepper, Voth, J. Chem. Phys. 124, 024503 (2006)).

It only provides realistic hydrogen-bond networks at 1 g/cm3, from which clusters are cut; the labels come from GFN2-xTB.  Electrostatics
are damped and cut off at half the box (damped shifted force), which is good enough for that purpose.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import erfc

N_MOLECULES = 64
BOX = (N_MOLECULES * 18.01528 / 0.602214) ** (1.0 / 3.0)  # Angstrom, 1 g/cm3
KCAL = 0.0433641  # eV
BOND, BOND_K = 1.012, 1059.162 * KCAL
ANGLE, ANGLE_K = np.deg2rad(113.24), 75.90 * KCAL
SIGMA, EPSILON = 3.165492, 0.1554253 * KCAL
CHARGE = np.array([-0.82, 0.41, 0.41])
COULOMB = 14.399645  # eV Angstrom / e^2
DAMPING = 0.25  # 1/Angstrom
KB = 8.617333e-5
ACCELERATION = 0.00964853  # eV/(Angstrom amu) in Angstrom/fs^2
MASS = np.array([15.999, 1.008, 1.008])[None, :, None]


def water_forces(x: np.ndarray) -> np.ndarray:
    """SPC/Fw forces (eV/Angstrom) on positions of shape (molecule, atom O H H, xyz); molecules must be whole."""
    force = np.zeros_like(x)
    # Non-bonded part: all pairs of atoms of different molecules.
    flat = x.reshape(-1, 3)
    delta = flat[:, None] - flat[None]
    delta -= BOX * np.round(delta / BOX)
    r = np.sqrt((delta**2).sum(-1))
    same = np.repeat(np.arange(len(x)), 3)
    r[same[:, None] == same[None]] = np.inf
    cut = BOX / 2
    r[r > cut] = np.inf
    q = np.tile(CHARGE, len(x))

    def slope(d: np.ndarray | float) -> np.ndarray:
        return erfc(DAMPING * d) / d**2 + 2 * DAMPING / np.sqrt(np.pi) * np.exp(-((DAMPING * d) ** 2)) / d

    magnitude = COULOMB * q[:, None] * q[None] * (slope(r) - np.where(np.isinf(r), 0.0, slope(cut)))
    oxygen = np.ix_(range(0, len(flat), 3), range(0, len(flat), 3))
    s6 = (SIGMA / r[oxygen]) ** 6
    magnitude[oxygen] += 24 * EPSILON * (2 * s6**2 - s6) / r[oxygen]
    force += ((magnitude / r)[:, :, None] * delta).sum(1).reshape(x.shape)
    # Bonds and the angle.
    legs = x[:, 1:] - x[:, :1]
    length = np.linalg.norm(legs, axis=-1, keepdims=True)
    unit = legs / length
    pull = -BOND_K * (length - BOND) * unit
    cosine = np.clip((unit[:, 0] * unit[:, 1]).sum(-1), -1.0, 1.0)[:, None]
    torque = ANGLE_K * (np.arccos(cosine) - ANGLE) / np.sqrt(1 - cosine**2)
    pull[:, 0] += torque * (unit[:, 1] - cosine * unit[:, 0]) / length[:, 0]
    pull[:, 1] += torque * (unit[:, 0] - cosine * unit[:, 1]) / length[:, 1]
    force[:, 1:] += pull
    force[:, 0] -= pull.sum(1)
    return force


@lru_cache(maxsize=1)
def bulk_water(seed: int = 7, snapshots: int = 12, spacing: int = 250, temperature: float = 350.0) -> tuple[np.ndarray, float]:
    """Snapshots (snapshot, molecule, atom, xyz) of liquid water and the box length."""
    rng = np.random.default_rng(seed)
    oxygen = np.zeros((0, 3))
    while len(oxygen) < N_MOLECULES:  # random sequential insertion
        trial = rng.random(3) * BOX
        delta = oxygen - trial
        if len(oxygen) == 0 or np.linalg.norm(delta - BOX * np.round(delta / BOX), axis=1).min() > 2.45:
            oxygen = np.concatenate([oxygen, trial[None]])
    half = ANGLE / 2
    template = BOND * np.array([[0.0, 0.0, 0.0], [np.sin(half), np.cos(half), 0.0], [-np.sin(half), np.cos(half), 0.0]])
    rotations = np.linalg.qr(rng.normal(size=(N_MOLECULES, 3, 3)))[0]
    x = oxygen[:, None] + template @ rotations

    for _ in range(300):  # steepest descent with a step limit removes the overlaps
        x += np.clip(0.004 * water_forces(x), -0.04, 0.04)
    v = rng.normal(size=x.shape) * np.sqrt(2 * KB * temperature * ACCELERATION / MASS)
    f, frames = water_forces(x), []
    warmup = 1500
    drag = np.exp(-0.01)
    noise = np.sqrt((1 - drag**2) * KB * temperature * ACCELERATION / MASS)
    for step in range(1, warmup + snapshots * spacing + 1):  # Langevin (BAOAB), 1 fs
        v += 0.5 * f * ACCELERATION / MASS
        x += 0.5 * v
        v = drag * v + noise * rng.normal(size=x.shape)
        x += 0.5 * v
        f = water_forces(x)
        v += 0.5 * f * ACCELERATION / MASS
        if step > warmup and (step - warmup) % spacing == 0:
            frames.append(x.copy())
    return np.array(frames), BOX
