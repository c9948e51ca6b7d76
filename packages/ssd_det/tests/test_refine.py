"""Quality of boxes, and refined boxes put into annotations."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssd_det.quality import box_quality, paired_iou
from ssd_det.relabel import apply_refinement, refine_boxes
from vireo.data import GeneratedShapes
from vireo.errors import InputError

TRUE = np.array(
    [
        [0, 0, 10, 10],  # group: its box covers it and its neighbour
        [12, 0, 22, 10],  # drift: its box lies on the first
        [40, 40, 80, 80],  # part: its box is a corner of it
        [0, 0, 10, 10],  # in another image: its box lies where the first image has a second object
        [0, 40, 20, 60],  # good
    ],
    np.float32,
)
FOUND = np.array(
    [[0, 0, 22, 10], [1, 0, 11, 10], [40, 40, 60, 60], [12, 0, 22, 10], [0, 40, 20, 58]],
    np.float32,
)
IMAGE = np.array([3, 3, 3, 7, 3])


def test_kinds_of_error() -> None:
    quality = box_quality(FOUND, TRUE, IMAGE)
    assert (quality.group, quality.drift, quality.part) == (0.2, 0.2, 0.2)
    assert quality.share_iou_above_half == 0.2
    assert quality.mean_iou == pytest.approx(paired_iou(FOUND, TRUE).mean(), abs=1e-6)


def test_thresholds_of_the_kinds() -> None:
    assert box_quality(FOUND, TRUE, IMAGE, bad_iou=0.2).part == 0.0  # an IoU of 0.25 is then no longer bad
    lenient = box_quality(FOUND, TRUE, IMAGE, high_overlap=1.0)
    assert (lenient.group, lenient.part) == (0.0, 0.0)  # no box is covered by more than all of it
    assert lenient.drift == 0.2


def test_kinds_do_not_depend_on_the_order() -> None:
    order = np.array([4, 2, 0, 3, 1])
    assert box_quality(FOUND[order], TRUE[order], IMAGE[order]) == box_quality(FOUND, TRUE, IMAGE)


class Stub(nn.Module):
    """A detector whose refiner halves every box; the boxes of the first image leave it, or become NaN."""

    num_classes = 3
    refiner: Any = "halves"

    def refine(self, images: Tensor, targets: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        found = []
        for target in targets:
            assert not target["iscrowd"][0]
            boxes = target["boxes"].clone()
            boxes[:, 2:] = (boxes[:, :2] + boxes[:, 2:]) / 2
            if target["image_id"] == 1:
                boxes[:] = -50
                boxes[0] = torch.nan
            found.append({"boxes": boxes, "scores": torch.full((len(boxes),), 0.5)})
        return found


@pytest.fixture
def shapes() -> GeneratedShapes:
    return GeneratedShapes(3, (48, 60), seed=4, num_objects=(2, 3), object_size=(14, 24))


def test_boxes_come_back_in_pixels_of_the_file(shapes: GeneratedShapes) -> None:
    found, skipped = refine_boxes(Stub(), shapes, short_side=96, long_side=200, device="cpu")  # type: ignore[arg-type]
    given = {int(i): (record.image_id, box) for record in shapes.records for i, box in zip(record.ids, record.boxes)}
    assert skipped == []
    assert found.ids.tolist() == sorted(given)
    for ann_id, box, score, kept in zip(found.ids, found.boxes, found.scores, found.kept):
        image_id, before = given[int(ann_id)]
        expected = before if image_id == 1 else np.append(before[:2], (before[:2] + before[2:]) / 2)
        np.testing.assert_allclose(box, expected, atol=1e-4)
        assert kept == (image_id == 1)
        assert score == 0.5


def test_annotations_that_are_not_refined(shapes: GeneratedShapes) -> None:
    content = shapes.coco()
    extra = {**content["annotations"][0], "id": 900}  # the reader left it out
    content["annotations"] += [extra, {**content["annotations"][1]}]  # and an id that is used twice
    found, _ = refine_boxes(Stub(), shapes, short_side=48, long_side=60, device="cpu")  # type: ignore[arg-type]
    result, statistics = apply_refinement(content, shapes, found)
    assert [a["id"] for a in result["annotations"]] == found.ids.tolist()
    assert (statistics.boxes, statistics.dropped, statistics.kept_given) == (len(found.ids), 2, int(found.kept.sum()))
    assert statistics.refined is None
    assert "score" not in content["annotations"][0]  # the input stays as it was


def test_models_that_cannot_refine(shapes: GeneratedShapes) -> None:
    stub = Stub()
    stub.num_classes = 4
    with pytest.raises(InputError, match="3 categories, the model knows 4"):
        refine_boxes(stub, shapes)  # type: ignore[arg-type]
    stub.refiner = None
    with pytest.raises(InputError, match="no refiner"):
        refine_boxes(stub, shapes)  # type: ignore[arg-type]
