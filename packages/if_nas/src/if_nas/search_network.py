"""What the search drives: super-networks of any space behind one interface."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from .schedule import ActiveNodes


class SearchNetwork(Protocol):
    """A super-network with architecture parameters, whose nodes are activated by a schedule.

    Attributes:
        nodes: of each stage, for ``schedule.active``.
        length: the longest connection, for ``InterleavingFreeSchedule``.
        has_unused_parameters: whether a phase may leave parameters without any gradient, not even zeros; distributed
            training must then look for them.
    """

    nodes: tuple[int, ...]
    length: int

    @property
    def has_unused_parameters(self) -> bool: ...

    def __call__(self, images: Tensor, active: ActiveNodes | None = None) -> Tensor:
        """(B, 3, H, W) to logits (B, classes); ``active=None``: every node is active."""

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The architecture parameters that are trained."""

    def weight_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""

    def penalties(self, active: ActiveNodes) -> tuple[Tensor, Tensor]:
        """R_edge and R_op of section 3.5, two scalars without weights."""

    def edge_weights(self) -> list[dict[int, dict[int, float]]]:
        """Of each stage: node to source to weight of the edge in [0, 1]."""

    def derive(self, threshold: float = 0.1, keep: int | None = None, op_threshold: float | None = None) -> Any:
        """The architecture that the weights stand for (section 3.7)."""
