"""Detectors: the authors' losses, where they start, tiny runs of itpn-detect on masks and on boxes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from itpn_downstream_runs import DETECT, call, done, write_pretraining
from omegaconf import DictConfig
from torchvision.ops import generalized_box_iou

from itpn.detection import GIoUHeads, build_detector, load_detector
from vireo.data import GeneratedShapes
from vireo.testing.runs import differing, logged, losses, read

COCO = {  # section 4: rate, drop path, layer decay, epochs
    "coco_pixel_base_1x": (2e-4, 0.05, 0.9, 12),
    "coco_pixel_base_3x": (1.5e-4, 0.3, 0.9, 36),
    "coco_clip_base_3x": (1.5e-4, 0.3, 0.9, 36),
    "coco_clip_large_1x": (2e-4, 0.2, 0.95, 12),
}


def configuration(*overrides: str) -> DictConfig:
    with initialize_config_module("itpn.conf", version_base="1.3"):
        return compose("detect", [*DETECT, *overrides])


def detector(*overrides: str) -> Any:
    torch.manual_seed(0)
    return build_detector(configuration(*overrides), 3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done("detect", tmp_path_factory.mktemp("detect") / "run")


def test_run(finished: Path) -> None:
    content = read(finished / "metrics.json")
    assert content["finished"]
    assert content["best"]["monitor"] == "box_AP"
    for kind in ("box", "mask"):
        assert 0 <= content["metrics"][f"{kind}_AP"] <= 1
    names = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(set(step) == names for step in losses(finished))
    assert len(list((finished / "gallery").glob("detections_*.png"))) == 2


def test_stopped_run_goes_on_to_the_same_weights(finished: Path, tmp_path: Path) -> None:
    """From inside the first epoch: what was drawn for its regions is not drawn again."""
    folder = tmp_path / "run"
    every = ["run.checkpoint_every=3", "run.keep_last=9"]
    done("detect", folder, *every)
    first, *later = sorted((folder / "checkpoints").glob("step_*.pt"))
    assert int(first.stem.removeprefix("step_")) == 3
    for path in later:
        path.unlink()
    (folder / "metrics.json").unlink()  # says that the run is finished
    done("detect", folder, *every)
    assert [line["step"] for line in logged(folder)][-5:] == [4, 5, 6, 7, 8]
    assert differing(finished, folder) == []


def test_loading_a_run(finished: Path) -> None:
    model, _, classes = load_detector(finished)
    assert classes == ("ellipse", "rectangle", "triangle")
    model.roi_heads.score_thresh = 0.0
    (found,) = model([torch.rand(3, 50, 70)])
    assert set(found) == {"boxes", "labels", "scores", "masks"}
    assert found["masks"].shape[-2:] == (50, 70)


@pytest.mark.parametrize("masks", [True, False])
def test_every_parameter_learns(masks: bool) -> None:
    """In one step, also of images without any object: a run on several processes needs that."""
    model = detector(f"data.masks={masks}")
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    target = {**empty, "masks": torch.zeros(0, 32, 32, dtype=torch.uint8)} if masks else empty
    sum(model([torch.rand(3, 32, 32)], [target]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_box_loss_is_the_generalised_iou_of_decoded_boxes() -> None:
    heads = detector().roi_heads
    assert isinstance(heads, GIoUHeads)
    proposals = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 25], [0, 0, 30, 30], [2, 2, 9, 12]])
    truth = torch.tensor([[1.0, 1, 12, 11], [5, 6, 22, 22], [0, 0, 1, 1], [0, 0, 8, 8]])
    labels = torch.tensor([2, 1, 0, 3])
    targets = heads.box_coder.encode_single(truth, proposals)
    deltas = 0.3 * torch.randn(4, 16)
    boxes = heads.box_coder.decode_single(deltas, proposals).view(4, 4, 4)[torch.arange(4), labels]
    objects = [0, 1, 3]
    giou = generalized_box_iou(boxes[objects], truth[objects]).diagonal()
    expected = 10 * (1 - giou).sum() / 4
    assert torch.allclose(heads._box_loss(deltas, labels, targets, proposals), expected, rtol=1e-4)


def test_proposals_are_judged_by_the_distance_of_their_deltas() -> None:
    rpn = detector().rpn
    labels = [torch.tensor([1.0, 0, 0, -1, 1])]
    deltas, targets = torch.randn(5, 4), [torch.randn(5, 4)]
    logits = torch.randn(5, 1)
    objectness, boxes = rpn.compute_loss(logits, deltas, labels, targets)
    positive, sampled = [0, 4], [0, 1, 2, 4]
    assert torch.allclose(boxes, (deltas - targets[0])[positive].abs().sum() / 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[sampled, 0], labels[0][sampled])
    assert torch.allclose(objectness, expected)


def test_network_of_the_authors() -> None:
    """Section 3.11."""
    with initialize_config_module("itpn.conf", version_base="1.3"):
        config = compose("detect", ["+experiment=coco_pixel_base_1x", "data.root=/data"])
    with torch.device("meta"):
        model: Any = build_detector(config, 80)
    assert model.backbone.strides == (4, 8, 16, 32, 64)
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert (model.rpn.fg_bg_sampler.batch_size_per_image, model.rpn.fg_bg_sampler.positive_fraction) == (256, 0.5)
    roi = model.roi_heads
    assert (roi.fg_bg_sampler.batch_size_per_image, roi.fg_bg_sampler.positive_fraction) == (512, 0.25)
    assert (roi.score_thresh, roi.nms_thresh, roi.detections_per_img) == (0.05, 0.5, 100)
    assert roi.box_coder.weights == (10.0, 10.0, 5.0, 5.0)
    assert model.rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert model.rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    assert roi.box_predictor.bbox_pred.out_features == 4 * 81
    assert roi.box_head[-2].out_features == 1024
    assert model.transform.size_divisible == 32


@pytest.mark.parametrize("name", COCO)
def test_coco_recipes(name: str) -> None:
    """Section 4; each builds its network."""
    with initialize_config_module("itpn.conf", version_base="1.3"):
        config = compose("detect", [f"+experiment={name}", "data.root=/data"])
    lr, drop_path, decay, epochs = COCO[name]
    optim = config.optim
    assert (optim.lr, config.model.drop_path_rate, optim.layer_decay, config.epochs) == (lr, drop_path, decay, epochs)
    assert (optim.weight_decay, optim.warmup_steps, list(optim.betas)) == (0.05, 500, [0.9, 0.999])
    assert [round(share * epochs) for share in optim.milestones] == ([9, 11] if epochs == 12 else [27, 33])
    assert list(config.detector.short_side) == list(range(480, 801, 32))
    assert config.data.window_share == 0.5
    assert config.model.rel_pos == ("decomposed" if "large" in name else None)
    assert config.output_dir == f"outputs/{name}"
    with torch.device("meta"):
        body = build_detector(config, 80).backbone.backbone
    assert body.norm_eps == 1e-5
    assert (body.embed_dim, body.depths) == ((768, (2, 2, 40)) if "large" in name else (512, (3, 3, 24)))


def test_starts_from_a_pretraining(tmp_path: Path) -> None:
    expected = write_pretraining(tmp_path, depth=2)
    torch.manual_seed(0)
    model = build_detector(configuration(), 3, str(tmp_path))
    own = model.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in expected.items())


def test_boxes_alone(tmp_path: Path) -> None:
    """VOC files, which have no masks."""
    for seed, split in enumerate(("train", "val")):
        GeneratedShapes(4, (40, 48), seed, object_size=(12, 30)).export(tmp_path / "data", split)
    own = [x for x in DETECT if not x.startswith(("data.train", "data.val", "data.image", "data.object"))]
    data = ["detection@data=voc", f"data.root={tmp_path / 'data'}", "data.train_split=train", "data.val_split=val"]
    outcome = call("detect", *own, *data, "data.workers=0", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
    metrics = read(tmp_path / "run/metrics.json")["metrics"]
    assert "box_AP" in metrics
    assert not any(name.startswith("mask") for name in metrics)
    model, _, _ = load_detector(tmp_path / "run")
    assert not model.roi_heads.has_mask()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.masks=some", "'some' is not a choice"),
        ("data.format=cifar", "unknown format 'cifar'"),
        ("+head_std=1", "itpn-finetune"),
        ("init=nowhere.pth", "nowhere.pth"),
    ],
)
def test_mistakes(tmp_path: Path, change: str, message: str) -> None:
    assert message in call("detect", *DETECT, f"output_dir={tmp_path / 'run'}", change).mistake()


def test_bccd_experiment() -> None:
    with initialize_config_module("itpn.conf", version_base="1.3"):
        config = compose("detect", ["+experiment=bccd", "data.root=/data"])
    assert (config.data.format, config.data.on_error) == ("voc", "skip")
    with torch.device("meta"):
        assert not build_detector(config, 3).roi_heads.has_mask()
