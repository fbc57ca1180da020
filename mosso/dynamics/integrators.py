"""Ensembles and their steps: NVE, Langevin, Nose-Hoover chains, stochastic cell rescaling.

A step is a function from State to State in plain tensor operations over all atoms of all systems, with one evaluation
of the forces; it reads nothing back to the host.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from mosso import kernels
from mosso.data.structure import Batch
from mosso.dynamics import noise
from mosso.dynamics.state import Evaluation, State, evaluation_fields, kinetic_energy, pressure, pressure_tensor
from mosso.dynamics.strain import deform
from mosso.dynamics.units import BAR, FS, KB
from mosso.kernels import sum_segments

Evaluate = Callable[[Batch], Evaluation]
Coupling = Literal["isotropic", "anisotropic", "diagonal"]


@dataclass(frozen=True)
class Ensemble:
    """What the loop asks of an ensemble. Times are in fs, temperatures in K."""

    conserves_momentum: ClassVar[bool] = False
    needs_stress: ClassVar[bool] = False

    def check_timestep(self, timestep: float) -> None:
        """ValueError when no steps of ``timestep`` fs can be made."""
        _require(0.0 < timestep < math.inf, f"timestep is {timestep} fs: give a positive, finite one (0.5 is usual).")

    def prepare(self, state: State) -> State:
        """The state with what the thermostat carries along; ValueError when the systems do not fit the ensemble."""
        return replace(state, chain_B2M=state.chain_B2M[:, :, :0])

    def step(self, state: State, timestep: float, evaluate: Evaluate) -> State:
        raise NotImplementedError

    def degrees_of_freedom(self, state: State) -> Tensor:
        """(B,) how many momenta carry kT/2 of kinetic energy.

        With N atoms that move: 3 N - 3 (molecules: 3 N - 6, or 3 N - 5 when linear; one atom, or others fixed: 3 N) where the
        momentum is conserved and starts at zero. 3 N under Langevin noise, which thermalises the motion of the centre of mass
        like any other.
        """
        counts_B = 3 * state.num_free_B.double()  # whole numbers times kT would be float32
        return counts_B - state.conserved_B if self.conserves_momentum else counts_B

    def conserved_energy(self, state: State) -> Tensor:
        """(B,) eV, constant up to the error of the integrator."""
        return kinetic_energy(state) + state.energy_B - state.exchanged_B


def temperature(state: State, ensemble: Ensemble) -> Tensor:
    """(B,) float64, K."""
    return 2.0 * kinetic_energy(state) / (KB * ensemble.degrees_of_freedom(state))


def kick(state: State, dt: float) -> State:
    """Momenta of the atoms that move pushed by the forces for an internal time ``dt``."""
    return replace(state, momenta_N3=kernels.kick(state.momenta_N3, state.forces_N3, state.free_N, dt))


def drift(state: State, dt: float) -> State:
    """Positions moved by the momenta for an internal time ``dt``; the forces are now those of old positions."""
    positions_N3 = state.batch.positions_N3 + dt * state.momenta_N3 / state.masses_N.unsqueeze(1)
    return replace(state, batch=replace(state.batch, positions_N3=positions_N3))


def renew(state: State, evaluate: Evaluate) -> State:
    """The forces at the present positions."""
    return replace(state, **evaluation_fields(evaluate(state.batch)))


def advance(state: State, timestep: float) -> State:
    """Clock and step counter moved on by one step of ``timestep`` fs."""
    return replace(state, step=state.step + 1, time=state.time + timestep)


@dataclass(frozen=True)
class NVE(Ensemble):
    """Constant energy: velocity Verlet."""

    conserves_momentum: ClassVar[bool] = True

    def step(self, state: State, timestep: float, evaluate: Evaluate) -> State:
        dt = timestep * FS
        state = drift(kick(state, dt / 2), dt)
        return advance(kick(renew(state, evaluate), dt / 2), timestep)


@dataclass(frozen=True)
class Langevin(Ensemble):
    """Constant temperature by friction and noise: the BAOAB splitting (Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34).

    Attributes:
        temperature: K.
        friction: 1/fs.
    """

    temperature: float
    friction: float = 0.01

    def __post_init__(self) -> None:
        _require(0.0 <= self.temperature < math.inf, f"temperature is {self.temperature} K: give a finite one of zero or more.")
        _require(0.0 <= self.friction < math.inf, f"friction is {self.friction} 1/fs: give a finite one of zero or more (0.01 is usual).")

    def step(self, state: State, timestep: float, evaluate: Evaluate) -> State:
        dt = timestep * FS
        state = drift_in_bath(kick(state, dt / 2), dt, self.temperature, self.friction * timestep)
        return advance(kick(renew(state, evaluate), dt / 2), timestep)


def drift_in_bath(state: State, dt: float, kelvin: float, decay: float) -> State:
    """Half a drift, friction and noise of a bath at ``kelvin`` K, half a drift; the whole drift takes an internal time ``dt``."""
    batch, clock = state.batch, (state.index_N, state.seeds_B, state.step, noise.THERMOSTAT)
    positions_N3, momenta_N3, heat_N = kernels.drift_in_bath(
        batch.positions_N3, state.momenta_N3, state.masses_N, state.free_N, batch.system_N, *clock, dt, decay, KB * kelvin
    )
    exchanged_B = state.exchanged_B + sum_segments(heat_N, state.counts_B)
    return replace(state, batch=replace(batch, positions_N3=positions_N3), momenta_N3=momenta_N3, exchanged_B=exchanged_B)


@dataclass(frozen=True)
class StochasticCellRescaling(Ensemble):
    """Constant temperature and pressure by stochastic cell rescaling over BAOAB.

    Once per time step, at its start, where forces and stress belong to the positions, the systems are strained: positions and
    cell by F = exp(e), momenta by its inverse. Which strains there are is the coupling:

    * ``isotropic`` (Bernetti & Bussi, J. Chem. Phys. 153, 114107 (2020)): lambda = sqrt(V) follows the paper's equation with
      additive noise (their eq. for lambda, k = kT),
      d lambda = -(beta lambda / 2 tau) (P0 - P - kT / 2 V) dt + sqrt(kT beta / 2 tau) dW, by one Euler-Maruyama step.
    * ``anisotropic`` (Del Tatto et al., Appl. Sci. 12, 1139 (2022)): lengths and angles of the cell move. The paper's
      dh = -(beta / 3 tau) (P0 - P - kT / V) h dt + sqrt(2 beta kT / 3 V tau) dW h for the matrix h of column vectors, with nine
      independent noises, turns the system as a whole too, on which nothing depends. Without those turns, and with h' = exp(e) h,
      it reads e = -(beta / 3 tau) (P0 - P) dt + sqrt(2 beta kT / 3 V tau) (dW + dW^T) / 2: what kT / V stood for is in the second
      order of the exponential.
    * ``diagonal``: the diagonal of that e alone; rectangular cells stay rectangular.

    The volume samples V^N exp(-P0 V / kT) up to an error of the order of dt / tau.

    Attributes:
        temperature: K.
        pressure: bar.
        friction: 1/fs, of the thermostat.
        barostat_time: tau in fs.
        compressibility: beta in 1/bar; a rough value will do, only beta / tau matters. The default is water's.
        coupling: isotropic, anisotropic or diagonal.
    """

    temperature: float
    pressure: float = 1.01325
    friction: float = 0.01
    barostat_time: float = 1000.0
    compressibility: float = 4.6e-5
    coupling: Coupling = "isotropic"

    needs_stress: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Langevin(self.temperature, self.friction)
        _require(math.isfinite(self.pressure), f"pressure is {self.pressure} bar: give a finite number.")
        _require(
            0.0 < self.barostat_time < math.inf, f"barostat_time is {self.barostat_time} fs: give a positive, finite one (1000 is usual)."
        )
        _require(0.0 < self.compressibility < math.inf, f"compressibility is {self.compressibility} 1/bar: give a positive, finite number.")
        _require(self.coupling in get_args(Coupling), f"coupling is {self.coupling!r}: give one of {', '.join(get_args(Coupling))}.")

    def check_timestep(self, timestep: float) -> None:
        super().check_timestep(timestep)
        # From rest the first step takes beta P0 dt / tau of the volume; with all of it the equation of the paper has no finite step.
        share = abs(self.pressure * BAR) * self._rate(timestep)
        _require(
            share < 1.0,
            f"A pressure of {self.pressure:g} bar would change the volume by {share:.2g} times itself in a step of {timestep:g} fs: give a "
            "smaller pressure or timestep, or a smaller compressibility or longer barostat_time.",
        )

    def prepare(self, state: State) -> State:
        if not bool(state.batch.pbc_B3.all()):
            raise ValueError("Constant pressure needs cells periodic in all three directions: use Langevin or NVE otherwise.")
        return super().prepare(state)

    def step(self, state: State, timestep: float, evaluate: Evaluate) -> State:
        dt = timestep * FS
        strain_B33 = self._isotropic(state, timestep) if self.coupling == "isotropic" else self._anisotropic(state, timestep)
        pull_B33 = _strain_derivative(state)
        kicked = kick(state, dt / 2)
        state = strained(kicked, strain_B33)
        heat_B = kinetic_energy(state) - kinetic_energy(kicked)
        state = drift_in_bath(state, dt, self.temperature, self.friction * timestep)
        state = kick(renew(state, evaluate), dt / 2)
        # The noise makes e^2 of first order in dt, so the work on the interactions needs the trapezoid rule.
        work_B = heat_B + 0.5 * ((pull_B33 + _strain_derivative(state)) * strain_B33).sum((1, 2))
        return advance(replace(state, exchanged_B=state.exchanged_B + work_B), timestep)

    def _rate(self, timestep: float) -> float:
        """beta dt / tau in A^3/eV."""
        return self.compressibility / BAR * timestep / self.barostat_time

    def _isotropic(self, state: State, timestep: float) -> Tensor:
        """(B, 3, 3) strain after the volume's step."""
        kelvin, rate = KB * self.temperature, self._rate(timestep)
        normal_B = _cell_noise(state, 0)[:, 0]
        volume_B = state.batch.volume_B
        root_B = torch.sqrt(volume_B)
        excess_B = self.pressure * BAR - pressure(state) - kelvin / (2.0 * volume_B)
        root_new_B = root_B - 0.5 * rate * root_B * excess_B + math.sqrt(0.5 * kelvin * rate) * normal_B
        eye_33 = torch.eye(3, dtype=root_B.dtype, device=root_B.device)
        return (torch.log((root_new_B / root_B).square()) / 3.0)[:, None, None] * eye_33

    def _anisotropic(self, state: State, timestep: float) -> Tensor:
        """(B, 3, 3) strain after the cell's step, symmetric or diagonal."""
        kelvin, rate = KB * self.temperature, self._rate(timestep) / 3.0
        xx, yy, zz = _cell_noise(state, 0).unbind(1)
        yz, xz, xy = (math.sqrt(0.5) * _cell_noise(state, 1)).unbind(1)
        noise_B33 = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], 1).reshape(-1, 3, 3)
        eye_33 = torch.eye(3, dtype=noise_B33.dtype, device=noise_B33.device)
        width_B = torch.sqrt(2.0 * kelvin * rate / state.batch.volume_B)
        strain_B33 = rate * (pressure_tensor(state) - self.pressure * BAR * eye_33) + width_B[:, None, None] * noise_B33
        return strain_B33 if self.coupling == "anisotropic" else strain_B33 * eye_33


def _cell_noise(state: State, index: int) -> Tensor:
    """(B, 3) independent standard normals; ``index`` gives more of them in the same step."""
    return noise.gaussian(state.seeds_B, torch.full_like(state.seeds_B, index), state.step, noise.BAROSTAT)


def _strain_derivative(state: State) -> Tensor:
    """(B, 3, 3) eV, derivative of the potential energy with respect to the strain."""
    assert state.stress_B33 is not None
    return state.batch.volume_B[:, None, None] * state.stress_B33


def strained(state: State, strain_B33: Tensor) -> State:
    """Positions and cell deformed by exp(strain), momenta by its inverse; ``strain_B33`` is symmetric."""
    batch = state.batch
    larger_B33, smaller_B33 = kernels.exponential(torch.cat([strain_B33, -strain_B33])).chunk(2)
    positions_N3 = deform(batch.positions_N3, larger_B33, batch.system_N)
    momenta_N3 = deform(state.momenta_N3, smaller_B33, batch.system_N)
    return replace(state, batch=replace(batch, positions_N3=positions_N3, cell_B33=batch.cell_B33 @ larger_B33), momenta_N3=momenta_N3)


@dataclass(frozen=True)
class NoseHoover(Ensemble):
    """Constant temperature by a deterministic chain of thermostats (Martyna et al., Mol. Phys. 87, 1117 (1996)).

    Half a step of the chain (Suzuki-Yoshida of fourth order) on either side of velocity Verlet. The chain starts at rest
    and is kept when a simulation goes on with the same number of thermostats.

    Attributes:
        temperature: K.
        relaxation_time: fs; the masses of the chain are (dof) kT tau^2 and kT tau^2.
        chain: number of thermostats.
    """

    temperature: float
    relaxation_time: float = 100.0
    chain: int = 3

    conserves_momentum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require(0.0 < self.temperature < math.inf, f"temperature is {self.temperature} K: give a positive, finite one.")
        _require(
            0.0 < self.relaxation_time < math.inf,
            f"relaxation_time is {self.relaxation_time} fs: give a positive, finite one (100 is usual).",
        )
        _require(self.chain >= 1, f"chain is {self.chain}: give one thermostat or more.")

    def prepare(self, state: State) -> State:
        if state.chain_B2M.shape[2] == self.chain:
            return state
        return replace(state, chain_B2M=state.energy_B.new_zeros(state.energy_B.shape[0], 2, self.chain))

    def step(self, state: State, timestep: float, evaluate: Evaluate) -> State:
        bath = self._masses(state), self.degrees_of_freedom(state)
        moved = NVE().step(self._half_chain(state, timestep * FS / 2, *bath), timestep, evaluate)
        return self._half_chain(moved, timestep * FS / 2, *bath)

    def conserved_energy(self, state: State) -> Tensor:
        position_BM, velocity_BM = state.chain_B2M.unbind(1)
        mass_BM, kelvin = self._masses(state), KB * self.temperature
        weight_B = self.degrees_of_freedom(state)
        chain_B = (0.5 * mass_BM * velocity_BM.square()).sum(1) + kelvin * (weight_B * position_BM[:, 0] + position_BM[:, 1:].sum(1))
        return super().conserved_energy(state) + chain_B

    def _masses(self, state: State) -> Tensor:
        weight_BM = torch.ones_like(state.chain_B2M[:, 0])
        weight_BM[:, 0] = self.degrees_of_freedom(state)
        return weight_BM * (KB * self.temperature * (self.relaxation_time * FS) ** 2)

    def _half_chain(self, state: State, dt: float, mass_BM: Tensor, freedom_B: Tensor) -> State:
        """Chain moved by an internal time ``dt``, and the momenta scaled by what it did to them."""
        energies_B = 2.0 * kinetic_energy(state), freedom_B
        chain_B2M, scale_B = kernels.nose_hoover_chain(state.chain_B2M, mass_BM, *energies_B, KB * self.temperature, dt)
        momenta_N3 = state.momenta_N3 * scale_B[state.batch.system_N].unsqueeze(1)
        return replace(state, momenta_N3=momenta_N3, chain_B2M=chain_B2M)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
