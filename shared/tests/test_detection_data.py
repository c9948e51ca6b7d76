"""Generic parts of detection runs: data from a configuration, targets, predictions and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from vireo.data import GeneratedShapes
from vireo.detection import (
    build_loader,
    build_sets,
    evaluate_detector,
    ground_truth,
    has_masks,
    training_targets,
)
from vireo.errors import InputError


def test_targets_leave_out_crowds() -> None:
    target = {
        "image_id": 3,
        "boxes": torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3]]),
        "labels": torch.tensor([2, 0]),
        "iscrowd": torch.tensor([True, False]),
        "masks": torch.stack((torch.zeros(4, 4), torch.ones(4, 4))).byte(),
    }
    (wanted,) = training_targets([target])
    assert wanted["labels"].tolist() == [1]
    assert wanted["boxes"].tolist() == [[1, 1, 3, 3]]
    assert wanted["masks"].shape == (1, 4, 4)
    assert wanted["masks"].all()
    with pytest.raises(InputError, match="image 3: the annotations have no masks"):
        training_targets([{key: value for key, value in target.items() if key != "masks"}])


def test_perfect_detections_have_full_marks() -> None:
    """Boxes, masks, labels and image sizes arrive at the metric as they should."""
    dataset = GeneratedShapes(4, (40, 56), object_size=(12, 30), masks=True)

    class Oracle(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            self.index = getattr(self, "index", -1) + 1
            target = dataset[self.index][1]
            score = torch.ones(len(target["labels"]))
            masks = target["masks"][:, None].float()
            return [{"boxes": target["boxes"], "labels": target["labels"] + 1, "scores": score, "masks": masks}]

    settings = OmegaConf.create({"batch_size": 2, "eval_batch_size": 1, "workers": 0, "on_error": "raise"})
    loader = build_loader(dataset, settings, False, device="cpu", rank=0, world_size=1, seed=0)
    metrics = evaluate_detector(Oracle(), loader, dataset)
    assert metrics is not None
    assert metrics["box_AP"] == pytest.approx(1)
    assert metrics["mask_AP"] == pytest.approx(1)


def test_no_masks_to_evaluate() -> None:
    with pytest.raises(InputError, match="no masks"):
        ground_truth(GeneratedShapes(2, (40, 40), object_size=(12, 20)))


def coco(folder: Path, **settings: Any) -> Any:
    data = {"format": "coco", "root": str(folder), "on_error": "raise"}
    for split in ("train", "val"):
        data |= {f"{split}_split": "JPEGImages", f"{split}_annotations": f"annotations/{split}.json"}
    return OmegaConf.create({**data, **settings})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for seed, split in enumerate(("train", "val")):
        GeneratedShapes(3, (40, 48), seed, object_size=(12, 30)).export(tmp_path, split)
    return tmp_path


def test_coco_files(files: Path) -> None:
    train, val = build_sets(coco(files))
    image, target = train[0]
    assert target["masks"].shape[1:] == image.shape[1:]
    assert all("segmentation" in annotation for annotation in ground_truth(val)["annotations"])


def test_boxes_without_masks_are_refused(files: Path) -> None:
    path = files / "annotations/train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"train\.json: annotation 1.*segmentation is missing"):
        build_sets(coco(files))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": None}, r"data\.root"),
        ({"format": "cifar"}, "unknown format 'cifar'"),
        ({"masks": "some"}, "'some' is not a choice"),
        ({"format": "voc", "masks": True}, "the format voc has no masks"),
    ],
)
def test_data_that_cannot_be_used(files: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_sets(coco(files, **change))


def test_different_classes(files: Path) -> None:
    path = files / "annotations/val.json"
    path.write_text(path.read_text().replace("triangle", "star"))
    with pytest.raises(InputError, match="different classes"):
        build_sets(coco(files))


@pytest.mark.parametrize("masks", ["auto", False])
def test_boxes_alone(files: Path, masks: Any) -> None:
    """Of VOC files, and of COCO files whose masks are not wanted."""
    settings = {"format": "voc", "train_split": "train", "val_split": "val"} if masks == "auto" else {}
    data = coco(files, masks=masks, **settings)
    assert not has_masks(data)
    train, val = build_sets(data)
    assert (len(train), len(val)) == (3, 3)
    assert "masks" not in train[0][1]
    (wanted,) = training_targets([train[0][1]], masks=False)
    assert set(wanted) == {"boxes", "labels"}


def test_detections_without_masks_are_judged_by_their_boxes() -> None:
    dataset = GeneratedShapes(2, (40, 56), object_size=(12, 30))

    def oracle(images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        targets = [dataset[i][1] for i in range(2)]
        return [
            {"boxes": t["boxes"], "labels": t["labels"] + 1, "scores": torch.ones(len(t["labels"]))} for t in targets
        ]

    class Model(torch.nn.Module):
        forward = staticmethod(oracle)

    settings = OmegaConf.create({"batch_size": 2, "eval_batch_size": 2, "workers": 0, "on_error": "raise"})
    loader = build_loader(dataset, settings, False, device="cpu", rank=0, world_size=1, seed=0)
    metrics = evaluate_detector(Model(), loader, dataset, masks=False)
    assert metrics is not None
    assert metrics["box_AP"] == pytest.approx(1)
    assert not any(name.startswith("mask") for name in metrics)
