"""Execution of gated networks: computing only the channels that the gates leave on (section 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import GatedBlock, gated_blocks
from .folding import DenseBlock, FoldedBlock, fold_network
from .gather import GatherBlock, gather_network
from .ragged import RaggedBlock, require_gpu, require_triton

_BLOCKS: dict[str, type[FoldedBlock]] = {
    "dense": DenseBlock,
    "masked": FoldedBlock,
    "gather": GatherBlock,
    "ragged": RaggedBlock,
}
MODES = tuple(_BLOCKS)


class ConditionalExecutor(nn.Module):
    """A trained gated network for inference, executed as its gates decide.

    The network is copied and its batch norms are folded; the one given stays as it is. ``masked``, ``gather`` and
    ``ragged`` return what the network returns in evaluation, up to rounding.

    - ``dense``: all gates open and none computed, what the others are to be compared with.
    - ``masked``: computes every channel and multiplies by the gates.
    - ``gather``: for one image at a time, as on a CPU: gathers the filters of the first convolution and the input
      channels of the second that are on. A batch is run image by image.
    - ``ragged``: for batches on a GPU, each image with its own channels, by Triton kernels.

    Weights are taken at construction; an executor is not to be called from several threads at once.

    An image with a value that is not finite gets logits that are not a number: in ``masked`` because 0 times infinity
    is none, in the others by decree, since there it may lie in channels that are left out.

    Args:
        model: with gated blocks; in any mode, it is executed as in evaluation.
        mode: one of the above.

    Raises:
        InputError: an unknown mode, a model without gates or with weights that are not finite, a norm that cannot be
            folded; ``ragged`` without Triton.
    """

    like: Tensor  # for dtype and device

    def __init__(self, model: nn.Module, mode: str = "gather") -> None:
        super().__init__()
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is unknown", "ConditionalExecutor", f"give one of {', '.join(MODES)}")
        if not gated_blocks(model):
            raise InputError(
                f"{type(model).__name__} has no gates", "ConditionalExecutor", "train a gated network, see attach_gates"
            )
        if mode == "ragged":
            require_triton()
        _require_finite(model)
        self.mode = mode
        self.network = gather_network(model, GatherBlock) if mode == "gather" else fold_network(model, _BLOCKS[mode])
        stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d | GatedBlock))
        conv = stem.producer.conv if isinstance(stem, GatedBlock) else stem
        self.register_buffer("like", conv.weight.detach().new_empty(0), persistent=False)
        self.in_channels = conv.in_channels
        self.eval()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, C, H, W)`` to what the network returns.

        Raises:
            InputError: another shape, or another dtype or device than the network's.
        """
        self._check(images)
        if self.mode == "gather" and len(images) > 1:
            return torch.cat([self(image[None]) for image in images])
        logits = self.network(images)
        totals = images.sum() if len(images) == 1 else images.sum((1, 2, 3))[:, None]
        return torch.add(logits, totals, alpha=0)  # plus nothing, or what is not a number

    def _check(self, images: Tensor) -> None:
        weight = self.like
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            found = f"images of shape {tuple(images.shape)}"
            raise InputError(found, "ConditionalExecutor", f"give (B, {self.in_channels}, H, W)")
        if images.dtype != weight.dtype or images.device != weight.device:
            found = f"images are {images.dtype} on {images.device}, the network {weight.dtype} on {weight.device}"
            raise InputError(found, "ConditionalExecutor", "convert one of them with .to()")
        if self.mode == "ragged":
            require_gpu(images)


def _require_finite(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError("holds values that are not finite", f"{name} of the network", "load a sound checkpoint")
