import pytest
from train.toy import CUTOFF, SPECIES, write_npz

from mosso.train.config import DataConfig
from mosso.train.dataset import Dataset
from mosso.train.source import read_frames


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("toy") / "toy.npz")


@pytest.fixture(scope="session")
def frames(npz):
    return read_frames(DataConfig(path=npz))


@pytest.fixture(scope="session")
def dataset(frames):
    import torch

    return Dataset(frames, SPECIES, CUTOFF, torch.device("cpu"))
