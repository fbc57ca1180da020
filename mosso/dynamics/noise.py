"""Random numbers of the dynamics: the noise of an atom depends on its system's seed, its index, and the step, on nothing else.

There is no generator state to keep: a system sees the same noise alone, inside any batch, and after a restart. See
kernels/reference/noise.py.
"""

from mosso.kernels import gaussian

__all__ = ["BAROSTAT", "THERMOSTAT", "VELOCITIES", "gaussian"]

VELOCITIES, THERMOSTAT, BAROSTAT = range(3)  # streams that never share a counter
