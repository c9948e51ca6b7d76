"""Helpers of the tests of ``g2sd-detect``: tiny detectors, and runs inside this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from g2sd.detector import vitdet_rcnn
from g2sd.distilled_detector import DistilledDetector
from g2sd.imitation import ObjectnessWeightedImitation
from g2sd.vitdet import ViTDet
from vireo.testing import Outcome, call_script

SIDE, CLASSES = 32, 3
SIZES = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
LARGER = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
HEADS = {"channels": 8, "hidden": 16}


def _settings(sizes: dict[str, int]) -> list[str]:
    return [f"model.{key}={value}" for key, value in sizes.items()]


DETECT = [
    *_settings(SIZES),
    *(f"model.img_size={SIDE}", f"detector.img_size={SIDE}", "detector.window=3"),
    *(f"detector.{key}={value}" for key, value in HEADS.items()),
    *("detector.box_batch_size_per_image=16", "detector.rpn_pre_nms_top_n_train=60"),
    *("detector.rpn_post_nms_top_n_train=40", "detector.rpn_post_nms_top_n_test=20"),
    *("epochs=2", "eval_every=2", "run.log_every=1", "gallery_images=2", "optim.warmup_steps=2", "imitation.warmup=2"),
    *("data.train_images=8", "data.val_images=4", "data.image_size=[32,40]", "data.object_size=[10,20]"),
    *("data.batch_size=2", "data.eval_batch_size=3"),
]
TEACHER = [text for text in DETECT if text not in _settings(SIZES)] + _settings(LARGER)


def detect(*arguments: object, settings: list[str] = DETECT) -> Outcome:
    """Run ``g2sd-detect`` in this process."""
    return call_script("g2sd.detect", *settings, *arguments)


def done(folder: Path, *arguments: object, settings: list[str] = DETECT) -> Path:
    """A tiny run in ``folder`` that must end well."""
    outcome = detect(f"output_dir={folder}", *arguments, settings=settings)
    assert outcome.status == 0, outcome.err
    return folder


def tiny_detector(seed: int = 1, masks: bool = True, imitation: bool = False, **sizes: int) -> DistilledDetector:
    """The network of :data:`DETECT`, or with other sizes, with drawn relative positions."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {**SIZES, **sizes}
    channels, num_classes = options.pop("channels", HEADS["channels"]), options.pop("num_classes", CLASSES)
    body = ViTDet(SIDE, window=3, pretrain_size=SIDE, **options)
    for name, parameter in body.named_parameters():
        if ".rel_pos_" in name:
            torch.nn.init.normal_(parameter)
    detector = vitdet_rcnn(body, num_classes, masks=masks, channels=channels, hidden=HEADS["hidden"])
    return DistilledDetector(detector, ObjectnessWeightedImitation(channels) if imitation else None).eval()
