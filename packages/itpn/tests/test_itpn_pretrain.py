"""``itpn-pretrain`` end to end on tiny data, and its networks and views at their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from itpn_golden import filled
from itpn_pretrain_runs import PIXEL, call, clip, image_files, pretrain
from itpn_pretraining import official_name
from torch import Tensor

from itpn.distill import FeatureDistillPretrain
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck
from itpn.pixel import MaskedPyramidAutoencoder
from itpn.pretraining import load_pretraining
from itpn.pretraining_data import BatchColorJitter, TwoViews
from vireo.errors import InputError
from vireo.testing.runs import logged, losses, read, weights

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


def backbone(**options: Any) -> HiViT:
    return HiViT(img_size=32, patch_size=8, embed_dim=32, depths=(1, 1, 2), num_heads=2, **options)


def autoencoder(**options: Any) -> MaskedPyramidAutoencoder:
    return MaskedPyramidAutoencoder(backbone(), PyramidNeck((8, 16, 32), 16), 32, 1, 2, **options)


def distiller(**options: Any) -> FeatureDistillPretrain:
    return FeatureDistillPretrain(backbone(rel_pos="bias"), PyramidNeck((8, 16, 32), 16), 6, **options)


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_pixels(tmp_path: Path) -> None:
    pretrain(tmp_path, *PIXEL, "gallery_images=3", "epochs=6", "+paper_metrics.top1=85.1")
    steps = losses(tmp_path)
    assert len(steps) == 24
    assert steps[-1]["loss"] < 0.97 * steps[0]["loss"]
    metrics = read(tmp_path / "metrics.json")["metrics"]
    assert metrics["loss"] == metrics["pixel"]
    assert (tmp_path / "gallery" / "recovery.png").stat().st_size > 1000
    assert "recovery" in (tmp_path / "report.html").read_text()


def test_features_of_a_teacher(tmp_path: Path) -> None:
    pretrain(tmp_path / "run", *clip(tmp_path))
    metrics = read(tmp_path / "run" / "metrics.json")["metrics"]
    assert metrics["loss"] == pytest.approx(metrics["pyramid"] + metrics["tap"])
    assert not any("visual" in key or "resblocks" in key for key in weights(tmp_path / "run"))


def test_going_on_from_another_run(tmp_path: Path) -> None:
    pretrain(tmp_path / "first", *PIXEL, "epochs=6")
    pretrain(tmp_path / "second", *PIXEL, f"init={tmp_path / 'first'}")
    assert losses(tmp_path / "second")[0]["loss"] < losses(tmp_path / "first")[3]["loss"]


@pytest.mark.parametrize("case", ["tiny_pixel_mim", "tiny_clip_mim"])
def test_going_on_from_the_authors_checkpoint(tmp_path: Path, case: str) -> None:
    authors = filled(case)
    torch.save({"model": authors, "epoch": 3}, tmp_path / "authors.pth")
    network: MaskedPyramidAutoencoder | FeatureDistillPretrain
    if case == "tiny_pixel_mim":
        hivit = HiViT(64, embed_dim=64, depths=(2, 2, 3), num_heads=4)
        network = MaskedPyramidAutoencoder(hivit, PyramidNeck(hivit.dims, 32, 2), 64, 2, 4)
    else:
        hivit = HiViT(64, embed_dim=64, depths=(2, 1, 5), num_heads=4, rel_pos="bias", init_values=0.1)
        network = FeatureDistillPretrain(hivit, PyramidNeck(hivit.dims, 32), 24)
    load_pretraining(network, str(tmp_path / "authors.pth"))
    for name, value in network.state_dict().items():
        assert torch.equal(value, authors[official_name(name)]), name


def test_shapes(tmp_path: Path) -> None:
    data = ["data=shapes", "data.train_images=32", "data.val_images=8", "data.image_size=[40,40]"]
    pretrain(tmp_path, *PIXEL, data=data)
    assert len(losses(tmp_path)) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["objective=words"], "unknown objective 'words'"),
        (["objective=clip"], "teacher.weights: has no value"),
        (["objective=clip", "teacher.weights=absent.pt"], "no such file"),
        (["objective=clip", "teacher.weights=absent.pt", "teacher.precision=8"], "unknown precision"),
        (["pixel.mask_ratio=0"], "no unit of 4x4 is removed"),
        (["pixel.mask_ratio=0.95"], "no visible token is left"),
        (["pixel.mask_ratio=1.5"], "not in [0, 1)"),
        (["pixel.mfm_weight=-1"], "a weight of -1"),
        (["pixel.decoder_dim=40"], "40 channels do not suit"),
        (["model.name=resnet"], "unknown backbone 'resnet'"),
        (["model.name=fast_itpn_tiny", "model.embed_dim=384", "model.num_heads=6"], "has no pyramid"),
        (["model.img_size=[32,48]"], "4x6 units are no square"),
        (["data.batch_size=65"], "64 images do not fill a batch of 65"),
        (["optim.lr=0"], "trains nothing"),
        (["init=absent.pth"], "no such file"),
        (["+head_std=0.02"], "these are the settings of itpn-finetune"),
        (["augmentation.interpolation=bicubic"], "resized bilinearly"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: list[str], message: str) -> None:
    outcome = call("data.train_images=64", "data.val_images=40", *PIXEL, f"output_dir={tmp_path}", *settings)
    assert outcome.status == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["mask.num_masked=17"], "17 of 4x4 units cannot be masked"),
        (["augmentation.color_jitter=2"], "a strength of 2"),
        (["distill.supervise=some"], "unknown choice 'some'"),
        (["distill.mask_at=early"], "unknown choice 'early'"),
        (["distill.tap=1"], "a share of 1 names no block"),
        (["teacher.input=raw"], "unknown input 'raw'"),
        (["data.batch_size=65"], "64 images do not fill a batch of 65"),
    ],
)
def test_bad_settings_of_feature_pretraining(tmp_path: Path, settings: list[str], message: str) -> None:
    data = ["data.train_images=64", "data.val_images=40"]
    outcome = call(*data, *clip(tmp_path), f"output_dir={tmp_path / 'run'}", *settings)
    assert outcome.status == 2
    assert message in outcome.err


def test_checkpoints_of_other_networks_are_refused(tmp_path: Path) -> None:
    pretrain(tmp_path / "run", *PIXEL, "epochs=1", "eval_every=0")
    outcome = call(*PIXEL, f"output_dir={tmp_path / 'other'}", f"init={tmp_path / 'run'}", "pixel.decoder_depth=2")
    assert outcome.status == 2
    assert "decoder_blocks.1" in outcome.err


# -- networks at the edges ---------------------------------------------------------------------------------------------


def test_images_of_another_size() -> None:
    model = autoencoder()
    with pytest.raises(InputError, match="images of 32x40 for a model of 32x32"):
        model(torch.rand(2, 3, 32, 40))
    with pytest.raises(InputError, match="not divided by units of 8x8"):
        model(torch.rand(2, 3, 30, 32))
    with pytest.raises(InputError, match=r"noise of shape \(2, 9\)"):
        model(torch.rand(2, 3, 32, 32), torch.rand(2, 9))


def test_removed_units_are_not_seen() -> None:
    """What the network computes of an image does not depend on the units it is to predict."""
    model, noise = autoencoder(norm_pix=False).eval(), torch.rand(2, 16)
    images = torch.rand(2, 3, 32, 32)
    mask = model(images, noise).mask.mask
    pixels = mask.view(2, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    with torch.no_grad():
        whole, cut = (model(shown, noise).prediction for shown in (images, images.masked_fill(pixels, 7.0)))
        torch.testing.assert_close(whole, cut, atol=0, rtol=0)
        assert not torch.equal(whole, model(images.masked_fill(~pixels, 7.0), noise).prediction)


def test_reconstruction_shows_what_was_visible() -> None:
    model, noise, images = autoencoder(), torch.rand(2, 16), torch.randn(2, 3, 32, 32)
    parts = model.reconstruct(images, noise)
    removed = model.mask(images, noise).mask.view(2, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    kept = ~removed.expand_as(images)
    assert torch.equal(parts["prediction"][kept], images[kept])
    assert torch.equal(parts["input"][kept], images[kept])
    assert not parts["input"][~kept].any()
    # each predicted unit has the mean and deviation that were given to it: pixels differ from the image's
    assert (parts["prediction"][~kept] - images[~kept]).abs().mean() > 0.1


def batch_of(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(2, 3, 32, 32), mask, torch.randn(2, 16, 6)


@pytest.mark.parametrize("mask_at", ["late", "embed"])
def test_no_unit_masked_and_every_unit_masked(mask_at: Any) -> None:
    none, every = torch.zeros(2, 16, dtype=torch.bool), torch.ones(2, 16, dtype=torch.bool)
    torch.manual_seed(0)
    images, _, target = batch_of(none)
    judged_all, judged_masked = distiller(mask_at=mask_at), distiller(mask_at=mask_at, supervise="masked")
    judged_masked.load_state_dict(judged_all.state_dict())
    assert judged_masked(images, none, target).loss.item() == 0  # nothing is judged
    assert judged_all(images, none, target).loss.item() > 0
    whole = judged_all(images, every, target)
    assert whole.loss.item() == pytest.approx(judged_masked(images, every, target).loss.item(), rel=1e-6)
    hidden = torch.equal(whole.prediction, judged_all(images + 1, every, target).prediction)
    assert hidden == (mask_at == "embed")  # the released masks let the lateral connections see


def test_masks_and_targets_of_other_sizes() -> None:
    model = distiller()
    images, mask, target = batch_of(torch.zeros(2, 4, 4, dtype=torch.bool))
    assert model(images, mask, target).prediction.shape == (2, 16, 6)
    with pytest.raises(InputError, match=r"a mask of \(2, 15\)"):
        model(images, mask.flatten(1)[:, 1:], target)
    with pytest.raises(InputError, match="targets of shape"):
        model(images, mask, target[:, :, :5])


# -- data --------------------------------------------------------------------------------------------------------------


def test_both_views_show_the_same(tmp_path: Path) -> None:
    from vireo.data import ArrayLoader, GeneratedClasses
    from vireo.data.random import seeded
    from vireo.data.transforms import Compose

    images = GeneratedClasses(8, (64, 64), noise=0)
    transform = TwoViews(32, 64, 0.4, scale=(0.3, 0.6))
    with seeded(5):
        student, target = transform(*images[0])
    assert (student.shape, target["teacher"].shape) == ((3, 32, 32), (3, 64, 64))
    small = torch.nn.functional.avg_pool2d(target["teacher"].float()[None], 2)[0]
    assert (small - student.float()).abs().mean() < 6
    assert (small.flip(-1) - student.float()).abs().mean() > 12

    from itpn.pretraining_data import _BatchViews

    views = Compose(_BatchViews(32, 64, 0.4, scale=(0.3, 0.6), flip=0.5))
    loader = ArrayLoader.of(images, batch_size=8, shuffle=False, device_transform=views)
    students, targets = next(loader.batches(0))
    small = torch.nn.functional.avg_pool2d(targets["teacher"], 2)
    assert (small - students).abs().mean() < 4
    assert (small.roll(1, 0) - students).abs().mean() > 12


def test_color_jitter_of_a_batch() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    targets = {"key": torch.arange(6)}
    same, _ = BatchColorJitter(0.0)(images, targets)
    assert torch.equal(same, images.float())
    changed, _ = BatchColorJitter(0.4)(images, targets)
    assert changed.min() >= 0
    assert changed.max() <= 255
    factors = changed.mean((1, 2, 3)) / images.float().mean((1, 2, 3))
    assert 0.5 < factors.min() < 0.95 < factors.max() < 1.5
    alone, _ = BatchColorJitter(0.4)(images[2:3], {"key": torch.tensor([2])})
    torch.testing.assert_close(alone[0], changed[2])


def test_folders_of_images(tmp_path: Path) -> None:
    data = image_files(tmp_path / "data")
    pretrain(
        tmp_path / "run", *[value for value in clip(tmp_path) if "batch_size" not in value], "data.workers=0", data=data
    )
    assert len(logged(tmp_path / "run")) == 6
