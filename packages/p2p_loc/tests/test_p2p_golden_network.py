"""The whole detector against the numbers of the authors' code: forward, detections, losses, gradients, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from p2p_golden import close, keys, load, load_json
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from p2p_loc.official import official_name, to_official
from p2p_loc.p2p_head import P2PNet
from p2p_loc.reppoints import DeformConv3x3, RepPoints
from vireo.testing import fill_state_dict, tensor

SIZE = (128, 160)
STANDARD: dict[str, Any] = {"strides": (8, 16, 32, 64, 128), "base_scale": 4.0}


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    return load("reppoints_adap_r50")


@pytest.fixture(scope="module")
def model() -> RepPoints:
    model = RepPoints(1)
    fill_state_dict(to_official(model))
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return tensor("input.image", (2, 3, *SIZE))


@torch.inference_mode()
def test_forward_and_detections(case: dict[str, np.ndarray], model: RepPoints, images: Tensor) -> None:
    model.eval()
    maps = model.backbone(images)
    for level, feature in zip(range(2, 6), maps, strict=True):
        close(feature[:, ::32, ::2, ::2], case[f"c{level}"], 1e-4)
    features = model.neck(maps)
    found = model.head(features)
    for level, (feature, logits, init, refined) in enumerate(zip(features, *found, strict=True)):
        close(feature[:, ::8, ::2, ::2], case[f"fpn{level}"], 1e-4)
        close(logits, case[f"cls{level}"], 1e-4)
        step = 2 if level == 0 else 1
        close(init[..., ::step, ::step], case[f"pts_init{level}"], 1e-4)
        close(refined[..., ::step, ::step], case[f"pts_refine{level}"], 1e-4)
    for i, candidates in enumerate(model.head.candidates(found, [SIZE] * 2)):
        kept = model.detections(candidates)
        assert len(kept["scores"]) == case[f"det{i}_count"]
        rows, expected = torch.cat([kept["boxes"], kept["scores"][:, None]], 1), torch.from_numpy(case[f"det{i}"])
        # scores of neighbours differ by as little as 5e-6, so they may have changed places
        nearest = (rows[:35, None] - expected).abs().amax(2).argmin(0)
        assert len(nearest.unique()) == len(expected)
        close(rows[nearest, :4], expected[:, :4], 1e-2)
        close(rows[nearest, 4], expected[:, 4], 1e-4)


def test_losses_and_gradients(case: dict[str, np.ndarray], model: RepPoints, images: Tensor) -> None:
    boxes = [torch.from_numpy(case[f"gt{i}"]) for i in range(2)]
    targets = [{"boxes": b, "labels": torch.zeros(len(b), dtype=torch.long), "size": SIZE} for b in boxes]
    model.train()
    losses = model.head.losses(model.head(model.extract(images)), targets)
    assert losses.keys() == {"loss_cls", "loss_pts_init", "loss_pts_refine"}
    for name, per_level in losses.items():
        close(per_level, case[name], 1e-6, 1e-3)
    total = torch.stack([loss.sum() for loss in losses.values()]).sum()
    close(total, case["loss"], 0, 1e-3)
    total.backward()
    head = model.head
    for name, parameter in {
        "grad_moment_transfer": head.moment_transfer,
        "grad_pts_init_out_bias": head.pts_init_out.bias,
        "grad_pts_refine_out_bias": head.pts_refine_out.bias,
        "grad_cls_out_bias": head.cls_out.bias,
    }.items():
        assert parameter is not None
        close(parameter.grad, case[name], 1e-3 * float(np.abs(case[name]).max()))
    gradients = {official_name(name, True): p.grad for name, p in model.named_parameters()}
    norms = {name: float(gradient.double().norm()) for name, gradient in gradients.items() if gradient is not None}
    order = load_json("reppoints_adap_r50.grad_keys")
    assert norms.keys() == set(order)
    close([norms[name] for name in order], case["grad_norm"], 0, 1e-3)


def on_meta(build: Callable[[], nn.Module]) -> Any:
    with torch.device("meta"):
        return build()


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[float, ...], tuple[float, ...]]] = {  # parameters, multiplications
    "reppoints_adap_r50": (lambda: RepPoints(1), (23.51, 8.07, 5.32, 36.89), (26.7, 18.9, 145.1, 190.7)),
    "reppoints_r50": (lambda: RepPoints(1, **STANDARD), (23.51, 8.00, 5.32, 36.83), (26.7, 5.5, 36.3, 68.5)),
    "p2p_r50_fpns4": (lambda: P2PNet(1), (23.51, 1.58, 4.73, 29.81), (26.7, 14.6, 96.8, 138.1)),
}


@pytest.mark.parametrize("name", ["reppoints_adap_r50", "reppoints_r50", "p2p_r50_fpns4"])
def test_entries_parameters_and_operations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of parameters and billions of multiplications at 640x512, of backbone, neck, head and the whole."""
    build, millions, billions = NETWORKS[name]
    model = on_meta(build)
    state = to_official(model)
    assert {key: (tuple(value.shape), value.dtype) for key, value in state.items()} == keys(name)
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model.neck, model.head)]
    assert [round(count, 2) for count in (*counts, sum(counts))] == list(millions)

    # a deformable convolution multiplies as often as a plain one, but has no count of its own
    monkeypatch.setattr(DeformConv3x3, "forward", lambda self, x, _: F.conv2d(x, self.weight, padding=1))
    maps = model.backbone(image := torch.empty(1, 3, 512, 640, device="meta"))[model.skipped :]
    features = model.neck(maps)
    head = model.head if isinstance(model, RepPoints) else lambda features: model.head.maps(features[0])
    operations = [
        multiplications(lambda: model.backbone(image)),
        multiplications(lambda: model.neck(maps)),
        multiplications(lambda: head(features)),
    ]
    assert [round(count, 1) for count in (*operations, sum(operations))] == list(billions)


def multiplications(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9
