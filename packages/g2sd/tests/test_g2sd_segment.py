"""Runs of g2sd-segment: with and without a teacher, where they start, resumed, spread, mistakes, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from g2sd_segment_runs import SEGMENT, TEACHER, done, segment, tiny_segmenter, write_encoder
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from g2sd.segmentation import build_segmenter, load_segmenter, load_start, windows_of
from g2sd.segmenter import Segmenter
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError
from vireo.testing.runs import differing, logged, losses, read
from vireo.testing.series import Task, series, torchrun

TASK_LOSSES = {"loss_decode", "loss_auxiliary"}


def configuration(*overrides: str, settings: list[str] = SEGMENT) -> DictConfig:
    with initialize_config_module("g2sd.conf", version_base="1.3"):
        return compose("segment", [*settings, *overrides])


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs; that of ``finished``, which is made before, has its report."""
    monkeypatch.setattr("g2sd.segmentation.write_run_report", lambda *_, **__: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("g2sd.segmentation.write_run_report", lambda *_, **__: None)
        return done(tmp_path_factory.mktemp("segment") / "teacher", "epochs=1", settings=TEACHER)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A run with a teacher."""
    options = ["gallery_images=2", "run.checkpoint_every=1", "run.keep_last=9"]
    return done(tmp_path_factory.mktemp("segment") / "run", f"teacher.weights={teacher}", *options)


def test_run(finished: Path) -> None:
    content = read(finished / "metrics.json")
    assert content["finished"]
    assert content["steps"] == 4
    assert 0 <= content["metrics"]["mIoU"] <= 1
    assert list(content["metrics"]["per_class"]) == ["background", "ellipse", "rectangle", "triangle"]
    assert all(set(step) == {*TASK_LOSSES, "loss_divergence"} for step in losses(finished))
    assert len(list((finished / "gallery").glob("labels_*.png"))) == 2
    assert "data:image" in (finished / "report.html").read_text()


def test_run_without_a_teacher(teacher: Path) -> None:
    assert all(set(step) == TASK_LOSSES for step in losses(teacher))


def test_loading_a_run(finished: Path) -> None:
    model, config, classes = load_segmenter(finished)
    images = torch.rand(1, 3, 32, 32)
    assert model(images).shape == (1, len(classes), 32, 32)
    assert not any("teacher" in key or "divergence" in key for key in model.state_dict())
    fresh, _, _ = load_segmenter(finished, untrained=True)
    best, _, _ = load_segmenter(finished, finished / "checkpoints/best.pt")
    assert torch.equal(best(images), model(images))
    assert not torch.equal(fresh(images), model(images))
    assert torch.equal(Segmenter.from_pretrained(finished)(images), model(images))
    assert windows_of(config) == {"window": (32, 32), "stride": (21, 21)}


def test_stopped_run_goes_on_to_the_same_weights(finished: Path, teacher: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "run", [f"teacher.weights={teacher}", "run.checkpoint_every=1", "run.keep_last=9"]
    done(folder, *options)
    first, *later = sorted((folder / "checkpoints").glob("step_*.pt"))
    assert int(first.stem.removeprefix("step_")) == 1
    for path in later:
        path.unlink()
    (folder / "metrics.json").unlink()  # says that the run is finished
    done(folder, *options)
    assert [line["step"] for line in logged(folder)][-3:] == [2, 3, 4]
    assert differing(finished, folder) == []


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(checkpointing: bool) -> None:
    torch.manual_seed(0)
    model = build_segmenter(configuration(f"grad_checkpointing={str(checkpointing).lower()}"), 4).train()
    found: Any = model(torch.randn(2, 3, 32, 32), torch.randint(0, 4, (2, 32, 32), dtype=torch.uint8))
    torch.stack(list(found.values())).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_gradient_checkpointing_changes_nothing() -> None:
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 4, (2, 32, 32))
    norms = []
    for checkpointing in (False, True):
        model: Any = tiny_segmenter()
        model.backbone.grad_checkpointing = checkpointing
        model(images, labels)["loss_decode"].backward()
        norms.append([p.grad.norm() for p in model.backbone.parameters() if p.grad is not None])
    torch.testing.assert_close(norms[0], norms[1])


@pytest.mark.parametrize("side", [32, 64])
def test_starts_as_the_encoder(tmp_path: Path, side: int) -> None:
    """Blocks compute what they did, and positions of other images are interpolated; the rest stays fresh."""
    expected = write_encoder(tmp_path / "encoder.safetensors", side)
    config = configuration()
    model = build_segmenter(config, 4)
    report = load_start(model, str(tmp_path / "encoder.safetensors"), config.model)
    own = model.backbone.state_dict()
    taken = {key for key in expected if not key.startswith("norm.") and (side == 32 or key != "pos_embed")}
    assert all(torch.equal(own[key], expected[key]) for key in taken)
    assert set(report.left_out) == {"norm.weight", "norm.bias"}
    assert report.resized == (None if side == 32 else ((8, 8), (4, 4)))
    assert {key.partition(".")[0] for key in report.fresh} == {"blocks", "fpn1", "fpn2"}
    assert not model.backbone.blocks[2].attn.relative_position_bias_table.any()  # type: ignore[union-attr,index]


def test_teacher_of_a_file(tmp_path: Path) -> None:
    save_weights(tiny_segmenter(embed_dim=32, num_heads=4).state_dict(), tmp_path / "teacher.safetensors")
    folder = done(tmp_path / "run", f"teacher.weights={tmp_path / 'teacher.safetensors'}", "epochs=1")
    assert all("loss_divergence" in step for step in losses(folder))


def test_teacher_is_not_trained(teacher: Path, tmp_path: Path) -> None:
    """Nor told from where it starts: the same student with a weight of 0 learns as without one."""
    alone = done(tmp_path / "alone", "epochs=1")
    taught = done(tmp_path / "taught", "epochs=1", f"teacher.weights={teacher}", "divergence.weight=0")
    assert differing(alone, taught) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.crop=[32,40]"], "crops of 32x40 for a network of 32x32"),
        (["model.img_size=40", "data.crop=[40,40]"], "no multiple of 16"),
        (["data.normalize=none"], "unknown normalisation 'none'"),
        (["data.batch_size=1"], "use at least 2 images"),
        (["init=nowhere.pth"], "nowhere.pth"),
        (["+norm_pix=true"], "g2sd-pretrain"),
        (["+model.qkv_bias=true"], "has no argument qkv_bias"),
        (["model.num_heads=5"], "not divided by 5 heads"),
        (["model.name=vit_giant"], "unknown encoder 'vit_giant'"),
        (["data.format=voc"], "unknown format 'voc'"),
        (["teacher.weights={teacher}", "divergence.kind=l2"], "unknown divergence 'l2'"),
        (["teacher.weights={teacher}", "teacher.precision=16"], "unknown precision"),
        (["teacher.weights={teacher}", "model.patch_size=4"], "patches of 8 pixels, the student of 4"),
        (["teacher.weights={teacher}", "model.img_size=48", "data.crop=[48,48]"], "crops of 32x32, the student of 48"),
        (["teacher.weights={teacher}", "data.normalize=half"], "trained with data.normalize=imagenet"),
        (["teacher.weights={encoder}"], "holds an encoder, no segmenter"),
        (["teacher.weights={classes}"], "tells 5 classes apart, the student 4"),
        (["init={teacher}"], "embed_dim 32"),
    ],
)
def test_mistakes(tmp_path: Path, teacher: Path, changes: list[str], message: str) -> None:
    paths = {"teacher": teacher, "encoder": tmp_path / "encoder.safetensors", "classes": tmp_path / "five.safetensors"}
    if "{encoder}" in changes[0]:
        write_encoder(paths["encoder"])
    if "{classes}" in changes[0]:
        save_weights(tiny_segmenter(num_classes=5).state_dict(), paths["classes"])
    outcome = segment(f"output_dir={tmp_path / 'run'}", *(change.format(**paths) for change in changes))
    assert message in outcome.mistake()


def camvid_like(root: Path, classes: int = 12) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(4):
            labels = generator.integers(0, classes, (5, 7), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
            Image.fromarray(labels).save(root / f"labels/{split}/{i}.png")
            Image.fromarray(np.stack([labels * 20] * 3, -1)).save(root / f"images/{split}/{i}.jpg")
    return root


def with_files(root: Path) -> list[str]:
    own = [x for x in SEGMENT if not x.startswith(("data.train_im", "data.val_im", "data.image", "data.object"))]
    return [*own, "segmentation@data=camvid", f"data.root={root}", "data.workers=0", "epochs=1"]


def test_camvid_files(tmp_path: Path, teacher: Path) -> None:
    """Images of odd sizes; a teacher of other classes is refused by its run's."""
    settings = with_files(camvid_like(tmp_path / "data"))
    folder = done(tmp_path / "run", settings=settings)
    assert len(read(folder / "classes.json")) == 11
    outcome = segment(f"output_dir={tmp_path / 'other'}", f"teacher.weights={teacher}", settings=settings)
    assert "its classes are not the model's" in outcome.mistake()


def test_labels_out_of_range(tmp_path: Path) -> None:
    settings = with_files(camvid_like(tmp_path / "data", classes=40))
    message = segment(f"output_dir={tmp_path / 'run'}", settings=settings).mistake()
    assert "is none of the 11 classes" in message


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="images of 32x48 for a network of 32x32"):
        tiny_segmenter()(torch.randn(1, 3, 32, 48))


def test_scores_without_a_divergence_are_refused() -> None:
    images, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32)
    with pytest.raises(InputError, match="give both or neither"):
        tiny_segmenter()(images, labels, torch.zeros(1, 4, 16, 16))


# channels, rate, layer decay, teacher
PUBLISHED: dict[str, tuple[int, float, float, str | None]] = {
    "ade20k_teacher_base": (768, 1e-4, 0.65, None),
    "ade20k_teacher_large": (1024, 2e-5, 0.95, None),
    "ade20k_sd_small": (384, 1e-4, 0.65, "outputs/ade20k_teacher_base"),
    "ade20k_sd_tiny": (192, 1e-4, 0.65, "outputs/ade20k_teacher_base"),
    "ade20k_sd_small_from_large": (384, 1e-4, 0.65, "outputs/ade20k_teacher_large"),
    "ade20k_baseline_small": (384, 1e-4, 0.65, None),
    "ade20k_baseline_tiny": (192, 1e-4, 0.65, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name: str) -> None:
    """Section 4.4; each builds its network."""
    channels, rate, decay, taught_by = PUBLISHED[name]
    config = configuration(f"+experiment={name}", "data.root=/data", "init=encoder.pth", settings=[])
    with torch.device("meta"):
        model: Any = build_segmenter(config, 150)
    optim, data = config.optim, config.data
    assert (optim.lr, optim.layer_decay, config.teacher.weights) == (rate, decay, taught_by)
    assert (list(optim.betas), optim.weight_decay, optim.warmup_steps, optim.warmup_start) == (
        [0.9, 0.999],
        0.05,
        1500,
        1e-6,
    )
    assert (data.batch_size, list(data.crop), data.short_side, data.long_side) == (16, [512, 512], 512, 2048)
    assert (list(data.ratio), data.max_share, data.flip, data.distort) == ([0.5, 2.0], 0.75, 0.5, True)
    assert abs(config.epochs * (20210 // 16) - 160_000) < 1263
    assert windows_of(config) == {"window": (512, 512), "stride": (341, 341)}
    assert (config.divergence.kind, config.divergence.weight, config.divergence.tau) == ("cwd", 3.0, 1.0)
    assert config.model.drop_path_rate == 0.1
    assert model.decode_head.conv_seg.in_channels == model.backbone.channels[0] == channels
    assert model.auxiliary_head.conv_seg.in_channels == 256
    assert model.backbone.out_blocks == ((7, 11, 15, 23) if "teacher_large" in name else (3, 5, 7, 11))
    assert model.backbone.blocks[0].attn.relative_position_bias_table.shape[0] == 63 * 63 + 3
    assert model.backbone.pos_embed.shape[1] == 1025


@pytest.mark.parametrize("name", ["camvid_teacher", "camvid_sd"])
def test_small_settings(name: str) -> None:
    config = configuration(f"+experiment={name}", "data.root=/data", settings=[])
    with torch.device("meta"):
        model: Any = build_segmenter(config, 11)
    assert model.backbone.grid_size == (8, 8)
    assert (config.teacher.weights is None) is (name == "camvid_teacher")


@pytest.mark.slow
def test_two_processes_train_what_one_does(teacher: Path, tmp_path: Path) -> None:
    """Without dropout, whose masks are those of a process."""
    options = ["segmenter.dropout=0", f"teacher.weights={teacher}"]
    one = done(tmp_path / "one", *options)
    torchrun("g2sd.segment", *SEGMENT, *options, f"output_dir={tmp_path / 'two'}")
    assert len(losses(one)) == 4
    for a, b in zip(losses(one), losses(tmp_path / "two")):
        assert a == pytest.approx(b, rel=2e-4)


@pytest.mark.slow
def test_killed_inside_an_epoch(teacher: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = [*SEGMENT, f"teacher.weights={teacher}"]
    arguments = [*settings, f"output_dir={killed}", "run.checkpoint_every=1", "run.keep_last=9"]
    statuses, output = series(
        Task("g2sd.segment", [*settings, f"output_dir={whole}"]),  # in a process as the others: as many threads
        Task("g2sd.segment", arguments, 2),
        Task("g2sd.segment", arguments),
    )
    assert statuses == [0, -9, 0], output
    assert differing(whole, killed) == []
