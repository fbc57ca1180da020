"""A calculator for bench_cases.yaml: what `factory: bench_calculator:lennard_jones` names."""

from ase.calculators.lj import LennardJones


def lennard_jones(precision: str) -> LennardJones:
    """Any ASE calculator will do; a function that takes `precision`, and `device`, is told them."""
    if precision != "fp64":
        raise NotImplementedError("this calculator computes in float64")
    return LennardJones(sigma=1.5, epsilon=0.01, rc=4.0)
