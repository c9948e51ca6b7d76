"""``itpn-check``: what it says of a checkpoint, and its faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from itpn_golden import filled

from itpn.check import describe, main
from itpn.sizes import itpn_backbone
from vireo.errors import InputError


def written(tmp_path: Path, case: str) -> str:
    torch.save({"model": filled(case)}, tmp_path / f"{case}.pth")
    return str(tmp_path / f"{case}.pth")


def test_pre_training_with_pixels(tmp_path: Path) -> None:
    found = describe(written(tmp_path, "tiny_pixel_mim"))
    for words in (
        "iTPN, pre-training with pixels",
        "sizes of its own: 64 channels, depths (2, 2, 3), units of 16, image size 64, no layer scale",
        "pyramid: depth 2; classes: none",
        "left at their start: nothing",
        "beside the backbone: pyramid (52), mask token (1), decoder of pixels (29), embedding of levels (12)",
    ):
        assert words in found, found


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("tiny_clip_mim", ("iTPN, pre-training with a teacher's features", "with layer scale", "depth 1")),
        ("tiny_clip_cls", ("iTPN, classifier", "classes: 10", "fits the backbone: 111 entries")),
        ("tiny_seg", ("iTPN, backbone and pyramid (detector or segmenter)", "depth 2")),
        ("tiny_fast_default", ("Fast-iTPN, classifier", "none that fits", "fits the backbone: 102 entries")),
    ],
)
def test_families(case: str, words: tuple[str, ...], tmp_path: Path) -> None:
    found = describe(written(tmp_path, case))
    for part in words:
        assert part in found, found


def test_with_a_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"module": itpn_backbone("fast_itpn_tiny").state_dict()}, tmp_path / "fast.pt")
    main([str(tmp_path / "fast.pt"), "--model", "fast_itpn_tiny"])
    printed = capsys.readouterr().out
    assert "fast_itpn_tiny: 384 channels, depths (1, 1, 12), units of 16, image size 224, with layer scale" in printed
    for model in ("fast_itpn_small", "itpn_base"):
        with pytest.raises(InputError, match="does not fit the backbone"):
            describe(str(tmp_path / "fast.pt"), model)
    with pytest.raises(InputError, match="unknown backbone 'resnet50'"):
        describe(str(tmp_path / "fast.pt"), "resnet50")


def test_faults_end_with_status_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 torn")
    for name, words in (("other", "holds no backbone of iTPN"), ("torn", "cannot be read"), ("none", "no such file")):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / f"{name}.pth")])
        assert caught.value.code == 2
        printed = capsys.readouterr().err
        assert words in printed
        assert printed.count("\n") == 1


def test_help_imports_no_torch() -> None:
    program = "import sys, itpn.check; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
