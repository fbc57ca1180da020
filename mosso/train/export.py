"""From the weights of a finished run to a model file.

From the command line: ``python -m mosso.train.export out/run/best.safetensors -o NAME.mosso --licence MIT --citation TEXT``.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from mosso.engine.artifact import write_artifact
from mosso.train.checkpoint import load_trained
from mosso.weights.checkpoint import Checkpoint


def export(weights: Path, out: Path, *, licence: str, citation: str) -> dict[str, Any]:
    """Write the model file of trained weights, bit for bit as they were trained; returns the metrics they were saved with."""
    model, config, metrics = load_trained(weights)
    provenance = {
        "source": f"trained by mosso on {config.data.path.name}",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "licence": licence,
        "citation": citation,
        "dtype": {"fp32": "float32", "fp64": "float64"}[config.precision],
        "training": _summary(metrics),
    }
    describe: Any = model.describe
    write_artifact(out, Checkpoint(config.model.architecture, describe(), model.state_dict(), provenance))
    return metrics


def _summary(metrics: dict[str, Any]) -> str:
    total = metrics["validation"]["total"]
    return (
        f"step {metrics['step']}; {total['frames']} validation frames: energy RMSE {total['energy_rmse']:.1f} meV/atom, "
        f"MAE {total['energy_mae']:.1f}; forces RMSE {total['forces_rmse']:.0f} meV/A, MAE {total['forces_mae']:.0f}"
    )


def main() -> None:
    """Command line of ``export``."""
    parser = argparse.ArgumentParser(description="Write a model file from trained weights.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--citation", required=True)
    options = parser.parse_args()
    metrics = export(options.weights, options.out, licence=options.licence, citation=options.citation)
    print(f"{options.out}: weights of step {metrics['step']}")


if __name__ == "__main__":
    main()
