"""Generic distillation: a student predicts what a teacher's decoder holds of every patch (sections 3.3 and 3.4).

Legend of shapes: B images, N patches, K of them visible, D channels of an encoder, d of a decoder.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from vireo.backbones import TokenMask
from vireo.engine import Pretrained
from vireo.errors import InputError

from .mae import MASK_RATIO, MaskedAutoencoder, build_decoder, build_encoder, init_weights, random_mask, visible_patches
from .teacher import TARGET_BLOCK, FrozenTeacher, MAETeacher, TeacherTargets

Tokens = Literal["all", "masked", "visible"]
TOKENS = ("all", "masked", "visible")
BETA = 2.0  # of the smooth L1 distance


class GenericOutput(NamedTuple):
    """What a step of generic distillation computes.

    Attributes:
        loss: scalar to minimise.
        losses: its parts without their weights, and the decoder's distance of the class token, visible and masked
            patches; without gradient.
        prediction: ``(B, 1 + N, d)`` of the teacher's decoder; None where only the encoder is judged.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    prediction: Tensor | None


def token_distances(prediction: Tensor, target: Tensor, beta: float = BETA) -> Tensor:
    """Mean smooth L1 distance of each token: twice ``(B, T, d)`` to ``(B, T)``.

    With the difference x it is ``x^2 / (2 beta)`` where ``|x| < beta``, else ``|x| - beta / 2``.
    """
    return F.smooth_l1_loss(prediction.float(), target.float(), beta=beta, reduction="none").mean(2)


def generic_distillation_loss(
    prediction: Tensor, target: Tensor, token_mask: Tensor | None = None, beta: float = BETA
) -> Tensor:
    """Mean smooth L1 distance of predicted hidden states (section 3.4).

    Args:
        prediction: ``(B, T, d)``.
        target: ``(B, T, d)``, normalised over the channels.
        token_mask: bool ``(B, T)``, the tokens that are judged; None for all. Without any the loss is 0.
        beta: where the distance turns from a square into a line.

    Raises:
        InputError: prediction and target of different shapes.
    """
    if prediction.shape != target.shape:
        what = f"targets of shape {tuple(target.shape)}, predictions of {tuple(prediction.shape)}"
        raise InputError(what, "target", "give the student a head of the teacher's width, and the same images and mask")
    if token_mask is None:
        return F.smooth_l1_loss(prediction.float(), target.float(), beta=beta)
    return _mean_of(token_distances(prediction, target, beta), token_mask)


def _mean_of(distances: Tensor, judged: Tensor) -> Tensor:
    return (distances * judged).sum() / judged.sum().clamp(min=1)


def _head(in_dim: int, out_dim: int) -> Mlp:
    return Mlp(in_dim, out_dim, out_dim)


class GenericStudent(nn.Module, Pretrained):
    """A small masked autoencoder whose decoder predicts a teacher's hidden states in place of pixels.

    Compared with the authors' code it has no decoder norm and no pixel head, which get no gradient there, and the head
    for the encoder's states only where they are judged.

    Args:
        img_size, patch_size: of the images and patches, as of the teacher.
        embed_dim, depth, num_heads: of the encoder.
        decoder_dim, decoder_depth, decoder_heads: of the decoder.
        teacher_dim: d of the teacher.
        teacher_encoder_dim: D of the teacher, for ``encoder_weight``.
        tokens: which are judged: ``all`` with the class token, or patches that are ``masked`` or ``visible``.
        decoder_weight, encoder_weight: of the two losses; published: 1 and 0. What has no weight is not computed.
        beta: of the smooth L1 distance.

    Attributes:
        encoder: :class:`~vireo.backbones.MaskedViT`: what is kept.
        decoder, decoder_head, encoder_head: what is thrown away; ``encoder_head`` may be None, and without
            ``decoder_weight`` the other two are.

    Raises:
        InputError: an unknown choice, no positive weight, or sizes that do not fit each other.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        decoder_dim: int = 256,
        decoder_depth: int = 4,
        decoder_heads: int = 8,
        *,
        teacher_dim: int = 512,
        teacher_encoder_dim: int = 768,
        tokens: Tokens = "all",
        decoder_weight: float = 1.0,
        encoder_weight: float = 0.0,
        beta: float = BETA,
    ) -> None:
        super().__init__()
        if tokens not in TOKENS:
            raise InputError(f"unknown choice {tokens!r}", "tokens", f"use one of {', '.join(TOKENS)}")
        if min(decoder_weight, encoder_weight) < 0 or decoder_weight + encoder_weight <= 0:
            what = f"weights of {decoder_weight} and {encoder_weight} ask for nothing"
            raise InputError(what, "decoder_weight, encoder_weight", "use e.g. 1 and 0")
        if not beta > 0:
            raise InputError(f"beta {beta} is not positive", "beta", "use e.g. 2")
        self.tokens, self.beta = tokens, beta
        self.decoder_weight, self.encoder_weight = decoder_weight, encoder_weight
        self.encoder = build_encoder(img_size, patch_size, 3, embed_dim, depth, num_heads)
        self.decoder = self.decoder_head = self.encoder_head = None
        if decoder_weight:
            grid = self.encoder.grid_size
            self.decoder = build_decoder(embed_dim, None, grid, decoder_dim, decoder_depth, decoder_heads)
            self.decoder_head = _head(decoder_dim, teacher_dim)
        if encoder_weight:
            self.encoder_head = _head(embed_dim, teacher_encoder_dim)
        init_weights(self)

    def forward(self, patches: Tensor, mask: TokenMask, targets: TeacherTargets) -> GenericOutput:
        """Loss of a batch.

        Args:
            patches: the visible ones, ``(B, K, 3 * p * p)``, of :func:`~g2sd.mae.visible_patches`.
            mask: which they are.
            targets: of the teacher for the same, without gradient.

        Raises:
            InputError: targets of another shape, or none of the encoder where they are judged.
        """
        latent = self.encoder.norm(self.encoder.forward_blocks(self.encoder.embed_patches(patches, mask.ids_keep)))
        loss = torch.zeros((), device=latent.device)
        losses: dict[str, Tensor] = {}
        prediction: Tensor | None = None
        if self.decoder is not None and self.decoder_head is not None:
            prediction = self.decoder_head(self.decoder.hidden(latent, mask))
            part, groups = self._decoder_loss(prediction, targets.decoder, mask.mask)
            loss = loss + self.decoder_weight * part
            losses |= {"decoder": part.detach(), **groups}
        if self.encoder_head is not None:
            if targets.encoder is None:
                raise InputError("no targets of the encoder", "targets", "ask the teacher with encoder=True")
            part = generic_distillation_loss(self.encoder_head(latent), targets.encoder, beta=self.beta)
            loss = loss + self.encoder_weight * part
            losses["encoder"] = part.detach()
        return GenericOutput(loss, losses, prediction)

    def _decoder_loss(self, prediction: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the judged tokens, and the mean distance of each group of tokens."""
        if prediction.shape != target.shape:
            generic_distillation_loss(prediction, target)  # says what is wrong
        distances = token_distances(prediction, target, self.beta)
        patches = distances[:, 1:]
        groups = {
            "cls_token": distances[:, 0].mean(),
            "visible": _mean_of(patches, ~mask),
            "masked": _mean_of(patches, mask),
        }
        loss = distances.mean() if self.tokens == "all" else groups[self.tokens]
        return loss, {name: value.detach() for name, value in groups.items()}

    def export_encoder(self) -> dict[str, Tensor]:
        """What stays of generic distillation: the encoder, under timm's names, 150 tensors of 12 blocks."""
        return {key: value.detach().clone() for key, value in self.encoder.state_dict().items()}


class GenericDistiller(nn.Module):
    """Teacher and student in one module, for use outside our trainer.

    The teacher's weights are not in ``state_dict()`` and ``parameters()``; ``to()`` and ``cuda()`` move it as well.

    Args:
        teacher: a whole masked autoencoder, or the part that is needed.
        student: whose ``teacher_dim`` is the teacher's decoder's.
        target_block: of a whole autoencoder: the decoder block whose output is predicted, counted from 1.
        precision: of the teacher; see :class:`~g2sd.FrozenTeacher`.

    Raises:
        InputError: a student that does not suit the teacher, or no such block.
    """

    def __init__(
        self,
        teacher: MaskedAutoencoder | MAETeacher,
        student: GenericStudent,
        target_block: int = TARGET_BLOCK,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        part = MAETeacher.of(teacher, target_block) if isinstance(teacher, MaskedAutoencoder) else teacher
        require_pair(part, student)
        self.student = student
        self._teacher = [FrozenTeacher(part, precision)]  # in a list: no submodule

    @property
    def teacher(self) -> FrozenTeacher:
        """The frozen teacher."""
        return self._teacher[0]

    def _apply(self, fn: Any, recurse: bool = True) -> GenericDistiller:
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, images: Tensor, noise: Tensor | None = None, mask_ratio: float = MASK_RATIO) -> GenericOutput:
        """Loss of a batch of normalised images ``(B, 3, H, W)``; the rest as of
        :meth:`~g2sd.MaskedAutoencoder.forward_encoder`.
        """
        encoder = self.student.encoder
        mask = random_mask(encoder, len(images), noise, mask_ratio)
        patches = visible_patches(encoder, images, mask)
        targets = self.teacher(patches, mask, encoder=bool(self.student.encoder_weight))
        output: GenericOutput = self.student(patches, mask, targets)
        return output

    def export_encoder(self) -> dict[str, Tensor]:
        """See :meth:`GenericStudent.export_encoder`."""
        return self.student.export_encoder()


def require_pair(teacher: MAETeacher, student: GenericStudent) -> None:
    """Check that a student can learn from a teacher.

    Raises:
        InputError: patches, grids or widths that differ, with both numbers.
    """
    theirs, own = teacher.encoder, student.encoder
    where = "teacher and student"
    if theirs.patch_embed.patch_size != own.patch_embed.patch_size:
        sizes = theirs.patch_embed.patch_size[0], own.patch_embed.patch_size[0]
        what = f"the teacher has patches of {sizes[0]} pixels, the student of {sizes[1]}"
        raise InputError(what, where, f"use a student of model.patch_size={sizes[0]}, or another teacher")
    if theirs.grid_size != own.grid_size:
        what = f"the teacher sees {theirs.grid_size} patches, the student {own.grid_size}"
        raise InputError(what, where, "build both for the same image size")
    widths: list[tuple[str, nn.Module | None, int]] = [
        ("decoder", student.decoder_head, teacher.decoder_dim),
        ("encoder", student.encoder_head, theirs.embed_dim),
    ]
    for name, head, width in widths:
        if isinstance(head, Mlp) and (found := head.fc2.out_features) != width:
            what = f"the student predicts {found} channels, the teacher's {name} has {width}"
            raise InputError(what, where, f"build the student for a teacher of {width} channels")
