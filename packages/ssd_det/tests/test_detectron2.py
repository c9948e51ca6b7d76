"""The refiner inside detectron2. All but the first tests need detectron2, which no other part of the suite does.

Tried with detectron2 at the commit that the package's extra ``[detectron2]`` names.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssd_det.boxes import elementwise_iou
from ssd_det.refiner import BoxRefiner
from vireo.errors import InputError

MAPS = ("p2", "p3", "p4", "p5")
REFINER_LOSSES = {"loss_spsd1", "loss_mil1", "loss_spsd2", "loss_mil2", "loss_negatives", "loss_sisd"}
DETECTOR_LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
SIZES = ((96, 128), (80, 112))
GIVEN = (
    torch.tensor([[10.0, 12.0, 60.0, 70.0], [50.0, 20.0, 120.0, 90.0]]),
    torch.tensor([[5.0, 5.0, 40.0, 60.0], [30.0, 10.0, 100.0, 70.0], [60.0, 30.0, 90.0, 75.0]]),
)
CLASSES = (torch.tensor([0, 2]), torch.tensor([1, 1, 0]))


def test_message_without_detectron2() -> None:
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "import ssd_det.refiner\n"  # the rest of the package does without
        "try:\n    import ssd_det.detectron2\n"
        "except ImportError as error:\n    print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    (extra,) = project["project"]["optional-dependencies"]["detectron2"]
    assert "needs detectron2" in shown
    assert f"pip install --no-build-isolation '{extra.removeprefix('detectron2 @ ')}'" in shown


@pytest.fixture
def adapter() -> Any:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    import ssd_det.detectron2

    return ssd_det.detectron2


@pytest.fixture
def storage(adapter: Any) -> Any:
    from detectron2.utils.events import EventStorage

    with EventStorage() as storage:
        yield storage


def config(adapter: Any, arch: str = "SSDDetRCNN", heads: str = "StandardROIHeads") -> Any:
    """A small Faster R-CNN on a ResNet-18 pyramid."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    adapter.add_ssd_det_config(cfg)
    model = cfg.MODEL
    model.DEVICE, model.WEIGHTS, model.META_ARCHITECTURE = "cpu", "", arch
    model.BACKBONE.NAME, model.BACKBONE.FREEZE_AT = "build_resnet_fpn_backbone", 0
    model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.OUT_CHANNELS = 16
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.RPN.IN_FEATURES = [*MAPS, "p6"]
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = 50
    model.ROI_HEADS.NAME, model.ROI_HEADS.IN_FEATURES, model.ROI_HEADS.NUM_CLASSES = heads, list(MAPS), 3
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
    box = model.ROI_BOX_HEAD
    box.NAME, box.NUM_FC, box.FC_DIM, box.POOLER_RESOLUTION = "FastRCNNConvFCHead", 2, 32, 7
    box.CLS_AGNOSTIC_BBOX_REG = heads == "CascadeROIHeads"
    model.SSD_DET.HIDDEN, model.SSD_DET.NUM_NEGATIVES = 32, 50
    return cfg


def build(cfg: Any) -> Any:
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    return build_model(cfg)


def batch(boxes: Any = GIVEN, classes: Any = CLASSES, **fields: Any) -> list[dict[str, Any]]:
    from detectron2.structures import Boxes, Instances

    generator = torch.Generator().manual_seed(3)
    inputs = []
    for i, size in enumerate(SIZES):
        instances = Instances(size, gt_boxes=Boxes(boxes[i].clone()), gt_classes=classes[i].clone())
        for name, values in fields.items():
            instances.set(name, values[i])
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances, "height": 2 * size[0], "width": 2 * size[1]})
    return inputs


def direct(model: Any, cfg: Any, inputs: list[dict[str, Any]], seed: int) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Refined boxes and losses of a refiner of ours with the model's weights on the model's maps."""
    refiner = BoxRefiner(3, in_channels=16, hidden=32, num_negatives=50, sisd_weight=cfg.MODEL.SSD_DET.SISD_WEIGHT)
    owner = model if hasattr(model, "refiner") else model.roi_heads
    refiner.load_state_dict(owner.refiner.state_dict())
    images = model.preprocess_image(inputs)
    maps = model.backbone(images.tensor)
    boxes = [x["instances"].gt_boxes.tensor for x in inputs]
    torch.manual_seed(seed)
    refined, _, losses = refiner([maps[n] for n in MAPS], boxes, [x["instances"].gt_classes for x in inputs], SIZES)
    return refined, losses


def spy(model: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """The boxes that the RPN and the sampler of the ROI heads learn from, filled in by the next step."""
    seen: dict[str, list[torch.Tensor]] = {}
    sample = model.roi_heads.label_and_sample_proposals

    def label_and_sample(proposals: Any, targets: Any) -> Any:
        seen["rcnn"] = [t.gt_boxes.tensor for t in targets]
        seen["classes"] = [t.gt_classes for t in targets]
        return sample(proposals, targets)

    def before_rpn(module: Any, args: Any) -> None:
        seen["rpn"] = [t.gt_boxes.tensor for t in args[2]]

    model.proposal_generator.register_forward_pre_hook(before_rpn)
    monkeypatch.setattr(model.roi_heads, "label_and_sample_proposals", label_and_sample)
    return seen


def assert_equal(actual: list[torch.Tensor], expected: Any) -> None:
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_step_of_the_whole_detector(adapter: Any, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(adapter)
    model, inputs = build(cfg), batch()
    seen = spy(model, monkeypatch)
    refined, expected = direct(model, cfg, inputs, seed=5)
    torch.manual_seed(5)
    losses = model(inputs)
    assert set(losses) == REFINER_LOSSES | DETECTOR_LOSSES
    assert set(expected) == REFINER_LOSSES
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)
    assert all((a - b).abs().max() > 0.5 for a, b in zip(refined, GIVEN))  # else the next lines would show nothing
    assert_equal(seen["rpn"], refined)
    assert_equal(seen["rcnn"], refined)
    assert_equal([x["instances"].gt_boxes.tensor for x in inputs], GIVEN)  # the caller's data stays as it was

    sum(losses[name] for name in REFINER_LOSSES).backward()
    stem = model.backbone.bottom_up.stem.conv1.weight.grad
    assert stem.isfinite().all()
    assert stem.abs().sum() > 0


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_detector_losses_are_detectron2s_on_refined_boxes(adapter: Any, storage: Any, weight: float) -> None:
    cfg = config(adapter)
    cfg.MODEL.SSD_DET.LOSS_WEIGHT = weight
    model, plain = build(cfg), build(config(adapter, arch="GeneralizedRCNN"))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("refiner.")})
    for m in (model, plain):  # the same draws of the samplers, whatever the refiner has drawn before
        m.proposal_generator.register_forward_pre_hook(lambda *_: torch.manual_seed(7) and None)
    refined, _ = direct(model, cfg, batch(), seed=5)
    torch.manual_seed(5)
    losses = model(batch())
    expected = plain(batch(boxes=[b.detach() for b in refined]))
    assert set(expected) == DETECTOR_LOSSES
    for name, loss in expected.items():
        factor = 1.0 if name == "loss_rpn_loc" else weight
        torch.testing.assert_close(losses[name], factor * loss)


def test_roi_heads_alone(adapter: Any, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(adapter, arch="GeneralizedRCNN", heads="SSDDetROIHeads")
    model, inputs = build(cfg), batch()
    seen = spy(model, monkeypatch)
    refined, _ = direct(model, cfg, inputs, seed=5)
    losses = model(inputs)
    assert set(losses) == REFINER_LOSSES | DETECTOR_LOSSES
    assert_equal(seen["rpn"], GIVEN)
    assert_equal(seen["rcnn"], refined)
    assert all(loss.isfinite() for loss in losses.values())


def test_cascade_heads(adapter: Any, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(adapter, heads="CascadeROIHeads")
    model = build(cfg)
    seen = spy(model, monkeypatch)
    losses = model(batch())
    assert set(losses) >= REFINER_LOSSES | {"loss_cls_stage0", "loss_box_reg_stage2"}
    assert all(loss.isfinite() for loss in losses.values())
    assert_equal(seen["rcnn"], seen["rpn"])


@pytest.mark.parametrize("where", ["whole", "heads"])
def test_inference_is_the_plain_detectors(adapter: Any, where: str) -> None:
    arch, heads = ("SSDDetRCNN", "StandardROIHeads") if where == "whole" else ("GeneralizedRCNN", "SSDDetROIHeads")
    model, plain = build(config(adapter, arch, heads)).eval(), build(config(adapter, arch="GeneralizedRCNN")).eval()
    unused = plain.load_state_dict(model.state_dict(), strict=False)
    assert not unused.missing_keys
    assert all(".refiner." in f".{key}" for key in unused.unexpected_keys)
    with torch.no_grad():
        found, expected = model(batch()), plain(batch())
    for a, b in zip(found, expected, strict=True):
        assert len(b["instances"]) > 0
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].scores, b["instances"].scores)
        assert torch.equal(a["instances"].pred_classes, b["instances"].pred_classes)


def test_crowds_leave_and_ignored_instances_stay(adapter: Any, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(config(adapter))
    seen = spy(model, monkeypatch)
    crowd = (torch.tensor([False, True]), torch.tensor([False, False, False]))
    losses = model(batch(classes=(CLASSES[0], torch.tensor([1, -1, 0])), gt_iscrowd=crowd))
    assert all(loss.isfinite() for loss in losses.values())
    assert [len(b) for b in seen["rpn"]] == [1, 3]
    assert seen["classes"][1].tolist() == [1, -1, 0]
    moved = [(a - b[: len(a)]).abs().amax(1) > 0 for a, b in zip(seen["rpn"], GIVEN)]
    assert [m.tolist() for m in moved] == [[True], [True, False, True]]


def test_images_without_boxes(adapter: Any, storage: Any) -> None:
    none = (torch.zeros(0, 4), torch.zeros(0, 4))
    losses = build(config(adapter))(batch(none, (CLASSES[0][:0], CLASSES[1][:0]), gt_true_boxes=none))
    assert all(losses[name] == 0 for name in REFINER_LOSSES)
    assert all(losses[name].isfinite() for name in DETECTOR_LOSSES)
    assert "ssd_det/iou_refined" not in storage.latest()


def test_true_boxes_are_compared(adapter: Any, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.structures import Boxes

    model = build(config(adapter))
    seen = spy(model, monkeypatch)
    true = [b + torch.tensor([4.0, -3.0, 2.0, 5.0]) for b in GIVEN]
    model(batch(gt_true_boxes=[Boxes(b) for b in true]))
    logged = {name: value for name, (value, _) in storage.latest().items()}
    assert logged["ssd_det/iou_given"] == pytest.approx(
        float(elementwise_iou(torch.cat(GIVEN), torch.cat(true)).mean())
    )
    refined = elementwise_iou(torch.cat(seen["rpn"]), torch.cat(true)).mean()
    assert logged["ssd_det/iou_refined"] == pytest.approx(float(refined))


def test_settings_reach_the_refiner(adapter: Any) -> None:
    cfg = config(adapter)
    cfg.merge_from_list(
        ["MODEL.SSD_DET.RATIOS", "(1.0, 1.1, 0.9)", "MODEL.SSD_DET.SHAKES", "(0.1,)", "MODEL.SSD_DET.SISD", "False"]
    )
    cfg.merge_from_list(["MODEL.SSD_DET.MAX_BOXES_PER_IMAGE", "30", "MODEL.SSD_DET.MLP_DTYPE", "bfloat16"])
    refiner = build(cfg).refiner
    assert (refiner.ratios, refiner.shakes, refiner.strides) == ((1.0, 1.1, 0.9), (0.1,), (4, 8, 16, 32))
    assert not refiner.sisd
    assert (refiner.max_boxes_per_image, refiner.mlp_dtype, refiner.num_classes) == (30, torch.bfloat16, 3)


def test_mistakes_in_the_config(adapter: Any) -> None:
    with pytest.raises(InputError, match=r"twice.*use StandardROIHeads with SSDDetRCNN"):
        build(config(adapter, heads="SSDDetROIHeads"))
    cfg = config(adapter)
    del cfg.MODEL["SSD_DET"]
    with pytest.raises(InputError, match=r"call ssd_det\.detectron2\.add_ssd_det_config"):
        build(cfg)
    cfg = config(adapter)
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4", "res5"]
    shapes = {"res4": SimpleNamespace(channels=256, stride=16), "res5": SimpleNamespace(channels=512, stride=32)}
    with pytest.raises(InputError, match="maps of one width"):
        adapter.build_refiner(cfg, shapes)
