"""Detections in batches, by tiles, and of whole data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from p2p_networks import narrow
from p2p_runs import DATA, configuration
from torch import Tensor

from p2p_loc.data import build_evaluation_set
from p2p_loc.detection import all_detections, detect, evaluate_localizer, predict_batches, prediction_loader
from p2p_loc.localizer import Candidates, Localizer
from p2p_loc.location import evaluate_locations
from p2p_loc.merge import merge_tiles
from p2p_loc.small import SmallLocalizer
from p2p_loc.tiles import tile_image
from vireo.data import NormalizePad
from vireo.errors import InputError

GREY = torch.tensor([123.675, 116.28, 103.53]).round().byte()


class Bright(Localizer):
    """Finds every pixel whose red is far above the mean: a box of 4 around it, scored by its green."""

    def __init__(self) -> None:
        super().__init__(1)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.batches: list[tuple[int, ...]] = []

    def candidates(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        self.batches.append(tuple(images.shape))
        found = []
        for image, (height, width) in zip(images, sizes):
            y, x = (image[0, :height, :width] > 2).nonzero(as_tuple=True)
            scores = 0.5 + 0.1 * image[1, y, x]
            found.append(Candidates(torch.stack([x - 2, y - 2, x + 2, y + 2], 1).float(), scores[:, None]))
        return found


def picture(height: int, width: int, spots: Sequence[tuple[int, int, int]]) -> Tensor:
    """Grey, with spots (x, y, green)."""
    image = GREY[:, None, None].repeat(1, height, width)
    for x, y, green in spots:
        image[:, y, x] = torch.tensor([255, green, 0], dtype=torch.uint8)
    return image


SPOTS = [(5, 5, 200), (95, 60, 255), (70, 10, 180), (150, 110, 90), (199, 119, 120)]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("tile", [None, (96, 64), (1000, 1000), (200, 40)])
def test_objects_are_found_once_wherever_tiles_meet(tile: tuple[int, int] | None, batch_size: int) -> None:
    """An object in an overlap is seen by several tiles, and joined."""
    found = detect(Bright(), picture(120, 200, SPOTS), tile=tile, overlap=(20, 20), batch_size=batch_size)
    expected = sorted(SPOTS, key=lambda spot: -spot[2])
    centres = (found["boxes"][:, :2] + found["boxes"][:, 2:]) / 2
    assert centres.tolist() == [[x, y] for x, y, _ in expected]
    assert found["scores"].diff().max() < 0
    assert found["labels"].tolist() == [0] * len(SPOTS)


def test_tiles_go_through_the_network_in_batches() -> None:
    model = Bright()
    detect(model, picture(120, 200, SPOTS), tile=(96, 64), overlap=(20, 20), batch_size=4)
    assert model.batches == [(4, 3, 64, 96), (4, 3, 64, 96), (1, 3, 64, 96)]


def test_tiles_are_joined_as_the_rule_says() -> None:
    """The same as merge_tiles over all candidates of all tiles, with a network that fires everywhere."""
    torch.manual_seed(0)
    model = SmallLocalizer(2, widths=(4, 8), dilations=(1,), score_threshold=0.005).eval()
    torch.nn.init.normal_(model.head.weight, std=0.5)
    image = torch.randint(0, 256, (3, 70, 110), dtype=torch.uint8)
    corners = tile_image((110, 70), (64, 48), (16, 16), "shift")
    with torch.no_grad():
        each = []
        for left, top, right, bottom in corners.tolist():
            batch, _ = NormalizePad()([image[:, top:bottom, left:right]], [])
            each += model.candidates(batch, [(bottom - top, right - left)])
    expected = merge_tiles([c.boxes for c in each], [c.scores for c in each], corners, score_threshold=0.005)
    found = detect(model, image, tile=(64, 48), overlap=(16, 16), batch_size=1)
    assert len(found["scores"]) > 20
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(found[name], expected[name]), name


def test_nothing_found_and_nothing_to_be_cut() -> None:
    found = detect(Bright(), picture(120, 200, []), tile=(96, 64), overlap=(20, 20))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }
    with pytest.raises(InputError, match="overlap"):
        detect(Bright(), picture(120, 200, []), tile=(96, 64), overlap=(96, 20))


def test_boxes_are_of_the_original_pixels() -> None:
    model = Bright().train()
    images, _ = NormalizePad()([picture(120, 200, SPOTS)], [])
    target: dict[str, Any] = {"image_id": torch.tensor(9), "size": (120, 200), "orig_size": (60, 400)}
    (found,) = predict_batches(model, [(images, [target])])
    assert found["image_id"] == 9
    best = (found["boxes"][0, :2] + found["boxes"][0, 2:]) / 2
    assert best.tolist() == [2 * 95, 60 / 2]
    assert not model.training


@pytest.mark.parametrize("kind", ["small", "adap", "p2p"])
def test_what_shares_a_batch_changes_nothing(kind: str) -> None:
    """Each image gets the detections that it has alone, without the padding that the largest asks for."""
    torch.manual_seed(0)
    if kind == "small":
        network: Any = SmallLocalizer(2, widths=(4, 8), dilations=(1,), score_threshold=0.0, max_detections=20)
    else:
        network = narrow(kind, score_threshold=0.0, max_detections=20)
    last = network.head if kind == "small" else network.head.cls_out
    torch.nn.init.normal_(last.weight, std=0.3)  # scores that differ by more than rounding
    sizes = [(40, 90), (64, 64), (33, 70), (64, 60)]  # the first and the third, the others: padded alike
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    targets = [{"image_id": i, "size": size, "orig_size": size} for i, size in enumerate(sizes)]
    with torch.no_grad():
        batch = NormalizePad()(images, targets)
        found = predict_batches(network, [batch])
        together = network(*batch)
    assert [one["image_id"] for one in found] == [0, 1, 2, 3]
    assert not torch.allclose(together[1]["scores"], found[1]["scores"], rtol=1e-2)
    for one, image in zip(found, images):
        alone = detect(network, image)
        assert len(one["scores"]) == len(alone["scores"]) > 0
        for name in ("boxes", "scores"):
            torch.testing.assert_close(one[name], alone[name], rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def model() -> SmallLocalizer:
    torch.manual_seed(1)
    network = SmallLocalizer(1, widths=(4, 8), dilations=(1,), score_threshold=0.001, max_detections=30)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    return network


def test_a_data_set_whole_and_by_tiles(model: SmallLocalizer) -> None:
    config = configuration(*DATA, "data.eval_tile=[32,32]", "data.eval_overlap=[8,8]")
    val_set = build_evaluation_set(config.data)
    whole, tiled = (all_detections(model, val_set, config.data, tiled=tiled) for tiled in (False, True))
    assert sorted(set(whole.image_ids.tolist())) == [record.image_id for record in val_set.records]
    assert set(whole.classes.tolist()) == {1}  # category ids
    for index in range(len(val_set)):
        image, target = val_set[index]
        for found, options in ((whole, {}), (tiled, {"tile": (32, 32), "overlap": (8, 8)})):
            mine = found.image_ids == int(target["image_id"])
            expected = detect(model, image, **options)  # type: ignore[arg-type]
            np.testing.assert_allclose(found.boxes[mine], expected["boxes"].numpy(), atol=1e-4)
    assert len(whole) != len(tiled) or not np.allclose(whole.boxes, tiled.boxes)
    metrics = evaluate_localizer(model, val_set, config.data, config.eval)
    assert metrics == evaluate_locations(val_set.truth, tiled, **config.eval)
    assert evaluate_localizer(model, val_set, config.data, config.eval, rank=1, world_size=2) is None


def test_images_are_resized_before_they_are_cut(model: SmallLocalizer) -> None:
    settings = [*DATA, "data.image_size=[40,60]", "data.short_side=80", "data.long_side=120", "data.workers=0"]
    plain = configuration(*settings)
    cut = configuration(*settings, "data.eval_tile=[120,80]", "data.eval_overlap=[8,8]")  # one tile
    val_set = build_evaluation_set(plain.data)
    one, other = (all_detections(model, val_set, config.data, tiled=True) for config in (plain, cut))
    assert len(one) > 10
    assert one.boxes[:, 2].max() <= 60
    assert one.boxes[:, 3].max() <= 40
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)


def test_a_loader_of_ones_own_tells_what_was_skipped(model: SmallLocalizer) -> None:
    config = configuration(*DATA)
    val_set = build_evaluation_set(config.data)
    loader = prediction_loader(val_set, config.data, tiled=True)
    found = all_detections(model, val_set, config.data, tiled=True, loader=loader)
    assert found.boxes.tolist() == all_detections(model, val_set, config.data).boxes.tolist()
    assert loader.skipped == []


def test_one_process_of_a_group_may_look_alone(model: SmallLocalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(*DATA)
    val_set = build_evaluation_set(config.data)
    expected = all_detections(model, val_set, config.data)

    def collective(_: object) -> None:
        raise AssertionError("the others do not take part")

    monkeypatch.setattr("p2p_loc.detection.gather_predictions", collective)
    alone = all_detections(model, val_set, config.data, gather=False)
    assert alone.boxes.tolist() == expected.boxes.tolist()
    with pytest.raises(AssertionError):
        all_detections(model, val_set, config.data)


@pytest.mark.parametrize("name", ["tiny_person", "sea_person", "visdrone", "city_persons"])
def test_published_settings_look_at_several_tiles_at_once(name: str) -> None:
    data = configuration(f"data={name}").data
    assert data.eval_tile is not None
    assert data.eval_batch_size == 8
