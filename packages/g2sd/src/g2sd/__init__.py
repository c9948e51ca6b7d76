"""G2SD: generic-to-specific distillation of masked autoencoders (arXiv 2302.14771, CVPR 2023).

The public surface is imported on first use, so that ``import g2sd`` and every ``--help`` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from .generic import GenericDistiller as GenericDistiller
    from .generic import GenericStudent as GenericStudent
    from .generic import generic_distillation_loss as generic_distillation_loss
    from .mae import MaskedAutoencoder as MaskedAutoencoder
    from .sizes import mae_model as mae_model
    from .teacher import FrozenTeacher as FrozenTeacher
    from .teacher import MAETeacher as MAETeacher

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(__name__, __file__)
