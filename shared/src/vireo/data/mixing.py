"""Mixup and CutMix of a batch on its device, the same on every process."""

from __future__ import annotations

import torch
from timm.data import Mixup
from torch import Tensor

from vireo.data.random import seeded
from vireo.errors import InputError


class Mixing:
    """Mixes a batch with itself in reverse order, by timm's ``Mixup`` in batch mode, and makes soft labels.

    Mixup: Zhang et al. (2018), a weighted mean of two images; CutMix: Yun et al. (2019), a box of one image in the
    other. The choice between them, the weight and the box are drawn once for all images of a step from its key, so a
    step is mixed alike on every process; partners are of the same process.

    Args:
        num_classes: C.
        mixup, cutmix: parameter of the Beta distribution from which the weight is drawn; 0: never.
        prob: probability that a batch is mixed.
        switch_prob: probability of CutMix where both are on.
        label_smoothing: the part of each label that is spread evenly over all classes.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.1,
    ) -> None:
        for name, value, limit in (
            ("mixup", mixup, float("inf")),
            ("cutmix", cutmix, float("inf")),
            ("prob", prob, 1),
            ("switch_prob", switch_prob, 1),
            ("label_smoothing", label_smoothing, 1),
        ):
            if not 0 <= value <= limit:
                raise InputError(f"{name} {value} is not between 0 and {limit}", "Mixing", "Correct the value")
        self.num_classes = num_classes
        self._mixup = Mixup(
            mixup_alpha=mixup,
            cutmix_alpha=cutmix,
            prob=prob if mixup or cutmix else 0.0,
            switch_prob=switch_prob,
            label_smoothing=label_smoothing,
            num_classes=num_classes,
        )

    def mix(self, images: Tensor, labels: Tensor, batch_key: int | Tensor) -> tuple[Tensor, Tensor]:
        """The mixed batch; ``images`` stay as they are.

        Image i is mixed with image ``B - 1 - i``; the middle one of an odd number is its own partner. The draws are
        made on the CPU: reading a ``batch_key`` that lies on a GPU waits for it once.

        Args:
            images: floating point ``(B, C, H, W)``.
            labels: int64 ``(B,)`` in [0, num_classes).
            batch_key: the same number for all images of the step on all processes (:func:`counter_key`): an integer,
                or an int64 tensor, 0-dim or ``(B,)``.

        Returns:
            Images ``(B, C, H, W)`` and soft labels float32 ``(B, num_classes)``, whose rows add up to 1.

        Raises:
            InputError: the keys of the batch differ.
        """
        key, half = _common_key(batch_key), len(images) // 2
        order = torch.arange(len(images), device=images.device)
        odd = len(images) % 2 == 1
        if odd:  # timm wants an even number: the middle image twice, side by side
            order = torch.cat([order[: half + 1], order[half:]])
        with seeded(key):
            mixed, soft_label = self._mixup(images[order], labels[order])
        if odd:
            mixed, soft_label = (torch.cat([x[:half], x[half + 1 :]]) for x in (mixed, soft_label))
        return mixed, soft_label

    def __call__(self, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`mix` by the targets' ``label`` and ``batch_key``; the new targets have ``soft_label`` beside them."""
        mixed, soft_label = self.mix(images, targets["label"], targets["batch_key"])
        return mixed, {**targets, "soft_label": soft_label}


def _common_key(batch_key: int | Tensor) -> int:
    if not isinstance(batch_key, Tensor):
        return batch_key
    first, last = torch.stack(batch_key.aminmax()).tolist()
    if first != last:
        remedy = "Use one key for the whole batch, not the samples' own keys"
        raise InputError(f"keys from {first} to {last} in one batch", "Mixing", remedy)
    return int(first)
