"""Metrics against stored numbers of pysodmetrics, of the version that the authors pinned and of a current one."""

from __future__ import annotations

import dqnet_golden as golden
import numpy as np
import pytest

from dqnet.metric_parts import image_scores
from dqnet.metrics import NAMES, SegmentationMetrics

SCORES = {"MAE": "mae", "Smeasure": "sm", "wFmeasure": "wfm", "adpEm": "em_adp", "adpFm": "fm_adp"}
EXACT, CURVE = 1e-9, 1e-6  # as the numbers' own description has them; curves are stored in float32


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(golden.GOLDEN / "metrics_random_maps.npz") as data:
        return dict(data)


def pair(stored: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Map and mask of a case; most masks are stored as bits."""
    pred, mask = stored[f"pred_{name}"], stored[f"gt_{name}"]
    if mask.ndim == 1:
        mask = np.unpackbits(mask)[: pred.size].reshape(pred.shape) * np.uint8(255)
    return pred, mask


def test_every_case(stored: dict[str, np.ndarray]) -> None:
    assert len(stored["names"]) == 15
    for index, name in enumerate(stored["names"]):
        found = image_scores(*pair(stored, name))
        for ours, theirs in SCORES.items():
            expected = stored[f"v162_{theirs}"][index]
            if (name, ours) != ("gt_corner", "Smeasure"):
                assert abs(getattr(found, ours) - expected) <= EXACT, (name, ours)
        for curve in ("em_curve", "fm_curve"):
            assert np.abs(getattr(found, curve) - stored[f"v162_{curve}"][index]).max() <= CURVE, (name, curve)


def test_a_part_of_the_image_without_pixels_is_left_out(stored: dict[str, np.ndarray]) -> None:
    """The foreground's centroid is in the last row: below it is nothing. pysodmetrics has NaN, or 0 for the image."""
    index = stored["names"].tolist().index("gt_corner")
    assert np.isnan(stored["v162_sm"][index])
    assert stored["v124_sm"][index] == 0
    pred, mask = pair(stored, "gt_corner")
    found, gt = pred / 255, mask > 128
    found = (found - found.min()) / (found.max() - found.min())
    assert np.argwhere(gt).tolist() == [[39, 54], [39, 55]]  # of 40 x 56: the cut is at row 40, column 54 + 1
    regions = 0.0
    for columns in (slice(55), slice(55, None)):
        z, t = found[:, columns], gt[:, columns]
        covariance = ((z - z.mean()) * (t - t.mean())).sum() / (t.size - 1)
        variances = z.var(ddof=1) + t.var(ddof=1)
        similarity = 4 * z.mean() * t.mean() * covariance / ((z.mean() ** 2 + t.mean() ** 2) * variances)
        regions += t.size / gt.size * similarity
    shares = ((gt.mean(), found[gt]), (1 - gt.mean(), 1 - found[~gt]))
    objects = sum(p * 2 * z.mean() / (z.mean() ** 2 + 1 + z.std(ddof=1)) for p, z in shares)
    assert image_scores(pred, mask).Smeasure == pytest.approx(0.5 * objects + 0.5 * regions, abs=1e-9)


def test_the_version_that_the_authors_pinned(stored: dict[str, np.ndarray]) -> None:
    """It divides variances by n rather than n - 1: only S differs, by less than 3e-5 on these small images."""
    for index, name in enumerate(stored["names"]):
        found = image_scores(*pair(stored, name))
        for ours, theirs in SCORES.items():
            if (name, ours) != ("gt_corner", "Smeasure"):
                allowed = 3e-5 if ours == "Smeasure" else EXACT
                assert abs(getattr(found, ours) - stored[f"v124_{theirs}"][index]) <= allowed, (name, ours)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_data_set(stored: dict[str, np.ndarray], workers: int) -> None:
    metrics = SegmentationMetrics(workers)
    for name in stored["names"][:7]:
        metrics.update(*pair(stored, name))
    found = metrics.compute()
    assert list(found)[:9] == list(NAMES)
    assert np.abs(np.array([found[name] for name in NAMES]) - stored["v162_dataset"]).max() <= EXACT
