"""What an encoder may lose, and how the recovery of it is judged: the degradations that keep the picture's frame.

Each is a module that maps normalised images to what the encoder sees, and has the loss of a prediction. Zooming, which
moves the frame, is in :mod:`beyond_masking.zoom`. Sections are those of the paper's task list: (c) distorted,
(d) blurred, (e) de-colorized, (m) mask only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.backbones import TokenMask
from vireo.errors import InputError

from .draws import Draws, GeneratorDraws
from .hsv import desaturated
from .targets import IMAGENET_MEAN, IMAGENET_STD, PixelTarget


class DegradedBatch(NamedTuple):
    """Images as an encoder sees them, ``(B, C, S, S)``, and the parameters that made them."""

    inputs: Tensor
    params: Any


class Degradation(nn.Module):
    """Base of the degradations.

    Attributes:
        crop_size: side of the images it takes.
        input_size: side of what the encoder sees.
        in_chans: channels of that.
        needs_all: whether the loss needs the prediction of every patch, also of those the encoder saw.
    """

    needs_all = False

    def __init__(self, crop_size: int, input_size: int | None = None, in_chans: int = 3) -> None:
        super().__init__()
        self.crop_size, self.input_size, self.in_chans = crop_size, input_size or crop_size, in_chans

    def draw(self, draws: Draws) -> Any:
        """Random parameters for a batch; None where there are none."""
        return None

    def degrade(self, images: Tensor, params: Any) -> Tensor:
        """What the encoder sees of ``images`` ``(B, 3, crop, crop)``: ``(B, in_chans, input, input)``."""
        raise NotImplementedError

    def forward(self, images: Tensor, params: Any = None, draws: Draws | None = None) -> DegradedBatch:
        """Degrade a batch with ``params``, by default drawn from ``draws`` or torch's global generator.

        Raises:
            InputError: images of another size.
        """
        if images.shape[1:] != (3, self.crop_size, self.crop_size):
            remedy = f"crop them to {self.crop_size} pixels, or build the degradation for their size"
            name = type(self).__name__
            raise InputError(
                f"{name} takes (B, 3, {self.crop_size}, {self.crop_size})", str(tuple(images.shape)), remedy
            )
        if params is None:
            params = self.draw(draws or GeneratorDraws(len(images), images.device))
        return DegradedBatch(self.degrade(images, params), params)

    def losses(
        self, prediction: Tensor, images: Tensor, params: Any, mask: TokenMask | None, target: PixelTarget
    ) -> dict[str, Tensor]:
        """Mean squared error over the patches that count: the removed ones, or all without a mask.

        Args:
            prediction: ``(B, M, p * p * 3)``, of ``mask.ids_removed`` or of all patches.
            images: ``(B, 3, crop, crop)`` as given to the degradation.
            params: of the degradation.
            mask: None if the encoder saw all patches.
            target: what is to be predicted.

        Returns:
            Losses by name; see :meth:`total`.
        """
        wanted = target(images, None if mask is None else mask.ids_removed)
        return {"loss": (prediction.float() - wanted).square().mean()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The loss to minimise."""
        return losses["loss"]

    def seen_of(self, images: Tensor) -> Tensor:
        """The picture whose patches are predicted, ``(B, 3, input, input)``."""
        return images


class Identity(Degradation):
    """(m) Nothing is lost but what a mask removes: MAE."""

    def degrade(self, images: Tensor, params: Any) -> Tensor:
        """The images themselves."""
        return images


class Fisheye(Degradation):
    """(c) Sampling points are pulled towards a centre c, the more the farther: ``G(q) = q + m |c - q| (c - q)``.

    Parameters: ``(B, 3)``, c_x and c_y in [-1, 1] coordinates of the image, and m.

    Args:
        size: side of the images.
        magnitude: range of m; below 1 / sqrt(8) no point leaves the image.
        center: range of c_x and c_y.
    """

    axis: Tensor

    def __init__(
        self, size: int = 224, magnitude: tuple[float, float] = (0.15, 0.25), center: tuple[float, float] = (-1.0, 1.0)
    ) -> None:
        super().__init__(size)
        self.low = (center[0], center[0], magnitude[0])
        self.span = (center[1] - center[0], center[1] - center[0], magnitude[1] - magnitude[0])
        self.register_buffer("axis", torch.linspace(-1, 1, size), persistent=False)

    def draw(self, draws: Draws) -> Tensor:
        """``(B, 3)``."""
        u = draws.uniform("fisheye", 3)
        return torch.stack([low + span * column for low, span, column in zip(self.low, self.span, u.unbind(1))], 1)

    def grid(self, params: Tensor) -> Tensor:
        """Sampling points ``(B, H, W, 2)``, (x, y) in [-1, 1]."""
        params = params.to(self.axis)
        points = torch.stack(torch.meshgrid(self.axis, self.axis, indexing="xy"), -1)
        difference = params[:, None, None, :2] - points
        return points + params[:, 2, None, None, None] * difference.norm(dim=-1, keepdim=True) * difference

    def degrade(self, images: Tensor, params: Tensor) -> Tensor:
        """Bilinear sampling; the corners of the frame are pixel centres."""
        return F.grid_sample(images, self.grid(params), mode="bilinear", padding_mode="zeros", align_corners=True)


class RandomBlur(Degradation):
    """(d) A random convolution of each image, zeros around it.

    ``dense`` mixes the colours too: every weight is N(1 / k^2, std), so that the brightness of three channels is summed
    (the released code cannot run; this is its evident intent). ``depthwise`` blurs each channel with a kernel that sums
    to 1. Parameters: ``(B, 3, 3, k, k)`` or ``(B, 3, 1, k, k)``.

    Args:
        size: side of the images.
        kernel: k, odd.
        std: deviation of a weight.
        mode: ``dense`` or ``depthwise``.
        bias: whether a constant of each channel, drawn once for good, is added, as a convolution layer has it.
    """

    bias: Tensor | None

    def __init__(
        self, size: int = 224, kernel: int = 7, std: float = 0.02, mode: str = "dense", bias: bool = True
    ) -> None:
        super().__init__(size)
        if mode not in ("dense", "depthwise") or kernel % 2 == 0:
            raise InputError(
                f"mode {mode!r}, kernel {kernel}", "RandomBlur", "use dense or depthwise, and an odd kernel"
            )
        self.kernel, self.std, self.mode = kernel, std, mode
        fixed = torch.rand(3, generator=torch.Generator().manual_seed(0))
        limit = (3 * kernel**2) ** -0.5
        self.register_buffer("bias", (2 * fixed - 1) * limit if bias else None, persistent=False)

    def draw(self, draws: Draws) -> Tensor:
        """``(B, 3, 3 or 1, k, k)``."""
        area, sources = self.kernel**2, 3 if self.mode == "dense" else 1
        weights = draws.normal("blur", 3 * sources * area) * self.std + 1 / area
        weights = weights.view(-1, 3, sources, self.kernel, self.kernel)
        return weights if sources == 3 else weights / weights.sum((3, 4), keepdim=True)

    def degrade(self, images: Tensor, params: Tensor) -> Tensor:
        """All images in one grouped convolution."""
        batch, channels, height, width = images.shape
        kernels = params.to(images.dtype).flatten(0, 1)
        blurred = F.conv2d(
            images.reshape(1, batch * channels, height, width),
            kernels,
            None if self.bias is None else self.bias.to(images.dtype).repeat(batch),
            padding=self.kernel // 2,
            groups=batch * channels // kernels.shape[1],
        )
        return blurred.view(batch, channels, height, width)


class RandomGray(Degradation):
    """(e) A random weighted sum of the channels of the normalised image; the target keeps its colours.

    Parameters: weights ``(1, 3)`` or, per sample, ``(B, 3)``, uniform in [0, ``high``].

    Args:
        size: side of the images.
        high: largest weight; three times half of 0.667 is 1 in the mean.
        channels: 1, or 3 for the same value in all channels, which keeps the patch embedding of colour images.
        per_sample: draw for each image; published: once for a batch.
    """

    def __init__(self, size: int = 224, high: float = 0.667, channels: int = 1, per_sample: bool = False) -> None:
        super().__init__(size, in_chans=channels)
        if channels not in (1, 3):
            raise InputError(f"{channels} channels", "RandomGray", "use 1 or 3")
        self.high, self.per_sample = high, per_sample

    def draw(self, draws: Draws) -> Tensor:
        """``(1 or B, 3)``."""
        return self.high * draws.uniform("gray", 3, shared=not self.per_sample)

    def degrade(self, images: Tensor, params: Tensor) -> Tensor:
        """``(B, channels, S, S)``."""
        gray = (params.to(images.dtype)[:, :, None, None] * images).sum(1, keepdim=True)
        return gray.expand(-1, self.in_chans, -1, -1)


class Desaturate(Degradation):
    """(e) as the released data set would have it: 8-bit HSV with the saturation multiplied by ``ratio``.

    Args:
        size: side of the images.
        ratio: of the saturation that is left.
        mean, std: by which the images were normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int = 224,
        ratio: float = 0.3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__(size)
        self.ratio = ratio
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def degrade(self, images: Tensor, params: Any) -> Tensor:
        """Back to 8 bits, desaturate, normalise again."""
        levels = ((images * self.std + self.mean) * 255).round().clamp(0, 255)
        return (desaturated(levels, self.ratio) / 255 - self.mean) / self.std
