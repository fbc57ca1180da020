"""The numbered examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example(script, tmp_path):
    if not (ROOT / "mosso" / "weights" / "embedded" / "mosso-xtb-s.mosso").exists():
        pytest.skip("the embedded model mosso-xtb-s is not in this checkout")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert "nan" not in result.stdout.lower()


@pytest.mark.parametrize(("name", "molecules"), [("water24.extxyz", 24), ("water64.extxyz", 64)])
def test_water_boxes_are_sound(name, molecules):
    """Whole molecules at the density of the liquid, none on top of another."""
    water = read(ROOT / "examples" / name)
    assert water.get_chemical_formula() == f"H{2 * molecules}O{molecules}"
    assert water.pbc.all()
    assert water.get_masses().sum() / water.get_volume() / 0.602214 == pytest.approx(1.0, abs=0.03)
    distances = water.get_all_distances(mic=True)
    together = np.arange(len(water)) // 3
    same = together[:, None] == together[None, :]
    assert distances[~same].min() > 1.4
    assert distances[same & (distances > 0)].max() < 1.9
