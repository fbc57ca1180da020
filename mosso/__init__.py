"""mosso: machine-learning interatomic potentials at the speed the hardware allows."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mosso.version import VERSION as __version__

if TYPE_CHECKING:
    from mosso.data.structure import Structure
    from mosso.engine.potential import Potential, load
    from mosso.models.outputs import Output
    from mosso.precision import Precision

__all__ = ["Output", "Potential", "Precision", "Structure", "__version__", "load"]

# Names are resolved on first use, so that the command line answers before torch is imported.
_HOME = {
    "Output": "mosso.models.outputs",
    "Potential": "mosso.engine.potential",
    "Precision": "mosso.precision",
    "Structure": "mosso.data.structure",
    "load": "mosso.engine.potential",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mosso' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
