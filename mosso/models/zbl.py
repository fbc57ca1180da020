"""The repulsion of nuclei that keeps atoms apart where a model has seen no data."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mosso import kernels
from mosso.graph.graph import Graph
from mosso.models.blocks import StockModule

# Of the universal screening function; 14.3996 eV A is e^2 / (4 pi eps0) and 0.529 A the Bohr radius, as MACE rounds them.
_EXPONENTS = (3.2, 0.9423, 0.4028, 0.2016)
_COULOMB, _BOHR = 14.3996, 0.529


class ZBL(StockModule):
    """Universal screened repulsion (Ziegler, Biersack, Littmark, 1985) with MACE's constants, zero from the sum of the covalent radii on.

    Args:
        tensors: ``pair_repulsion_fn`` of a MACE model.
        numbers: atomic numbers of the species.
    """

    def __init__(self, tensors: Mapping[str, Tensor], numbers: tuple[int, ...]) -> None:
        super().__init__(tensors, torch.float64)
        self.register_buffer("numbers_S", torch.tensor(numbers), persistent=False)
        self._coefficients, self._power = tensors["c"].tolist(), int(tensors["p"])

    def fold(self) -> Tensor:
        """(S, S, 3) charges, inverse screening lengths and radii of pairs, see ``kernels.pair_repulsion``; half the energy of a pair."""
        charge_S = self.numbers_S.double()
        power_S = charge_S**self.a_exp
        inverse_SS = (power_S.unsqueeze(1) + power_S) / (self.a_prefactor * _BOHR)
        radius_S = self.covalent_radii[self.numbers_S]
        strength_SS = 0.5 * _COULOMB * charge_S.unsqueeze(1) * charge_S
        return torch.stack([strength_SS, inverse_SS, radius_S.unsqueeze(1) + radius_S], dim=2)

    def forward(self, vectors_E3: Tensor, species_N: Tensor, graph: Graph) -> Tensor:
        """(N,) float64, eV, of each receiver."""
        terms = (self._coefficients, _EXPONENTS, self._power)
        return kernels.pair_repulsion(
            vectors_E3, species_N, self.folded(), *terms, graph.senders_E, graph.receivers_E, graph.receiver_offsets
        )
