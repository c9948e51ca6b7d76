"""Tiny runs of ``itpn-pretrain`` inside this process."""

from __future__ import annotations

from pathlib import Path

from itpn_golden import filled
from safetensors.torch import save_file

from vireo.testing import Outcome, call_script
from vireo.testing.runs import write_folders

DATA = ["data.train_images=64", "data.val_images=40", "data.image_size=[40,40]"]
MODEL = ["model.embed_dim=32", "model.depths=[1,1,2]", "model.num_heads=2", "neck.dim=16"]
SMALL = [
    *MODEL,
    "data.batch_size=16",
    "epochs=2",
    "eval_every=2",
    "gallery_images=0",
    "run.log_every=1",
    "optim.lr=0.03",
]
PIXEL = [*SMALL, "pixel.decoder_dim=32"]
MOMENTUM = [*PIXEL, "pixel.mfm_weight=0.3"]


def clip(folder: Path) -> list[str]:
    """Settings of a run with a teacher of 4x4 patches of 16 pixels, whose weights are written to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "clip.safetensors"
    save_file({f"visual.{key}": value for key, value in filled("tiny_clip_teacher").items()}, path)
    own = ["objective=clip", f"teacher.weights={path}", "optim.schedule=warmup_cosine", "augmentation.color_jitter=0.4"]
    return [*SMALL, *own, "data.normalize=half", "+model.rel_pos=bias", "+model.init_values=0.1"]


def call(*arguments: object) -> Outcome:
    """Run ``itpn-pretrain`` in this process."""
    return call_script("itpn.pretrain", *arguments)


def pretrain(folder: Path, *arguments: object, data: list[str] = DATA) -> Outcome:
    """A run in ``folder`` that must end well."""
    outcome = call(*data, f"output_dir={folder}", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome


def image_files(root: Path) -> list[str]:
    """Data settings of folders of images that are cropped by workers."""
    write_folders(root, {"train": 8, "val": 4}, vary=True)
    return ["data=imagenet", f"data.root={root}", "data.batch_size=8", "augmentation.interpolation=bicubic"]
