"""Generated pictures: functions of (seed, index) alone, with boxes, masks and files that agree with one another."""

import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from vireo.data import CocoDetection, GeneratedShapes, VocDetection
from vireo.data.shapes import KINDS
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning", "ignore:__array__")


def test_pictures_depend_on_seed_and_index_only() -> None:
    data = GeneratedShapes(6, (64, 96), 5, object_size=(16, 40))
    longer = GeneratedShapes(9, (64, 96), 5, object_size=(16, 40))
    forward = [data[i][0] for i in range(6)]
    assert all(torch.equal(longer[i][0], forward[i]) for i in reversed(range(6)))
    assert not torch.equal(forward[0], forward[1])
    other = GeneratedShapes(6, (64, 96), 6, object_size=(16, 40))
    assert not torch.equal(other[0][0], forward[0])
    assert not np.array_equal(other.records[0].boxes, data.records[0].boxes)
    code = (
        "import zlib; from vireo.data import GeneratedShapes;"
        "print(zlib.crc32(GeneratedShapes(4, (64, 96), 5, object_size=(16, 40))[3][0].contiguous().numpy().tobytes()))"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(elsewhere) == zlib.crc32(forward[3].contiguous().numpy().tobytes())


def test_sample_has_the_common_form() -> None:
    data = GeneratedShapes(20, (96, 128), masks=True)
    for index in range(20):
        image, target = data[index]
        count = len(target["boxes"])
        assert image.dtype == torch.uint8
        assert image.shape == (3, 96, 128)
        assert 1 <= count <= 4
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == target["ids"].dtype == torch.int64
        assert target["iscrowd"].dtype == torch.bool
        assert target["masks"].shape == (count, 96, 128)
        assert target["size"] == target["orig_size"] == data.image_size(index) == (96, 128)
        assert target["scale"] == 1.0
        assert "true_boxes" not in target
        boxes = target["boxes"]
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= 128).all()
        assert (boxes[:, 3] <= 96).all()
        longer = (boxes[:, 2:] - boxes[:, :2]).max(dim=1).values
        assert ((longer > 23.99) & (longer < 70.01)).all()
    ids = np.concatenate([record.ids for record in data.records])
    assert (ids == np.arange(1, len(ids) + 1)).all()


def test_masks_fill_their_boxes() -> None:
    data = GeneratedShapes(40, masks=True)
    fills: dict[int, list[float]] = {kind: [] for kind in range(3)}
    for index in range(40):
        target = data[index][1]
        for mask, box, area, label in zip(target["masks"], target["boxes"], target["area"], target["labels"]):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            bounds = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            assert (bounds - box).abs().max() < 2.5  # a sharp tip can pass between pixel centres
            assert abs(mask.sum() / area - 1) < 0.05
            fills[int(label)].append(float(area / ((box[2] - box[0]) * (box[3] - box[1]))))
    assert all(0.4 < fill < 0.79 for fill in fills[0]), "an ellipse covers at most pi/4 of its box"
    assert all(fill < 0.51 for fill in fills[2]), "a triangle covers at most half"
    assert max(fills[1]) > 0.8


def test_objects_hardly_overlap_and_stand_out() -> None:
    from torchvision.ops import box_iou

    data = GeneratedShapes(60, masks=True, num_objects=(3, 6), max_iou=0.05)
    contrasts = []
    for index in range(60):
        image, target = data[index]
        overlaps = box_iou(target["boxes"], target["boxes"]).fill_diagonal_(0)
        assert overlaps.max() <= 0.0501
        background = image[:, target["masks"].sum(0) == 0].float().mean(dim=1)
        largest = image[:, target["masks"][0].bool()].float().mean(dim=1)
        contrasts.append(float((largest - background).norm()))
    assert min(contrasts) > 40


def test_semantic() -> None:
    data = GeneratedShapes(10, masks=True, num_objects=(1, 1))
    for index in range(10):
        target = data[index][1]
        image, labels = data.semantic(index)
        assert torch.equal(image, data[index][0])
        assert torch.equal(labels, target["masks"][0] * (target["labels"][0] + 1).to(torch.uint8))


def test_subset_and_pickle_keep_their_pictures() -> None:
    data = GeneratedShapes(8, masks=True)
    subset = pickle.loads(pickle.dumps(data.with_records(data.records[5:])))
    image, target = subset[1]
    assert torch.equal(image, data[6][0])
    assert torch.equal(target["masks"], data[6][1]["masks"])
    assert len(data) == 8


def test_exported_files_read_back_the_same(tmp_path: Path) -> None:
    data = GeneratedShapes(5, (80, 120), seed=2, masks=True)
    annotation_file = data.export(tmp_path, "train")
    GeneratedShapes(2, (80, 120), seed=3).export(tmp_path, "val")
    coco = CocoDetection(tmp_path / "JPEGImages", annotation_file, masks=True)
    voc = VocDetection(tmp_path, "train", classes=KINDS)
    assert coco.classes == data.classes == voc.classes
    assert len(coco) == len(voc) == 5
    assert len(VocDetection(tmp_path, "val")) == 2
    for index in range(5):
        image, target = data[index]
        for read in (coco, voc):
            pixels, other = read[index]
            assert (pixels.float() - image.float()).abs().mean() < 8  # JPEG, colours at half resolution
            assert torch.equal(other["labels"], target["labels"])
            assert other["orig_size"] == (80, 120)
        torch.testing.assert_close(coco[index][1]["boxes"], target["boxes"])
        assert (voc[index][1]["boxes"] - target["boxes"]).abs().max() <= 1
        masks, other_masks = target["masks"].bool(), coco[index][1]["masks"].bool()
        assert ((masks & other_masks).sum() / (masks | other_masks).sum()) > 0.93
    coco.check_images(2, decode=True)
    voc.check_images(2, decode=True)
    written = json.loads(annotation_file.read_text())
    assert written["categories"][0] == {"id": 1, "name": "ellipse"}


@pytest.mark.parametrize(
    "wrong", [{"length": 0}, {"num_objects": (3, 2)}, {"object_size": (10, 500)}, {"seed": -1}, {"num_objects": (0, 1)}]
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="GeneratedShapes"):
        GeneratedShapes(**({"length": 2} | wrong))
