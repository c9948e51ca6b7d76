"""Segmenters: heads over the pyramid, where they start, tiny runs of itpn-segment, resumed and spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from itpn_downstream_runs import SEGMENT, call, done, write_pretraining
from omegaconf import DictConfig
from PIL import Image

from itpn.segmentation import build_segmenter, load_segmenter
from vireo.errors import InputError
from vireo.testing.runs import differing, logged, losses, read
from vireo.testing.series import Task, series, torchrun

EXPERIMENTS = ("ade20k_pixel_base", "ade20k_clip_base", "ade20k_clip_large", "camvid")


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_module("itpn.conf", version_base="1.3"):
        return compose("segment", [*SEGMENT, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done("segment", tmp_path_factory.mktemp("segment") / "run", "run.checkpoint_every=1", "run.keep_last=9")


def test_run(finished: Path) -> None:
    content = read(finished / "metrics.json")
    assert content["finished"]
    assert content["steps"] == 4
    metrics = content["metrics"]
    assert 0 <= metrics["mIoU"] <= 1
    assert list(metrics["per_class"]) == ["background", "ellipse", "rectangle", "triangle"]
    assert all(set(step) == {"loss_decode", "loss_auxiliary"} for step in losses(finished))
    assert len(list((finished / "gallery").glob("labels_*.png"))) == 2
    assert "data:image" in (finished / "report.html").read_text()


def test_loading_a_run(finished: Path) -> None:
    model, config, classes = load_segmenter(finished)
    images = torch.rand(1, 3, 32, 32)
    assert model(images).shape == (1, len(classes), 32, 32)
    fresh, _, _ = load_segmenter(finished, untrained=True)
    best, _, _ = load_segmenter(finished, finished / "checkpoints/best.pt")
    assert torch.equal(best(images), model(images))
    assert not torch.equal(fresh(images), model(images))
    assert config.segmenter.head == "upernet"


def test_stopped_run_goes_on_to_the_same_weights(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    every = ["run.checkpoint_every=1", "run.keep_last=9"]
    done("segment", folder, *every)
    first, *later = sorted((folder / "checkpoints").glob("step_*.pt"))
    assert int(first.stem.removeprefix("step_")) == 1
    for path in later:
        path.unlink()
    (folder / "metrics.json").unlink()  # says that the run is finished
    done("segment", folder, *every)
    assert [line["step"] for line in logged(folder)][-3:] == [2, 3, 4]
    assert differing(finished, folder) == []


@pytest.mark.parametrize("head", ["upernet", "fusion"])
def test_every_parameter_learns(head: str) -> None:
    torch.manual_seed(0)
    model: Any = build_segmenter(configuration(f"segmenter.head={head}"), 4)
    assert (model.auxiliary_head is None) is (head == "fusion")
    images, labels = torch.randn(2, 3, 32, 48), torch.randint(0, 4, (2, 32, 48), dtype=torch.uint8)
    sum(model(images, labels).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.eval()(images).shape == (2, 4, 32, 48)


def test_heads_see_pyramid_and_backbone() -> None:
    """Section 3.7: the pyramid's maps and the backbone's own, one more by max-pooling."""
    model: Any = build_segmenter(configuration(), 4)
    assert model.backbone.channels == (16 + 8, 16 + 16, 16 + 32, 16 + 32)
    assert model.auxiliary_head.index == 2
    maps = model.maps(torch.randn(1, 3, 32, 32))
    assert torch.equal(maps[3], torch.nn.functional.max_pool2d(maps[2], 2))


@pytest.mark.parametrize("parts", ["all", "backbone"])
def test_starts_from_a_pretraining(tmp_path: Path, parts: str) -> None:
    """The pyramid is as deep as the checkpoint's either way, so that both starts are of one network."""
    expected = write_pretraining(tmp_path, depth=1)
    model = build_segmenter(configuration(f"init_parts={parts}"), 4, str(tmp_path))
    own = model.backbone.state_dict()
    same = {key for key, value in expected.items() if torch.equal(own[key], value)}
    assert {key for key in expected if key.startswith("backbone.")} <= same
    assert ("neck.split_16to8.reduction.weight" in same) is (parts == "all")
    assert not any(".block_16to8.1." in f".{key}" for key in own)


def test_a_depth_that_is_asked_for(tmp_path: Path) -> None:
    expected = write_pretraining(tmp_path, depth=1)
    own = build_segmenter(configuration("neck.depth=2"), 4, str(tmp_path)).backbone.state_dict()
    assert torch.equal(own["neck.block_16to8.0.norm2.weight"], expected["neck.block_16to8.0.norm2.weight"])
    assert "neck.block_16to8.1.norm2.weight" in own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("segmenter.head=other", "unknown head 'other'"),
        ("init_parts=neck", "'neck' is not a choice"),
        ("model.name=fast_itpn_tiny", "no feature pyramid"),
        ("data.normalize=none", "unknown normalisation 'none'"),
        ("data.batch_size=1", "use at least 2 images"),
        ("init=nowhere.pth", "nowhere.pth"),
        ("+objective=pixel", "itpn-pretrain"),
        ("data.format=voc", "unknown format 'voc'"),
    ],
)
def test_mistakes(tmp_path: Path, change: str, message: str) -> None:
    outcome = call("segment", *SEGMENT, f"output_dir={tmp_path / 'run'}", change)
    assert message in outcome.mistake()


def test_another_network_is_refused(tmp_path: Path) -> None:
    write_pretraining(tmp_path)
    with pytest.raises(InputError, match="does not fit"):
        build_segmenter(configuration("neck.dim=8"), 4, str(tmp_path))


def test_camvid_files(tmp_path: Path) -> None:
    """Images of odd sizes and label maps, by sliding windows."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for i in range(4):
            labels = generator.integers(0, 12, (5, 7), dtype=np.uint8).repeat(9, 0).repeat(9, 1)
            Image.fromarray(labels).save(tmp_path / f"data/labels/{split}/{i}.png")
            Image.fromarray(np.stack([labels * 20] * 3, -1)).save(tmp_path / f"data/images/{split}/{i}.jpg")
    own = [x for x in SEGMENT if not x.startswith(("data.train_im", "data.val_im", "data.image", "data.object"))]
    window = ["segmenter.window=[32,32]", "segmenter.stride=[21,21]", "data.workers=0", "data.short_side=40"]
    data = ["segmentation@data=camvid", f"data.root={tmp_path / 'data'}", *window, "data.long_side=70"]
    outcome = call("segment", *own, *data, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
    assert len(read(tmp_path / "run/classes.json")) == 11


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments(name: str) -> None:
    """Section 4; each builds its network."""
    with initialize_config_module("itpn.conf", version_base="1.3"):
        config = compose("segment", [f"+experiment={name}", "data.root=/data"])
    assert config.output_dir == f"outputs/{name}"
    with torch.device("meta"):
        model: Any = build_segmenter(config, 150)
    if name == "camvid":
        return
    large = name.endswith("large")
    optim, data = config.optim, config.data
    assert (optim.lr, list(optim.betas), optim.weight_decay, optim.warmup_steps) == (3e-5, [0.9, 0.999], 0.05, 1500)
    assert (optim.warmup_start, optim.layer_decay) == (1e-6, 0.95 if large else 0.9)
    assert (data.batch_size, list(data.crop), data.short_side, data.long_side) == (16, [512, 512], 512, 2048)
    assert (list(data.ratio), data.max_share, data.flip, data.distort) == ([0.5, 2.0], 0.75, 0.5, True)
    assert abs(config.epochs * (20210 // 16) - 160_000) < 1263
    assert (list(config.segmenter.window), list(config.segmenter.stride)) == ([512, 512], [341, 341])
    assert config.model.drop_path_rate == (0.1 if "pixel" in name else 0.2)
    assert model.backbone.channels == ((448, 640, 1024, 1024) if large else (384, 512, 768, 768))
    assert model.backbone.backbone.blocks[-1].attn.relative_position_bias_table.shape[0] == 63 * 63
    assert model.decode_head.conv_seg.in_channels == 768
    assert model.backbone.backbone.norm_eps == 1e-5


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    """Without dropout, whose masks are those of a process."""
    options = ["segmenter.dropout=0", "data.batch_size=4"]
    one = done("segment", tmp_path / "one", *options)
    torchrun("itpn.segment", *SEGMENT, *options, f"output_dir={tmp_path / 'two'}")
    assert len(losses(one)) == 4
    for a, b in zip(losses(one), losses(tmp_path / "two")):
        assert a == pytest.approx(b, rel=2e-4)
    of_one, of_two = (read(tmp_path / name / "metrics.json")["metrics"] for name in ("one", "two"))
    assert of_one["aAcc"] == pytest.approx(of_two["aAcc"], abs=2e-3)


@pytest.mark.slow
def test_killed_inside_an_epoch(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [*SEGMENT, f"output_dir={killed}", "run.checkpoint_every=1", "run.keep_last=9"]
    statuses, output = series(
        Task("itpn.segment", [*SEGMENT, f"output_dir={whole}"]),  # in a process as the others: as many threads
        Task("itpn.segment", arguments, 2),
        Task("itpn.segment", arguments),
    )
    assert statuses == [0, -9, 0], output
    assert differing(whole, killed) == []
