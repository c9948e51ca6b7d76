"""g2sd-detect: tiny runs with a teacher and without, where they start, what stops them, and the published settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_detect_runs import DETECT, TEACHER, detect, done, tiny_detector
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from g2sd.detection import build_detector, detection_groups, load_detector
from g2sd.detector import ExactAnchors
from g2sd.distilled_detector import PyramidAnswer
from g2sd.imitation import ObjectnessWeightedImitation
from g2sd.mae import build_encoder
from g2sd.official_detector import to_official
from vireo.data import GeneratedShapes
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError
from vireo.testing.runs import differing, logged, losses, read

NAMES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
IMITATION = {"imitation_features", "imitation_objectness"}
COCO: dict[str, tuple[Any, ...]] = {  # size, layer decay, drop path, teacher, parameters without imitation
    "coco_teacher_base": (768, 0.7, 0.1, False, 110_895_792),
    "coco_sd_small": (384, 1.0, 0.1, True, 44_502_096),
    "coco_sd_tiny": (192, 1.0, 0.1, True, 27_728_160),
    "coco_baseline_small": (384, 0.7, 0.1, False, 44_502_096),
    "coco_baseline_tiny": (192, 0.7, 0.1, False, 27_728_160),
    "coco_baseline_small_decay65": (384, 0.65, 0.4, False, 44_502_096),
    "coco_baseline_tiny_decay65": (192, 0.65, 0.1, False, 27_728_160),
}


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_module("g2sd.conf", version_base="1.3"):
        return compose("detect", list(overrides))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("teacher") / "run", "epochs=1", "eval_every=1", settings=TEACHER)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    return done(tmp_path_factory.mktemp("detect") / "run", f"teacher.weights={teacher}")


def test_run(finished: Path) -> None:
    content = read(finished / "metrics.json")
    assert content["finished"]
    assert content["best"]["monitor"] == "box_AP"
    for kind in ("box", "mask"):
        assert 0 <= content["metrics"][f"{kind}_AP"] <= 1
    steps = losses(finished)
    assert all(set(step) == NAMES | IMITATION for step in steps)
    assert steps[0]["imitation_features"] == 0  # the warm-up starts at the first step
    assert all(steps[1][name] > 0 for name in IMITATION)
    assert len(list((finished / "gallery").glob("detections_*.png"))) == 2
    assert "Detection with G2SD" in (finished / "report.html").read_text()


def test_without_a_teacher(teacher: Path) -> None:
    assert all(set(step) == NAMES for step in losses(teacher))


def test_stopped_run_goes_on_to_the_same_weights(finished: Path, teacher: Path, tmp_path: Path) -> None:
    """From inside the first epoch: what was drawn for its regions is not drawn again."""
    folder = tmp_path / "run"
    every = ["run.checkpoint_every=3", "run.keep_last=9", "gallery_images=0", f"teacher.weights={teacher}"]
    done(folder, *every)
    first, *later = sorted((folder / "checkpoints").glob("step_*.pt"))
    assert int(first.stem.removeprefix("step_")) == 3
    for path in later:
        path.unlink()
    (folder / "metrics.json").unlink()  # says that the run is finished
    done(folder, *every)
    assert [line["step"] for line in logged(folder)][-5:] == [4, 5, 6, 7, 8]
    assert differing(finished, folder) == []


def test_loading_a_run(finished: Path) -> None:
    model, _, classes = load_detector(finished)
    assert classes == ("ellipse", "rectangle", "triangle")
    model.roi_heads.score_thresh = 0.0
    (found,) = model([torch.rand(3, 50, 70)])
    assert set(found) == {"boxes", "labels", "scores", "masks"}
    assert found["masks"].shape[-2:] == (50, 70)


def test_boxes_alone_with_a_teacher_in_the_authors_layout(tmp_path: Path) -> None:
    """VOC files, which have no masks; images scaled in workers."""
    for seed, split in enumerate(("train", "val")):
        GeneratedShapes(4, (40, 48), seed, object_size=(12, 30)).export(tmp_path / "data", split)
    torch.save({"model": to_official(tiny_detector(embed_dim=32))}, tmp_path / "teacher.pth")
    own = [x for x in DETECT if not x.startswith(("data.train", "data.val", "data.image", "data.object"))]
    data = ["detection@data=voc", f"data.root={tmp_path / 'data'}", "data.train_split=train", "data.val_split=val"]
    data += ["data.workers=0", "data.scale_jitter=[0.5,2.0]", f"teacher.weights={tmp_path / 'teacher.pth'}"]
    done(tmp_path / "run", *data, settings=own)
    metrics = read(tmp_path / "run/metrics.json")["metrics"]
    assert "box_AP" in metrics
    assert not any(name.startswith("mask") for name in metrics)
    assert set(losses(tmp_path / "run")[0]) == (NAMES - {"loss_mask"}) | IMITATION
    assert not load_detector(tmp_path / "run")[0].roi_heads.has_mask()


@pytest.mark.parametrize("masks", [True, False])
def test_every_parameter_learns(masks: bool) -> None:
    """In one step, also of images without any object: a run on several processes needs that."""
    model = tiny_detector(masks=masks, imitation=True).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    target = {**empty, "masks": torch.zeros(0, 32, 32, dtype=torch.uint8)} if masks else empty
    batch, sizes, truth = model.prepare([torch.rand(3, 32, 32)], [target])
    maps = tuple(map_.detach() + 1 for map_ in model.detector.backbone(batch).values())
    objectness = tuple(torch.zeros(1, 3, *map_.shape[-2:]) for map_ in maps)
    with pytest.raises(InputError, match="the teacher was not asked"):
        model(batch, sizes, truth)
    sum(model(batch, sizes, truth, PyramidAnswer(maps, objectness), 500).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_starts_from_an_encoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = build_encoder(32, 8, 3, 16, 2, 2)
    save_weights(encoder.state_dict(), tmp_path / "encoder.safetensors")
    config = configuration(*DETECT, f"init={tmp_path / 'encoder.safetensors'}")
    body = build_detector(config, 3, config.init).detector.backbone.body
    for name, value in body.state_dict().items():
        assert ("rel_pos" in name) or torch.equal(value, encoder.state_dict()[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.masks=some"], "'some' is not a choice"),
        (["data.format=cifar"], "unknown format 'cifar'"),
        (["+mixing=1"], "g2sd-finetune"),
        (["init=nowhere.pth"], "nowhere.pth"),
        (["teacher.weights=nowhere.pth"], "nowhere.pth"),
        (["detector.img_size=30"], "30 pixels are not divided by patches of 8"),
        (["+model.depths=3"], "depths"),
        (["+detector.colour=3"], "colour"),
        (["optim.layer_decay=2"], "layer decay of 2"),
        (["data.scale_jitter=[2,1]"], "no two rising factors"),
        (["teacher.weights={encoder}"], "is no detector: it holds an encoder"),
        (
            ["teacher.weights={teacher}", "detector.channels=16"],
            "has 8 channels, the student's 16",
        ),
        (["teacher.weights={teacher}", "imitation.warmup=-1"], "one is negative"),
        (["teacher.weights={teacher}", "teacher.precision=16"], "unknown precision"),
    ],
)
def test_mistakes(tmp_path: Path, teacher: Path, changes: list[str], message: str) -> None:
    save_weights(build_encoder(32, 8, 3, 16, 2, 2).state_dict(), tmp_path / "encoder.safetensors")
    named = [text.format(teacher=teacher, encoder=tmp_path / "encoder.safetensors") for text in changes]
    assert message in detect(f"output_dir={tmp_path / 'run'}", *named).mistake()


def test_imitation_of_other_shapes() -> None:
    module = ObjectnessWeightedImitation(4, levels=2)
    maps, logits = [torch.zeros(1, 4, s, s) for s in (4, 2)], [torch.zeros(1, 3, s, s) for s in (4, 2)]
    module(maps, maps, logits, logits, 0)
    with pytest.raises(InputError, match="for 2 levels"):
        module(maps[:1], maps[:1], logits[:1], logits[:1], 0)
    with pytest.raises(InputError, match="objectness"):
        module(maps, maps, logits, logits[::-1], 0)


def test_imitation_of_a_teacher_that_sees_nothing() -> None:
    """The weight of places then vanishes above and below."""
    module = ObjectnessWeightedImitation(4, levels=1)
    maps, logits = [torch.ones(1, 4, 2, 2)], [torch.full((1, 3, 2, 2), -200.0)]
    found = module(maps, [torch.zeros(1, 4, 2, 2)], [torch.zeros(1, 3, 2, 2)], logits, 500)
    assert all(bool(torch.isfinite(loss)) for loss in found)


def test_anchors_are_not_rounded() -> None:
    (cell,) = ExactAnchors(((32,),), ((0.5, 1.0, 2.0),)).cell_anchors
    areas, ratios = (cell[:, 2:] - cell[:, :2]).prod(1), cell[:, 3] / cell[:, 2]
    torch.testing.assert_close(areas, torch.full((3,), 1024.0))
    torch.testing.assert_close(ratios, torch.tensor([0.5, 1.0, 2.0]))


def test_rates_fall_towards_the_input() -> None:
    model = tiny_detector(imitation=True)
    (rate,) = {group["lr"] for group in detection_groups(model, 1e-4, 1.0, 0.05)}
    assert rate == 1e-4
    with pytest.raises(InputError, match="layer decay of 0"):
        detection_groups(model, 1e-4, 0, 0.05)


@pytest.mark.parametrize("name", COCO)
def test_coco_recipes(name: str) -> None:
    """Section 4.3; each builds its network (parameters of section 6)."""
    dim, decay, drop_path, taught, parameters = COCO[name]
    config = configuration(f"+experiment={name}", "init=x.pth", "data.root=/data")
    optim = config.optim
    assert (optim.lr, optim.layer_decay, config.model.drop_path_rate) == (1e-4, decay, drop_path)
    assert (config.epochs, config.data.batch_size, optim.warmup_steps, list(optim.betas)) == (
        100,
        64,
        250,
        [0.9, 0.999],
    )
    assert [round(share * 184_375) for share in optim.milestones] == [163_889, 177_546]
    assert list(config.data.scale_jitter) == [0.1, 2.0]
    assert (config.teacher.weights == "outputs/coco_teacher_base") is taught
    assert (config.imitation.feature_weight, config.imitation.logit_weight, config.imitation.warmup) == (1e-3, 0.1, 500)
    with torch.device("meta"):
        model: Any = build_detector(config, 80)
    assert sum(p.numel() for p in model.detector.parameters()) == parameters
    assert (model.imitation is not None) is taught
    detector = model.detector
    assert detector.backbone.body.embed_dim == dim
    assert [block.window for block in detector.backbone.body.blocks] == [14, 14, 0] * 4
    assert detector.transform.size_divisible == detector.backbone.body.img_size == 1024
    assert detector.backbone.strides == (4, 8, 16, 32, 64)
    assert detector.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert (detector.rpn.fg_bg_sampler.batch_size_per_image, detector.rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    assert detector.rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert detector.rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    roi = detector.roi_heads
    assert (roi.fg_bg_sampler.batch_size_per_image, roi.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert (roi.score_thresh, roi.nms_thresh, roi.detections_per_img) == (0.05, 0.5, 100)
    assert roi.box_coder.weights == (10.0, 10.0, 5.0, 5.0)


def test_bccd_settings() -> None:
    for name, taught in (("bccd_teacher", False), ("bccd", True)):
        config = configuration(f"+experiment={name}", "data.root=/data")
        assert (config.data.format, config.data.on_error) == ("voc", "skip")
        with torch.device("meta"):
            model = build_detector(config, 3)
        assert not model.detector.roi_heads.has_mask()
        assert (model.imitation is not None) is taught
