"""Parameters and multiplications of the published sizes (section 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from g2sd.classifier import Classifier, DistilledVisionTransformer
from g2sd.generic import GenericStudent
from g2sd.mae import MaskedAutoencoder, random_mask
from g2sd.sizes import ENCODERS, MODELS, encoder_options, mae_model, model_options
from g2sd.teacher import MAETeacher
from vireo.backbones import patchify
from vireo.errors import InputError


def built(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def parameters(model: nn.Module, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trained)


def gigamacs(model: nn.Module, run: Callable[[], Any]) -> float:
    """Multiplications with addition of a forward pass, in thousand millions: matrix products and convolutions."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]  # the counter sees no fused attention on this device
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("network", "size", "options", "count"),
    [
        (DistilledVisionTransformer, "vit_tiny", {}, 5_910_608),
        (Classifier, "vit_tiny", {}, 5_717_416),
        (DistilledVisionTransformer, "vit_small", {}, 22_436_048),
        (Classifier, "vit_small", {}, 22_050_664),
        (Classifier, "vit_base", {"readout": "mean"}, 86_567_656),
    ],
)
def test_classifiers(network: type[Classifier], size: str, options: dict[str, Any], count: int) -> None:
    assert parameters(built(lambda: network(**encoder_options(size), **options)), trained=True) == count


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "heads"),
    [
        ("mae_vit_small_patch16", 21_665_664, 3_506_176, 1_280_512),
        ("mae_vit_tiny_patch16", 5_524_416, 942_464, 1_067_520),
    ],
)
def test_students_of_generic_distillation(name: str, encoder: int, decoder: int, heads: int) -> None:
    """The authors' have decoder norm and pixel head beside, and the encoder's head even where it is not judged."""
    student = built(lambda: GenericStudent(**model_options(name), encoder_weight=1.0))
    model: MaskedAutoencoder = built(lambda: mae_model(name))
    assert parameters(student.encoder) == parameters(model.encoder) == encoder
    assert parameters(model.decoder) == decoder
    assert parameters(student.decoder_head) + parameters(student.encoder_head) == heads
    unused = parameters(model.decoder) - parameters(student.decoder)
    assert parameters(student) + unused == encoder + decoder + heads
    tables = student.encoder.pos_embed.numel() + student.decoder.pos_embed.numel()
    assert parameters(student) - parameters(student, trained=True) == tables


def test_the_teacher() -> None:
    model: MaskedAutoencoder = built(lambda: mae_model("mae_vit_base_patch16"))
    assert parameters(model.encoder) == 85_798_656
    assert parameters(model.decoder) == 26_109_184
    assert len(model.state_dict()) == 254
    assert len(model.encoder.state_dict()) == 150


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [
        (Classifier, "vit_tiny", 1.25),
        (Classifier, "vit_small", 4.60),
        (Classifier, "vit_base", 17.56),
        (DistilledVisionTransformer, "vit_tiny", 1.26),
        (DistilledVisionTransformer, "vit_small", 4.62),
    ],
)
def test_multiplications_of_classifiers(network: type[Classifier], size: str, expected: float) -> None:
    model = built(lambda: network(**encoder_options(size)).eval())
    image = torch.empty(1, 3, 224, 224, device="meta")
    assert gigamacs(model, lambda: model(image)) == pytest.approx(expected, abs=0.006)


def not_embedded(dim: int) -> float:
    """What is spared of the counts of section 6, where the removed three quarters of the patches are embedded too."""
    return 147 * 768 * dim / 1e9


def visible() -> tuple[torch.Tensor, Any]:
    """Pixels of a quarter of the patches of an image, and which they are."""
    encoder = built(lambda: mae_model("mae_vit_tiny_patch16").encoder)
    mask = random_mask(encoder, 1, torch.rand(1, 196))
    patches = patchify(torch.empty(1, 3, 224, 224), 16, mask.ids_keep)
    return patches.to("meta"), type(mask)(*(part.to("meta") for part in mask))


@pytest.mark.parametrize(("blocks", "expected"), [(4, 4.43 + 2.64), (8, 4.43 + 5.28)])
def test_multiplications_of_the_teacher(blocks: int, expected: float) -> None:
    teacher = built(lambda: MAETeacher(target_block=blocks).eval())
    patches, mask = visible()
    found = gigamacs(teacher, lambda: teacher(patches, mask))
    assert found + not_embedded(768) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("name", "expected"), [("mae_vit_small_patch16", 1.15 + 0.70 + 0.08), ("mae_vit_tiny_patch16", 0.31 + 0.19 + 0.06)]
)
def test_multiplications_of_students(name: str, expected: float) -> None:
    student = built(lambda: GenericStudent(**model_options(name)).eval())
    patches, mask = visible()
    latent = student.encoder.norm(student.encoder.forward_blocks(student.encoder.embed_patches(patches, mask.ids_keep)))
    whole = gigamacs(
        student,
        lambda: (
            student.encoder.forward_blocks(student.encoder.embed_patches(patches, mask.ids_keep)),
            student.decoder_head(student.decoder.hidden(latent, mask)),
        ),
    )
    assert whole + not_embedded(student.encoder.embed_dim) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_every_name_builds(name: str) -> None:
    model: MaskedAutoencoder = built(lambda: mae_model(name))
    size = MODELS[name]
    assert (model.encoder.embed_dim, len(model.encoder.blocks)) == (size["embed_dim"], size["depth"])
    block: Any = model.encoder.blocks[0]
    assert block.attn.num_heads == size["num_heads"]
    assert (model.decoder.pos_embed.shape[2], len(model.decoder.blocks)) == (size["decoder_dim"], size["decoder_depth"])
    assert {key: value for key, value in size.items() if not key.startswith("decoder_")} == encoder_options(name)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="unknown model 'mae_vit_smal_patch16'"):
        mae_model("mae_vit_smal_patch16")
    with pytest.raises(InputError, match="has no argument widths"):
        mae_model("mae_vit_small_patch16", widths=3)
    with pytest.raises(InputError, match="unknown encoder 'vit_giant'"):
        encoder_options("vit_giant")
    assert set(ENCODERS) == {"vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"}
