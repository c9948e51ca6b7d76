"""Pictures and page of a run."""

from __future__ import annotations

import json
from pathlib import Path

import dqnet_trees as trees
import numpy as np
import torch
from PIL import Image
from torch import nn

from dqnet.data import build_dataset
from dqnet.gallery import write_gallery
from dqnet.report import write_report

DATA = trees.data_config("generated", val_images=5, image_size=32, eval_batch_size=2)


class Dark(nn.Module):
    """No foreground anywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.full_like(images[:, :1], -20)


def test_pictures_of_evenly_chosen_images(tmp_path: Path) -> None:
    dataset = build_dataset(DATA, train=False)
    write_gallery(Dark(), dataset, DATA, 32, 3, tmp_path, "cpu")
    files = sorted((tmp_path / "gallery").iterdir())
    assert [path.name for path in files] == ["map_00.png", "map_01.png", "map_02.png"]
    for path, index in zip(files, (0, 2, 4)):
        picture = np.array(Image.open(path))
        image, target = dataset[index]
        side, gap = 7 * 32, 6
        top = len(picture) - gap - side
        cells = [picture[top:-gap, gap + n * (side + gap) :][:, :side][::7, ::7] for n in range(3)]
        assert np.array_equal(cells[0], image.permute(1, 2, 0).numpy())
        assert np.array_equal(cells[1][..., 0], target["mask"].numpy())
        assert not cells[2].any()


def test_no_pictures_wanted(tmp_path: Path) -> None:
    write_gallery(Dark(), build_dataset(DATA, train=False), DATA, 32, 0, tmp_path, "cpu")
    assert not (tmp_path / "gallery").exists()


def test_the_page_of_a_run(tmp_path: Path) -> None:
    write_gallery(Dark(), build_dataset(DATA, train=False), DATA, 32, 1, tmp_path, "cpu")
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {"Smeasure": 0.61234}, "config": {"seed": 7}}))
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1, "epoch": 0, "losses": {"loss": 1.0}}\n')
    page = write_report(tmp_path, {"Smeasure": 0.882}).read_text()
    assert all(text in page for text in ("0.612", "0.882", "mask and map", "data:image/png"))
