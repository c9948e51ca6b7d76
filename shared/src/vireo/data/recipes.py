"""The usual recipes of classification for :class:`~vireo.data.loader.Loader`'s workers; images stay uint8.

A worker's transform maps ``(image (3, H, W), target)`` to ``(image (3, size, size), target)`` and draws from the global
generators, which the loader seeds per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vireo.data.crops import Interpolation, RandomResizedCrop
from vireo.data.transforms import IMAGENET_MEAN, Compose, Target, Transform
from vireo.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SMALL = 32
"""Largest side of a small image (CIFAR), of which no part can be spared."""
CROP_PCT = 224 / 256
"""Share of the resized image's short side that evaluation looks at."""


class ImageTransform:
    """A transform of the image alone, e.g. of ``torchvision.transforms.v2``."""

    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, dict[str, Any]]:
        return self.transform(image), target


class RandAugment:
    """timm's RandAugment (Cubuk et al., 2020) on a uint8 image, with the settings of timm's ImageNet training.

    Args:
        policy: timm's description, e.g. ``"rand-m9-mstd0.5-inc1"``: magnitude 9 with deviation 0.5, of operations that
            grow with it.
        size: side of the images; translations go up to 45 % of it. What they bring in is of the mean colour.
        mean: that colour, in grey levels.

    Raises:
        InputError: timm does not understand ``policy``.
    """

    def __init__(self, policy: str, size: int, mean: Sequence[float] = IMAGENET_MEAN) -> None:
        from timm.data.auto_augment import rand_augment_transform
        from timm.data.transforms import str_to_pil_interp

        import_module("torchvision.transforms.v2")  # now, so that forked workers find it loaded
        settings = {
            "translate_const": int(size * 0.45),
            "img_mean": tuple(round(channel) for channel in mean),
            "interpolation": str_to_pil_interp("bicubic"),
        }
        try:
            self.augment = rand_augment_transform(policy, settings)
        except (AssertionError, KeyError, ValueError) as error:
            what = f"{policy!r} is no policy of timm's RandAugment"
            raise InputError(what, type(self).__name__, "Use e.g. 'rand-m9-mstd0.5-inc1', or None") from error

        for operation in self.augment.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        from torchvision.transforms.v2 import functional as F

        return F.pil_to_tensor(self.augment(F.to_pil_image(image))), target


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the upper ``bits`` of each channel. timm asks for none at magnitude 10, which Pillow 13 refuses and older
    ones answered with black, as here."""
    from PIL import Image, ImageOps

    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def imagenet_transforms(train: bool, size: int = 224) -> Transform:
    """The usual ImageNet recipe.

    In training a random part of the image (8 to 100 % of its area) resized to ``size`` x ``size``, and a flip;
    otherwise the short side to ``size`` x 256 / 224 pixels and the middle ``size`` x ``size`` of that.
    """
    if train:
        return RandomResizedCrop(size, scale=(0.08, 1.0), interpolation="bilinear")
    return _middle(size, "bilinear", short_side=round(size * 256 / 224))


def finetune_transforms(
    train: bool, size: int = 224, rand_augment: str | None = "rand-m9-mstd0.5-inc1", *, crop_pct: float = CROP_PCT
) -> Transform:
    """The recipe by which vision transformers are fine-tuned (BEiT, MAE and their successors), with bicubic resizing.

    In training a random part of the image (8 to 100 % of its area), a flip, and timm's RandAugment with the policy
    ``rand_augment``; otherwise the middle of the image, ``crop_pct`` of its short side, by default as in
    :func:`imagenet_transforms`. Small images (``size`` up to 32) are shifted by up to 4 pixels over black instead of
    cropped, and evaluated whole.

    Random erasing, mixup and cutmix belong on the device, after normalisation.

    Raises:
        InputError: ``size`` is not positive, ``crop_pct`` is no share, or timm does not understand ``rand_augment``.
    """
    if size < 1:
        raise InputError(f"size {size} is not positive", "finetune_transforms", "Use e.g. 224")
    if not 0 < crop_pct <= 1:
        raise InputError(f"crop_pct {crop_pct} is not in (0, 1]", "finetune_transforms", "Use e.g. 0.875, or 1")
    small = size <= SMALL
    if not train:
        return _middle(size, "bicubic", short_side=size if small else round(size / crop_pct))
    crop = _shift(size) if small else RandomResizedCrop(size, scale=(0.08, 1.0))
    return crop if rand_augment is None else Compose(crop, RandAugment(rand_augment, size))


def _middle(size: int, interpolation: Interpolation, short_side: int) -> Transform:
    from torchvision.transforms import InterpolationMode, v2

    resize = v2.Resize(short_side, InterpolationMode(interpolation), antialias=True)
    return ImageTransform(v2.Compose([resize, v2.CenterCrop(size)]))


def _shift(size: int) -> Transform:
    from torchvision.transforms import InterpolationMode, v2

    resize = v2.Resize(size, InterpolationMode.BICUBIC, antialias=True)  # nothing where images have that size
    return ImageTransform(v2.Compose([resize, v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()]))
