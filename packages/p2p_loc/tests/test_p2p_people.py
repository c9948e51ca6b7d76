"""Generated people: what is in a picture, and that it is a function of (seed, index)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2p_loc import GeneratedPeople
from vireo.errors import InputError


def test_a_picture_is_a_function_of_seed_and_index() -> None:
    one, other = GeneratedPeople(4, seed=3), GeneratedPeople(9, seed=3)
    assert torch.equal(one[2][0], other[2][0])
    assert torch.equal(one[2][1]["boxes"], other[2][1]["boxes"])
    assert not torch.equal(one[2][0], one[3][0])
    assert not torch.equal(one[2][0], GeneratedPeople(4, seed=4)[2][0])
    subset = one.with_records(one.records[2:])
    assert torch.equal(subset[0][0], one[2][0])


def test_people_lie_inside_and_apart_and_have_the_sizes_asked_for() -> None:
    people = GeneratedPeople(60, (64, 128), seed=0, num_people=(2, 5), height=(12, 20))
    counts = [len(record) for record in people.records]
    assert (min(counts), max(counts)) == (2, 5)
    for record in people.records:
        boxes = record.boxes.astype(np.float64)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= np.array([128, 64]) + 1e-4).all()
        sides = boxes[:, 2:] - boxes[:, :2]
        assert ((sides[:, 1] >= 12 - 1e-3) & (sides[:, 1] <= 20 + 1e-3)).all()
        assert ((sides[:, 0] / sides[:, 1] >= 0.35 - 1e-3) & (sides[:, 0] / sides[:, 1] <= 0.6 + 1e-3)).all()
        for i in range(len(boxes)):
            for j in range(i):
                overlap = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
                assert (overlap <= 1e-4).any()
    identifiers = np.concatenate([record.ids for record in people.records])
    assert len(set(identifiers.tolist())) == len(identifiers)


def test_a_person_is_painted_into_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise and bars, what differs from the background lies in the boxes, and reaches their sides."""
    monkeypatch.setattr("p2p_loc.people._NOISE", 0.0)
    monkeypatch.setattr("p2p_loc.people._draw_bar", lambda *_: None)
    people = GeneratedPeople(12, seed=1)
    drawn = [people.load_image(i) for i in range(len(people))]
    monkeypatch.setattr("p2p_loc.people._draw_person", lambda *_: None)
    for picture, index in zip(drawn, range(len(people))):
        changed = (picture != people.load_image(index)).any(0)
        inside = torch.zeros_like(changed)
        for x1, y1, x2, y2 in people.records[index].boxes.tolist():
            inside[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = True
            window = changed[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            rows, columns = window.any(1).nonzero()[:, 0], window.any(0).nonzero()[:, 0]
            assert len(rows) >= y2 - y1 - 2
            assert len(columns) >= x2 - x1 - 2
        border = torch.nn.functional.max_pool2d(inside.float()[None, None], 3, 1, 1)[0, 0].bool()
        assert not (changed & ~border).any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"length": 0}, "at least one picture"),
        ({"seed": -1}, "0 or more"),
        ({"num_people": (3, 2)}, "is no range from 1"),
        ({"height": (10, 200)}, "smaller people"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        GeneratedPeople(**{"length": 2, **settings})  # type: ignore[arg-type]
