"""The weights of the losses by epoch (section 4), the same for every depth.

Epochs are those of the whole recipe, from 0: batch shaping fades out over the first ``shaping_epochs``; then the L0
weight rises over ``rho_epochs``. The FGC stage starts at epoch ``shaping_epochs`` from the weights reached there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vireo.errors import InputError

Stage = Literal["bas", "fgc", "both"]
STAGES = ("bas", "fgc", "both")


@dataclass(frozen=True)
class LossWeights:
    """What multiplies the losses beside the cross-entropy in one epoch; a weight of 0 leaves its loss out.

    Attributes:
        zeta: of batch shaping.
        rho: of L0.
        kappa: of the coupling.
        coupling_epoch: epochs of coupling so far, this one included, from 1; 0 while there is no coupling.
    """

    zeta: float
    rho: float
    kappa: float = 0.0
    coupling_epoch: int = 0


@dataclass(frozen=True)
class Recipe:
    """Loss weights as functions of the epoch.

    Attributes:
        stage: ``bas`` (batch shaping, then L0), ``fgc`` (coupling and L0, from weights of ``bas``), or ``both`` in one
            run: ``bas`` up to ``shaping_epochs`` and ``fgc`` from there.
        zeta: batch shaping's first weight.
        shaping_epochs: after which it is 0 (section 4: 100).
        rho: the L0 weight in the end.
        rho_epochs: over which it rises.
        kappa: weight of the coupling.
    """

    stage: Stage = "bas"
    zeta: float = 0.75
    shaping_epochs: int = 100
    rho: float = 0.4
    rho_epochs: int = 200
    kappa: float = 0.003

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"unknown stage '{self.stage}'", "stage", f"use one of {', '.join(STAGES)}")
        for name in ("zeta", "rho", "kappa", "shaping_epochs", "rho_epochs"):
            if getattr(self, name) < 0:
                raise InputError(f"{getattr(self, name)} is negative", f"recipe.{name}", "give 0 or more")

    @property
    def first_epoch(self) -> int:
        """The epoch in which a run of this stage begins."""
        return self.shaping_epochs if self.stage == "fgc" else 0

    @property
    def coupling_start(self) -> int | None:
        """The epoch in which coupling begins, None without it."""
        return None if self.stage == "bas" else self.shaping_epochs

    def weights(self, epoch: int) -> LossWeights:
        """The weights in ``epoch`` of the whole recipe.

        The authors' two programs differ by one epoch in the rise of rho: batch shaping's reaches its end at the end of
        ``rho_epochs`` epochs, that of the coupling one epoch later. Both are kept.
        """
        since = epoch - self.shaping_epochs
        if self.stage == "fgc" or (self.stage == "both" and since >= 0):
            return LossWeights(0.0, self._rho(since), self.kappa, max(since + 1, 0))
        zeta = self.zeta * max(-since, 0) / self.shaping_epochs if self.shaping_epochs else 0.0
        return LossWeights(zeta, self._rho(since + 1) if since >= 0 else 0.0)

    def _rho(self, epochs: int) -> float:
        """``epochs`` after the rise began."""
        if epochs <= 0:
            return 0.0
        return self.rho * min(epochs / self.rho_epochs, 1.0) if self.rho_epochs else self.rho
