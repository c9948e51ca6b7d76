"""``dqnet-predict``: maps, overlays and querying maps of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dqnet_saved_run import saved_run
from PIL import Image

from dqnet.load import load_run
from dqnet.predict import predictor
from dqnet.querying import draw_querying_maps, querying_maps
from dqnet.transforms import StackImages, probability_to_uint8
from vireo.data import decode_image
from vireo.testing import Outcome, call_script
from vireo.testing.runs import read

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a run with queries and one without."""
    root = tmp_path_factory.mktemp("runs")
    return {arm: saved_run(root / arm, f"model.arm={arm}") for arm in ("gate", "concat")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images and what is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    Image.new("L", (48, 64), 90).save(folder / "b.png")
    (folder / "c.jpg").write_bytes(b"no image")
    return folder


def predict(run: Path, *arguments: object) -> Outcome:
    return call_script("dqnet.predict", "--run", run, "--device", "cpu", *arguments)


def test_a_folder(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = predict(runs["gate"], images, "--out", out, "--queries", "--json", tmp_path / "found.json")
    assert outcome.status == 2
    assert outcome.err.count("error: ") == 1
    assert "c.jpg" in outcome.err
    for folder in ("maps", "overlays", "queries"):
        assert sorted(path.name for path in (out / folder).iterdir()) == ["a.png", "b.png"]
    loaded = load_run(runs["gate"])
    for row, name in zip(read(tmp_path / "found.json"), ("a.jpg", "b.png")):
        image = decode_image(images / name)
        batch, _ = StackImages(loaded.config.model.image_size, train=False)([image], [{}])
        with torch.no_grad():
            expected = probability_to_uint8(loaded.network(batch)[0, 0].sigmoid(), (image.shape[1], image.shape[2]))
        stored = np.array(Image.open(row["map"]))
        assert np.array_equal(stored, expected)
        assert row["file_name"] == str(images / name)
        assert row["foreground"] == pytest.approx((expected >= 127.5).mean(), abs=1e-5)


def test_the_overlay_tints_what_is_above_the_threshold(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    for threshold in ("0.999", "0.001"):
        out = tmp_path / threshold
        assert predict(runs["gate"], images / "b.png", "--out", out, "--threshold", threshold).status == 0
        overlay = np.array(Image.open(out / "overlays" / "b.png"))
        assert (overlay == 90).all() == (threshold == "0.999")
        assert not (out / "queries").exists()


def test_querying_maps_are_the_answers(runs: dict[str, Path]) -> None:
    """One for each stage; without weights of the last projection, made of its bias alone."""
    network = load_run(runs["gate"]).network
    assert network.resnet is not None
    assert network.resnet.queries is not None
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, stages = querying_maps(network, images)
    assert torch.equal(logits, network(images))
    assert len(stages) == 4
    assert all(part.shape == (2, 4, 4) for stage in stages for part in (stage.gate, stage.energy))
    assert stages[0].gate.std() > 0
    bias = torch.linspace(-1, 1, 16)
    stage: Any = network.resnet.queries[1]
    with torch.no_grad():
        stage.query.proj.weight.zero_()
        stage.query.proj.bias.copy_(bias)
    _, stages = querying_maps(network, images)
    assert torch.allclose(stages[1].gate, bias.sigmoid().mean().expand(2, 4, 4))
    assert torch.allclose(stages[1].energy, bias.square().mean().sqrt().expand(2, 4, 4))
    assert not any(module._forward_pre_hooks for module in network.modules())
    picture = draw_querying_maps(stages)
    assert picture.ndim == 3
    assert picture.shape[1] > 4 * 200
    assert picture.dtype == np.uint8


def test_a_network_without_queries(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    message = predict(runs["concat"], images / "b.png", "--out", tmp_path / "out", "--queries").mistake()
    assert "the arm concat has no queries" in message
    assert predict(runs["concat"], images / "b.png", "--out", tmp_path / "out").status == 0
    loaded = load_run(runs["concat"])
    assert predictor(loaded.network, 32, "cpu")(images / "b.png").queries == []


def test_mistakes(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    assert "--threshold" in predict(runs["gate"], images, "--out", tmp_path / "out", "--threshold", 1.5).mistake()
    assert "holds no config.yaml" in predict(tmp_path, images, "--out", tmp_path / "out").mistake()
    assert "pictures would replace images" in predict(runs["gate"], images, "--out", images).mistake()
