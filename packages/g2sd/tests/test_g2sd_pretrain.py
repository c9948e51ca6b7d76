"""``g2sd-pretrain`` end to end on tiny data, and masked autoencoders at their edges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from g2sd_generic_runs import PRETRAIN, call, pretrain

from g2sd.mae import MaskedAutoencoder, random_mask, visible_patches
from g2sd.official import to_official
from g2sd.sizes import mae_model
from vireo.backbones import MaskedViT
from vireo.errors import InputError
from vireo.testing.runs import losses, read, weights

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
DECODER = {"decoder_dim": 24, "decoder_depth": 3, "decoder_heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return pretrain(folder, "epochs=6", "gallery_images=3", "+paper_metrics.loss=0.4", report=True)


def test_pixels(run: Path) -> None:
    steps = losses(run)
    assert len(steps) == 24
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    assert read(run / "metrics.json")["metrics"]["loss"] < 1.1
    assert (run / "gallery" / "recovery.png").stat().st_size > 1000
    assert "recovery" in (run / "report.html").read_text()


def test_going_on_from_another_run_or_a_checkpoint(run: Path, tmp_path: Path) -> None:
    """A start with no step worth its name keeps the weights."""
    still = ["optim.lr=1e-30", "optim.weight_decay=0", "epochs=1", "eval_every=0"]
    network = MaskedAutoencoder(**SIZES, **DECODER)  # type: ignore[arg-type]
    network.load_state_dict(weights(run))
    torch.save({"model": to_official(network), "epoch": 3}, tmp_path / "authors.pth")
    for start in (run, tmp_path / "authors.pth"):
        found = weights(pretrain(tmp_path / f"from_{start.stem}", f"init={start}", *still))
        assert all(torch.equal(value, weights(run)[key]) for key, value in found.items())
    larger = weights(pretrain(tmp_path / "larger", f"init={run}", "model.img_size=20", *still))
    assert larger["encoder.pos_embed"].shape[1] == 26  # fixed positions follow the images
    assert torch.equal(larger["decoder.embed.weight"], weights(run)["decoder.embed.weight"])


def test_raw_pixels_of_shapes(tmp_path: Path) -> None:
    """Pictures of the segmentation set, raw pixels, gradient checkpointing."""
    data = ["data=shapes", "data.train_images=32", "data.val_images=8", "data.image_size=[20,20]"]
    data.append("data.object_size=[6,10]")
    pretrain(tmp_path, "norm_pix=false", "grad_checkpointing=true", data=data)
    assert len(losses(tmp_path)) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["mask_ratio=0"], "leaves none, or removes none"),
        (["mask_ratio=0.99"], "leaves none, or removes none"),
        (["model.decoder_dim=30"], "30 channels are no multiple of 4"),
        (["model.num_heads=3"], "32 channels are not divided by 3 heads"),
        (["model.name=mae_vit_small"], "unknown model 'mae_vit_small'"),
        (["+model.drop_path_rate=0.1"], "has no argument drop_path_rate"),
        (["model.img_size=[16,24]"], "crops of 16x24 are no squares"),
        (["model.img_size=18"], "not divided by patches of 4x4"),
        (["data.batch_size=65"], "64 images do not fill a batch of 65"),
        (["optim.lr=0"], "trains nothing"),
        (["init=absent.pth"], "no such file"),
        (["data=cifar10"], "give the folder of the data with data.root=DIR"),
        (["augmentation.interpolation=bicubic"], "resized bilinearly"),
        (["+target_block=4"], "these are the settings of g2sd-distill"),
        (["+mixing.mixup=0.8"], "these are the settings of g2sd-finetune"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: list[str], message: str) -> None:
    data = [] if "data=cifar10" in settings else ["data.train_images=64", "data.val_images=40"]
    outcome = call("pretrain", *data, *PRETRAIN, f"output_dir={tmp_path}", *settings)
    assert outcome.status == 2
    assert message in outcome.err


def test_other_networks_are_refused(run: Path, tmp_path: Path) -> None:
    for settings, message in (
        (["model.decoder_depth=2"], "decoder.blocks.2"),
        (["model.embed_dim=64"], "file (32, 3, 4, 4), model (64, 3, 4, 4)"),
        (["model.decoder_depth=4"], "decoder.blocks.3"),
    ):
        outcome = call("pretrain", *PRETRAIN, f"output_dir={tmp_path}", f"init={run}", *settings)
        assert outcome.status == 2
        assert message in outcome.err


# -- networks ----------------------------------------------------------------------------------------------------------


def test_reconstruction_keeps_what_is_seen() -> None:
    model = mae_model("mae_vit_tiny_patch16", img_size=64, embed_dim=32, num_heads=2, depth=1)
    images, noise = torch.rand(2, 3, 64, 64), torch.rand(2, 16)
    mask = model.mask(2, noise).mask.reshape(2, 4, 4).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    for norm_pix in (True, False):
        model.norm_pix = norm_pix
        parts = model.reconstruct(images, noise)
        assert torch.allclose(parts["input"], images * ~mask)
        assert torch.allclose(parts["prediction"] * ~mask, images * ~mask)
        assert not torch.allclose(parts["prediction"], images)


def test_visible_encoding_is_plain_encoding() -> None:
    """With nothing removed, the gathered patches give what timm's forward pass gives; and fused attention what a
    written-out one gives."""
    model = MaskedAutoencoder(**SIZES, **DECODER).eval()  # type: ignore[arg-type]
    images = torch.rand(2, 3, 16, 16)
    encoder: MaskedViT = model.encoder
    mask = random_mask(encoder, 2, torch.arange(16).float().repeat(2, 1), 0.0)
    patches = visible_patches(encoder, images, mask)
    with torch.no_grad():
        found = encoder.norm(encoder.forward_blocks(encoder.embed_patches(patches, mask.ids_keep)))
        expected = encoder.forward_features(images)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]
        torch.testing.assert_close(encoder.forward_features(images), expected, rtol=1e-5, atol=1e-5)


def test_images_and_noise_of_another_size() -> None:
    model = MaskedAutoencoder(**SIZES, **DECODER)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="images of 16x20 for a network of 16x16"):
        model(torch.rand(2, 3, 16, 20))
    with pytest.raises(InputError, match=r"noise of shape \(2, 196\) for 2 images of 16 patches"):
        model(torch.rand(2, 3, 16, 16), torch.rand(2, 196))
    with pytest.raises(InputError, match="no patch is removed"):
        model(torch.rand(2, 3, 16, 16), mask_ratio=0.0)
