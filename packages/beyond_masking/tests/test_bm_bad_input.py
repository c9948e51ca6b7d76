"""What is wrong with an input is said in one message that names it; nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from bm_command_line import DATA, FOLDER, PRETRAIN, call, logged, pretrain, weights, write_folders
from PIL import Image

from beyond_masking import (
    RandomBlur,
    RandomGray,
    TokenPretrainModel,
    ZoomIn,
    ZoomOut,
    build_degradation,
    load_pretraining,
    to_official,
)
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

SIZES: dict[str, Any] = {"img_size": 28, "patch_size": 7, "embed_dim": 24, "depth": 1, "num_heads": 2}
SIZES |= {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["degradation.name=melted"], r"unknown degradation 'melted'.*one of none, zoomed_in"),
        (["+degradation.kernal=3"], r"kernal"),
        (["mask_ratio=1"], r"mask ratio is not in \[0, 1\)"),
        (["mask_ratio=-0.1"], r"mask ratio is not in \[0, 1\)"),
        (["mask_ratio=0.99"], "no visible token is left of 16"),
        (["model.patch_size=5"], "not divided by patches of 5"),
        (["init_weights=zeros"], "unknown initialisation 'zeros'"),
        (["model.positions=circular"], "unknown positions 'circular'"),
        (["data.format=video"], "unknown format 'video'"),
        (["data.batch_size=65"], "64 images do not fill a batch of 65"),
        (["data=folder"], r"data.root.*data.root=DIR"),
        (["data=folder", "data.root=nowhere"], "nowhere"),
        (["augmentation.interpolation=bicubic"], "resized bilinearly, not bicubic"),
        (["augmentation.scale=[0.5,0.2]"], r"scale \(0.5, 0.2\)"),
        (["init=nowhere.pt"], r"nowhere.pt.*no such file|no such file.*nowhere.pt"),
        (["epoch=3"], "epochs"),
        (["+experiment=integratd"], "integrated"),
    ],
)
def test_settings(tmp_path: Path, arguments: list[str], message: str) -> None:
    data = [] if "data=folder" in arguments else DATA
    outcome = call("pretrain", *data, *PRETRAIN, f"output_dir={tmp_path / 'run'}", *arguments)
    assert outcome.status == 2
    assert re.search(message, outcome.err), outcome.err
    assert outcome.err.count("error:") == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_weights_to_start_from(tmp_path: Path) -> None:
    model = TokenPretrainModel("none", 0.75, **SIZES)
    torch.save({"model": to_official(model), "epoch": 3}, tmp_path / "theirs.pth")
    smaller = TokenPretrainModel("none", 0.75, **{**SIZES, "embed_dim": 12})
    with pytest.raises(InputError, match=r"theirs.pth.*does not fit.*mask_token|does not fit"):
        load_pretraining(smaller, tmp_path / "theirs.pth")
    state = to_official(model)
    del state["encoder.blocks.0.attn.v_bias"]
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(InputError, match="queries without that of values"):
        load_pretraining(model, tmp_path / "half.pth")
    state = to_official(model)
    del state["encoder.blocks.0.attn.q_bias"]
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(InputError, match="values without that of queries"):
        load_pretraining(model, tmp_path / "half.pth")
    torch.save({"model": {**to_official(model), "decoder.extra": torch.zeros(1)}}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"decoder\.extra"):
        load_pretraining(model, tmp_path / "more.pth")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZoomIn(28, 28), "no middle of 28"),
        (lambda: ZoomIn(28, 35), "no middle of 28"),
        (lambda: ZoomIn(28, 36, edge_reduction="max"), "use sum or mean"),
        (lambda: ZoomOut(20, 20), "cannot be mirrored"),
        (lambda: ZoomOut(20, 41), "cannot be mirrored"),
        (lambda: RandomBlur(28, kernel=4), "odd kernel"),
        (lambda: RandomBlur(28, mode="sparse"), "use dense or depthwise"),
        (lambda: RandomGray(28, channels=2), "use 1 or 3"),
        (lambda: build_degradation("distorted", 28, kernel=3), "kernel"),
        (lambda: TokenPretrainModel(ZoomOut(20, 28), 0.5, **{**SIZES, "img_size": 35}), "takes 35"),
    ],
)
def test_degradations_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_images_of_another_size() -> None:
    model = TokenPretrainModel("zoomed_in", 0.75, **SIZES)
    with pytest.raises(InputError, match=r"\(2, 3, 28, 28\): ZoomIn takes \(B, 3, 36, 36\)"):
        model(torch.zeros(2, 3, 28, 28))


@pytest.mark.parametrize("resident", [True, False])
def test_broken_images_are_named_or_left_out(tmp_path: Path, resident: bool) -> None:
    root = write_folders(tmp_path / "data", {"train": 8, "val": 4})
    broken = root / "train" / "bee" / "zzz.jpg"
    broken.write_bytes((root / "train" / "bee" / "000.jpg").read_bytes()[:200])
    kind = FOLDER if resident else ["data=imagenet", "data.workers=0"]
    data = [*kind, f"data.root={root}", "data.val_split=val", "data.batch_size=8"]
    outcome = call("pretrain", *data, *PRETRAIN, "data.batch_size=8", f"output_dir={tmp_path / 'stopped'}")
    assert outcome.status == 2
    assert str(broken) in outcome.err
    pretrain(tmp_path / "run", "data.on_error=skip", "data.batch_size=8", data=data)
    assert str(broken) in (tmp_path / "run" / "skipped.txt").read_text()
    assert weights(tmp_path / "run")


def test_training_that_diverges_stops_with_the_images_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZoomIn, "total", lambda _self, losses: losses["loss_center"] * float("nan"))
    outcome = call("pretrain", *DATA, *PRETRAIN, f"output_dir={tmp_path / 'run'}")
    assert outcome.status != 0
    assert "not finite" in outcome.err or "NonFinite" in outcome.err or "nan" in outcome.err.lower()
    assert logged(tmp_path / "run") == []


def test_pictures_go_on_after_a_broken_image(tmp_path: Path) -> None:
    pretrain(tmp_path / "run", "epochs=1")
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (60, 40), (200, 40, 90)).save(folder / "a.jpg")
    Image.new("L", (30, 50), 90).save(folder / "b.png")
    (folder / "c.jpg").write_bytes(b"no image")
    arguments = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    outcome = call("visualize", str(folder), *arguments)
    assert outcome.status == 2
    assert "c.jpg" in outcome.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    assert call("visualize", str(folder / "a.jpg"), "--degradations", "--out", str(tmp_path / "all")).status == 0
    with Image.open(tmp_path / "all" / "a.png") as picture:
        assert picture.width > 4 * 224
    nowhere = call("visualize", str(folder / "a.jpg"), "--run", str(tmp_path / "none"), "--out", str(tmp_path / "x"))
    assert nowhere.status == 2
    assert "config.yaml" in nowhere.err
