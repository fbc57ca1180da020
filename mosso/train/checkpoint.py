"""What a run leaves on disk: a checkpoint to go on from, and weights to use. Both are written aside and then renamed.

``checkpoint.pt`` holds only tensors and plain data, so it is read with ``weights_only=True``. ``best.safetensors`` and
``last.safetensors`` hold the averaged weights under the names of the model's state_dict; their metadata says what to build.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from mosso.train.build import Builder, build_model
from mosso.train.config import TrainConfig
from mosso.train.statistics import Statistics

FORMAT = 1


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` so that the file is either the old or the new one, whatever happens meanwhile."""
    aside = path.with_name(path.name + ".part")
    with aside.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """The state in ``path``; nothing in the file is executed."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({error}): restore it or start in an empty folder.") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this version (format {FORMAT}): start in an empty folder.")
    return state


def require_same_run(state: dict[str, Any], config: TrainConfig, data_digest: str, path: Path) -> None:
    """ValueError unless the checkpoint ``state`` belongs to this configuration and these data."""
    changed = config.differences(json.loads(state["identity"]))
    if changed:
        raise ValueError(
            f"{path} was made with other settings ({', '.join(changed)}): put them back, or start in an empty folder. "
            "Only `run`, `max_steps` and `data.path` may change between the pieces of a run."
        )
    if state["data_digest"] != data_digest:
        raise ValueError(f"{path} was made with other data ({state['data_digest']}, now {data_digest}): start in an empty folder.")


def write_weights(path: Path, model: nn.Module, config: TrainConfig, statistics: Statistics, metrics: dict[str, Any]) -> None:
    """The model's state_dict as safetensors, with all that ``load_trained`` needs to build the model again."""
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    metadata = {
        "config": config.model_dump_json(),
        "statistics": json.dumps(statistics.plain()),
        "metrics": json.dumps(metrics),
    }
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(save(tensors, metadata=metadata))  # save_file would make a file that only its owner can read
    os.replace(aside, path)


def load_trained(path: Path | str, build: Builder = build_model) -> tuple[nn.Module, TrainConfig, dict[str, Any]]:
    """The trained model (on the CPU, averaged weights), its configuration and its metrics, from a weight file."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "config" not in metadata or "statistics" not in metadata:
        raise ValueError(f"{path} has no training configuration in it: it was not written by mosso.train.")
    config = TrainConfig.model_validate_json(metadata["config"])
    model = build(config, Statistics.from_plain(json.loads(metadata["statistics"])))
    model.load_state_dict(tensors)
    return model.eval(), config, json.loads(metadata["metrics"])
