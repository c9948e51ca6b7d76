"""Distances between the class scores of two segmenters (section 3.7 of the notes)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError


class _Divergence(nn.Module):
    """What both distances share: weight, temperature, and a 1x1 convolution where the numbers of classes differ."""

    def __init__(
        self, tau: float = 1.0, weight: float = 3.0, in_channels: int | None = None, out_channels: int | None = None
    ) -> None:
        super().__init__()
        if not tau > 0:
            raise InputError(f"a temperature of {tau}", "divergence.tau", "use a positive number, e.g. 1")
        if weight < 0:
            raise InputError(f"a weight of {weight}", "divergence.weight", "use 0 or more, e.g. 3")
        self.tau, self.weight = tau, weight
        self.align: nn.Conv2d | None = None
        if in_channels is not None and out_channels is not None and in_channels != out_channels:
            self.align = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weighted distance, a scalar of float32.

        Args:
            student: scores ``(N, C, H, W)``, not resized to the labels; of ``in_channels`` if they are aligned.
            teacher: the same of the teacher, ``(N, C', H, W)``; no gradient flows there.

        Raises:
            InputError: scores of different shapes.
        """
        classes = student.shape[1]  # the authors' code divides by the student's number, aligned or not
        if self.align is not None:
            student = self.align(student)
        if student.shape != teacher.shape:
            what = f"the student's scores are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}"
            remedy = "use networks of equal patch size and classes, or align the classes with in_channels, out_channels"
            raise InputError(what, type(self).__name__, remedy)
        own, theirs = student.float() / self.tau, teacher.detach().float() / self.tau
        return self.weight * self.tau**2 * self.total(own, theirs) / (self.places(student) * classes)

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance of scores divided by the temperature, summed."""
        raise NotImplementedError

    def places(self, scores: Tensor) -> int:
        """By how many images, or pixels of them, the sum is divided, beside the number of classes."""
        raise NotImplementedError


class ChannelWiseDivergence(_Divergence):
    """Where in the image each class has its scores: softmax over the places, cross-entropy, mean over images and
    classes (Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021).

    The teacher's entropy is not subtracted, as in the authors' code: the value stays large, up to
    ``weight * log(H * W)`` of flat maps, and the gradient is that of the divergence.

    Args:
        tau: temperature.
        weight: of the loss; published for ADE20K: 3.
        in_channels, out_channels: classes of student and teacher; where they differ a 1x1 convolution ``align``, a part
            of the student to be trained, makes one from the other.

    Raises:
        InputError: a temperature that is not positive, or a negative weight.
    """

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Cross-entropy over the places, summed over images and classes."""
        return -torch.einsum("nci,nci->", teacher.flatten(2).softmax(2), student.flatten(2).log_softmax(2))

    def places(self, scores: Tensor) -> int:
        """The images."""
        return len(scores)


class PixelDivergence(_Divergence):
    """Which class each place has: softmax over the classes, Kullback-Leibler divergence, mean over **all** numbers.

    The sum over classes is divided by their number as well, as in the authors' code.

    Args:
        tau, weight, in_channels, out_channels: as of :class:`ChannelWiseDivergence`.

    Raises:
        InputError: as there.
    """

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Divergence over the classes, summed over all pixels."""
        return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="sum", log_target=True)

    def places(self, scores: Tensor) -> int:
        """The pixels."""
        return len(scores) * scores.shape[2] * scores.shape[3]


DIVERGENCES: dict[str, type[ChannelWiseDivergence] | type[PixelDivergence]] = {
    "cwd": ChannelWiseDivergence,
    "kl": PixelDivergence,
}


def build_divergence(kind: str, weight: float = 3.0, tau: float = 1.0) -> ChannelWiseDivergence | PixelDivergence:
    """A distance by its name, ``cwd`` or ``kl``.

    Raises:
        InputError: another name, or numbers out of range.
    """
    if kind not in DIVERGENCES:
        raise InputError(f"unknown divergence {kind!r}", "divergence.kind", f"use one of {', '.join(DIVERGENCES)}")
    return DIVERGENCES[kind](tau, weight)
