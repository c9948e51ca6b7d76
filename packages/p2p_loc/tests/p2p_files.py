"""Small data sets of generated people as files, for tests of what reads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
from omegaconf import DictConfig, OmegaConf

from p2p_loc.people import GeneratedPeople

SIZE = (64, 80)  # height and width of the pictures


def write_people(folder: Path, train: int = 6, val: int = 3) -> Path:
    """Splits ``train`` and ``val`` as ``images/*.png`` and ``train.json``, ``val.json``; returns ``folder``."""
    (folder / "images").mkdir(parents=True)
    for seed, (split, length) in enumerate({"train": train, "val": val}.items()):
        people = GeneratedPeople(length, SIZE, seed, num_people=(2, 4), height=(10, 20))
        content = people.coco()
        for i, image in enumerate(content["images"]):
            image["file_name"] = f"{split}_{image['file_name']}"
            pixels = people.load_image(i).permute(1, 2, 0).numpy()
            cv2.imwrite(str(folder / "images" / image["file_name"]), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        write_json(folder / f"{split}.json", content)
    return folder


def coco_settings(root: Path | None, **changes: Any) -> DictConfig:
    """The ``data`` configuration of :func:`write_people`'s folder."""
    settings = OmegaConf.load(Path(__file__).parents[1] / "src/p2p_loc/conf/data/coco.yaml")
    files = {"train_images": "images", "val_images": "images", "train_annotations": "train.json"}
    known = {"root": None if root is None else str(root), "val_annotations": "val.json", "workers": 0, "batch_size": 2}
    merged = OmegaConf.merge(settings, files, known, {"points": {"dist": "uniform"}}, changes)
    assert isinstance(merged, DictConfig)
    return merged


def small_content() -> dict[str, Any]:
    """Two images listed against the order of their ids, with annotations of all kinds that are treated differently."""
    return copy.deepcopy(
        {
            "images": [
                {"id": 7, "width": 200, "height": 100, "file_name": "b.png"},
                {"id": 3, "width": 120, "height": 90, "file_name": "a.png"},
            ],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 20, 40, 30], "iscrowd": 0, "area": 700},
                {"id": 2, "image_id": 3, "category_id": 5, "bbox": [50, 30, 20, 40], "iscrowd": 0},
                {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 200, 100], "iscrowd": 1},
                {"id": 4, "image_id": 3, "category_id": 2, "bbox": [5, 5, 30, 30], "iscrowd": 0, "ignore": True},
                {"id": 5, "image_id": 7, "category_id": 2, "bbox": [60, 20, 0.5, 10], "iscrowd": 0},
                {"id": 6, "image_id": 7, "category_id": 2, "bbox": [300, 20, 10, 10], "iscrowd": 0},
                {"id": 7, "image_id": 7, "category_id": 2, "bbox": [80, 20, 10, 10], "iscrowd": 0, "area": 0},
                {"id": 8, "image_id": 7, "category_id": 5, "bbox": [150, 60, 20, 20], "iscrowd": 0},
            ],
            "categories": [{"id": 2, "name": "person"}, {"id": 5, "name": "boat"}],
        }
    )


def write_json(path: Path, content: Any) -> Path:
    """Write ``content``, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path
