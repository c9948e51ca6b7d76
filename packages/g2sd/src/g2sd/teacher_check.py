"""Is a checkpoint a teacher for generic distillation? What it is, whether the target is inside, and what it recovers.

A decoder that is missing or untrained makes the loss of distillation stall and shows nowhere else; so this runs before
every ``g2sd-distill``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.backbones.patches import patchify, pixel_loss
from vireo.data import ClassificationDataset
from vireo.data.classification_transforms import Normalize
from vireo.data.generated_classes import GeneratedClasses
from vireo.data.image_sets import NORMALIZATIONS, normalization
from vireo.engine.checkpoint import fit_state_dict
from vireo.errors import InputError

from .identify import Identity, identify
from .layouts import State, encoder_of, read_state, to_ours
from .mae import MASK_RATIO, MaskedAutoencoder
from .official_teacher import RELEASED, require_target, teacher_in, teacher_options

IMAGES = 8  # that a check looks at
_NEEDED = ("decoder_norm.weight", "decoder_pred.weight", "mask_token")  # beside the blocks, to predict pixels


class Recovery(NamedTuple):
    """What a masked autoencoder makes of removed patches, as shares of the loss of a constant: below 1 it has learnt.

    Attributes:
        normalised: of pixels normalised by their patch.
        raw: of plain ones.
    """

    normalised: float
    raw: float


class TeacherCheck(NamedTuple):
    """What is known of a teacher that can be used.

    Attributes:
        file: that was looked at.
        identity: what it is.
        options: its sizes, arguments of :class:`~g2sd.MaskedAutoencoder`.
        parameters: of the encoder and of the decoder in the file.
        target_block: that a student is to predict; None: not said.
        recovery: None where the file has no pixel head.
        images: on which it was judged, in words.
    """

    file: str
    identity: Identity
    options: dict[str, Any]
    parameters: tuple[int, int]
    target_block: int | None
    recovery: Recovery | None
    images: str

    @property
    def warning(self) -> str | None:
        """What speaks against it although everything is inside; None: nothing."""
        if self.recovery is not None and min(self.recovery) >= 1:
            return "it recovers removed patches no better than a constant: its decoder seems untrained"
        return None

    def __str__(self) -> str:
        sizes, (encoder, decoder) = self.options, (count / 1e6 for count in self.parameters)
        depth = sizes["decoder_depth"]
        lines = [
            f"{self.file}: {self.identity.kind}",
            f"  encoder: {self.identity.size or 'sizes of its own'}, {sizes['embed_dim']} channels, {sizes['depth']} "
            f"blocks, {sizes['num_heads']} heads, patches of {sizes['patch_size']}, images of {sizes['img_size']}; "
            f"{encoder:.1f} million parameters",
            f"  decoder: {sizes['decoder_dim']} channels, {depth} blocks, {sizes['decoder_heads']} heads; "
            f"{decoder:.1f} million parameters",
            f"  target: {self._target(depth)}",
            f"  pixels: {self._pixels()}",
        ]
        return "\n".join([*lines, *([f"  WARNING: {self.warning}"] if self.warning else [])])

    def _target(self, depth: int) -> str:
        if self.target_block is None:
            return f"any block from 1 to {depth}; published: 4 of 8"
        return f"block {self.target_block} of {depth} is inside"

    def _pixels(self) -> str:
        if self.recovery is None:
            return "no pixel head in the file, so what it recovers cannot be judged"
        normalised, raw = self.recovery
        said = f"loss {normalised:.2f} of a constant's if normalised by patch, {raw:.2f} if raw, on {self.images}"
        if min(normalised, raw) >= 1:
            return said
        if normalised <= raw:
            return f"{said}: it predicts normalised ones, as the paper's teacher"
        file = "mae_pretrain_vit_base_full.pth"
        return f"{said}: it predicts raw ones, as mae_visualize_*.pth do; the paper's teacher is {file} of {RELEASED}"


def check_teacher(
    weights: str | os.PathLike[str],
    target_block: int | None = None,
    name: str | None = None,
    dataset: ClassificationDataset | None = None,
    data: Any = None,
) -> TeacherCheck:
    """Check a teacher as strictly as training loads it, and see what it recovers.

    Args:
        weights: a run's folder or a file of any layout.
        target_block: that a student is to predict; None asks for any.
        name: a size that the file must have.
        dataset: whose first images it is to recover; None: pictures that the project draws.
        data: configuration, for mean and deviation of the images; None: ImageNet's.

    Raises:
        InputError: it cannot be used; see :func:`~g2sd.load_teacher`.
    """
    where, state = str(weights), read_state(weights)
    options = teacher_options(state, weights, name)
    block = options["decoder_depth"] if target_block is None else target_block
    require_target(options, block, where)
    teacher_in(state, weights, block, name=name)
    encoder = sum(value.numel() for value in encoder_of(state).values())
    decoder = sum(value.numel() for key, value in state.items() if key.startswith(("decoder_", "mask_token")))
    found, described = None, "drawn pictures" if dataset is None else "images of its data"
    if all(key in state for key in _NEEDED):
        pictures = GeneratedClasses(IMAGES, (options["img_size"],) * 2, 0) if dataset is None else dataset
        images = sample_images(pictures, options["img_size"], data)
        found, described = recovery(state, options, images, where), f"{len(images)} {described}"
    identity = identify(state, where, options)
    return TeacherCheck(where, identity, options, (encoder, decoder), target_block, found, described)


@torch.no_grad()
def recovery(state: State, options: Mapping[str, Any], images: Tensor, where: str) -> Recovery:
    """What the masked autoencoder in a checkpoint recovers of images.

    Args:
        state: under the authors' names, complete.
        options: its sizes.
        images: normalised ``(B, 3, H, W)`` of its size.
        where: its name in messages.

    Raises:
        InputError: entries that are missing or misshaped.
    """
    model = MaskedAutoencoder(**options).eval()
    ours, own = to_ours(state), model.state_dict()
    kept = {key: ours.get(key, value) for key, value in own.items() if key in ours or key.endswith("pos_embed")}
    fit_state_dict(model, {**kept, **{key: own[key] for key in own if key.endswith("pos_embed")}}, where)
    noise = torch.rand(len(images), model.num_patches, generator=torch.Generator().manual_seed(0))
    latent, _, mask = model.forward_encoder(images, noise, MASK_RATIO)
    prediction = model.decoder(latent, mask, mask.ids_removed)
    patches = patchify(images, model.patch_size, mask.ids_removed)
    constants = (torch.zeros_like(patches), patches.mean().expand_as(patches))
    shares = [
        float(pixel_loss(prediction, patches, norm) / pixel_loss(constant, patches, norm))
        for norm, constant in zip((True, False), constants)
    ]
    return Recovery(*shares)


def sample_images(dataset: ClassificationDataset, side: int, data: Any = None, count: int = IMAGES) -> Tensor:
    """The first images of a set that can be read, normalised ``(B, 3, side, side)``.

    Args:
        dataset: not empty.
        side: they are resized to.
        data: configuration, for mean and deviation; None: ImageNet's.
        count: B at most.

    Raises:
        InputError: none can be read.
    """
    found: list[Tensor] = []
    for index in range(len(dataset)):
        try:
            image = dataset.load_image(index)
        except InputError:
            if index + 1 == len(dataset) and not found:
                raise
            continue  # the run itself reports it
        found.append(F.interpolate(image[None].float(), (side, side), mode="bilinear", antialias=True)[0])
        if len(found) == count:
            break
    transform = Normalize(*NORMALIZATIONS["imagenet"]) if data is None else normalization(data)
    images: Tensor = transform(torch.stack(found), {})[0]
    return images
