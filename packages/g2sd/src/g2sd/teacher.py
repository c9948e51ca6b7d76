"""Teachers: frozen, in evaluation mode whatever happens, without gradient, in half precision where that is quicker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.backbones import TokenMask
from vireo.errors import InputError

from .mae import MaskedAutoencoder, build_decoder, build_encoder

PRECISIONS = ("auto", "32", "bf16")
TARGET_BLOCK = 4  # of the teacher's decoder, counted from 1 (section 3.2)
TARGET_EPS = 1e-6


class FrozenTeacher(nn.Module):
    """A network that only answers: inference mode, evaluation mode, bfloat16 where it pays.

    Answers are ordinary tensors of float32 that a loss may keep for its backward pass. ``train()`` changes nothing.

    Args:
        network: its parameters are frozen in place.
        precision: ``bf16`` by autocast, ``32``, or ``auto``: bf16 on a GPU, 32 on a CPU.

    Raises:
        InputError: another precision.
    """

    def __init__(self, network: nn.Module, precision: str = "auto") -> None:
        super().__init__()
        precision = str(precision)  # a command line makes a number of 32
        if precision not in PRECISIONS:
            remedy = f"use one of {', '.join(PRECISIONS)}"
            raise InputError(f"unknown precision {precision!r}", "teacher.precision", remedy)
        self.network = network.requires_grad_(False).eval()
        self.precision = precision
        super().train(False)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in evaluation mode."""
        return self

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """What the network answers, detached; tensors inside tuples, lists and mappings as well."""
        return self.ask(self.network, *inputs, **options)

    def ask(self, function: Any, *inputs: Any, **options: Any) -> Any:
        """The same of any ``function`` of the network, e.g. of its backbone alone."""
        device = next(self.network.parameters()).device.type
        half = self.precision == "bf16" or (self.precision == "auto" and device == "cuda")
        # a step's own autocast must not lower a teacher that was asked for in full precision
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            answer = function(*inputs, **options)
        return _ordinary(answer)


def _ordinary(value: Any) -> Any:
    """Tensors made under inference mode as copies that may take part in a graph, in float32 if they are floating."""
    if isinstance(value, Tensor):
        return value.clone() if not value.is_floating_point() or value.dtype == torch.float32 else value.float()
    if isinstance(value, Mapping):
        return {key: _ordinary(entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_ordinary(entry) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(_ordinary(entry) for entry in value)
    return value


class TeacherTargets(NamedTuple):
    """What generic distillation asks a student to predict (section 3.4).

    Attributes:
        decoder: ``(B, 1 + N, d)``: the stream behind the decoder's target block, class token first, each token
            normalised over its channels.
        encoder: ``(B, 1 + K, D)``: that behind the encoder's last block, likewise; None if it was not asked for.
    """

    decoder: Tensor
    encoder: Tensor | None


class MAETeacher(nn.Module):
    """The part of a masked autoencoder that generic distillation needs: its encoder and its first decoder blocks.

    What comes behind the target block, the decoder's norm and its head are not there at all.

    Args:
        img_size, patch_size, embed_dim, depth, num_heads: of the encoder.
        decoder_dim, decoder_heads: of the decoder.
        target_block: the decoder block whose output is the target, counted from 1.

    Attributes:
        encoder, decoder: as of :class:`~g2sd.MaskedAutoencoder`.

    Raises:
        InputError: sizes that do not fit each other, or no such block.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_dim: int = 512,
        decoder_heads: int = 16,
        target_block: int = TARGET_BLOCK,
    ) -> None:
        super().__init__()
        if target_block < 1:
            raise InputError(f"there is no decoder block {target_block}", "target_block", "count from 1, e.g. 4")
        self.encoder = build_encoder(img_size, patch_size, 3, embed_dim, depth, num_heads)
        grid = self.encoder.grid_size
        self.decoder = build_decoder(embed_dim, None, grid, decoder_dim, target_block, decoder_heads)

    @classmethod
    def of(cls, model: MaskedAutoencoder, target_block: int = TARGET_BLOCK) -> MAETeacher:
        """The teacher in a whole masked autoencoder, whose parameters it shares.

        Raises:
            InputError: the model's decoder has no such block.
        """
        if not 1 <= target_block <= len(model.decoder.blocks):
            what = f"the teacher's decoder has {len(model.decoder.blocks)} blocks, no block {target_block}"
            raise InputError(what, "target_block", f"use 1 to {len(model.decoder.blocks)}")
        teacher = cls.__new__(cls)
        nn.Module.__init__(teacher)
        teacher.encoder, decoder = model.encoder, model.decoder
        kept = build_decoder(1, None, (1, 1), decoder.pos_embed.shape[2], 0, 1)
        kept.embed, kept.mask_token, kept.pos_embed = decoder.embed, decoder.mask_token, decoder.pos_embed
        kept.blocks = decoder.blocks[:target_block]
        teacher.decoder = kept
        return teacher

    @property
    def decoder_dim(self) -> int:
        """Channels of the decoder's target."""
        return self.decoder.pos_embed.shape[2]

    def forward(self, patches: Tensor, mask: TokenMask, encoder: bool = False) -> TeacherTargets:
        """The targets.

        Args:
            patches: the visible ones, ``(B, K, 3 * p * p)``, of :func:`~g2sd.mae.visible_patches`.
            mask: which they are.
            encoder: also those of the encoder.
        """
        prenorm = self.encoder.forward_blocks(self.encoder.embed_patches(patches, mask.ids_keep))
        hidden = self.decoder.hidden(self.encoder.norm(prenorm), mask)
        return TeacherTargets(normalized(hidden), normalized(prenorm) if encoder else None)


def normalized(tokens: Tensor) -> Tensor:
    """Each token normalised over its channels, without scale and shift (``LN0`` of section 3.4), in float32."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=TARGET_EPS)
