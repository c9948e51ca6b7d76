"""Errors of a classifier, and of simple classifiers over frozen features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vireo.errors import InputError
from vireo.evaluation import Features, evaluate_classifier, feature_errors, pooled, with_accuracy
from vireo.evaluation.frozen import chosen_protocol, require_neighbours, require_pooling


class Known(nn.Module):
    """A classifier of images that hold their logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images


@pytest.mark.parametrize(("classes", "names"), [(5, {"top1"}), (7, {"top1", "top5"})])
def test_errors_and_accuracies_of_a_classifier(classes: int, names: set[str]) -> None:
    logits, labels = -torch.arange(classes).float().repeat(4, 1), torch.tensor([0, 0, 1, classes - 1])
    batches = [(logits[:3], {"label": labels[:3]}), (logits[3:], {"label": labels[3:]})]
    metrics = evaluate_classifier(Known(classes).train(), batches)
    assert metrics.keys() == {f"{name}_{kind}" for name in names for kind in ("error", "accuracy")}
    assert (metrics["top1_error"], metrics["top1_accuracy"]) == (50, 50)
    if classes > 5:
        assert metrics["top5_error"] == 25


def test_accuracy_is_of_errors_only() -> None:
    assert with_accuracy({"top1_error": 30.0, "loss": 1.0}) == {"top1_error": 30.0, "loss": 1.0, "top1_accuracy": 70.0}


def test_tokens_pooled() -> None:
    tokens = torch.tensor([[[1.0, 4.0], [3.0, 0.0]]])
    assert pooled(tokens, "mean").tolist() == [[2, 2]]
    assert pooled(tokens).tolist() == [[2, 2, 3, 4]]
    wrong: Any = "max"
    with pytest.raises(InputError, match=r"features: unknown pooling 'max'\. use one of mean, mean_max"):
        pooled(tokens, wrong)
    require_pooling("mean")


def test_classes_apart_are_found_by_both() -> None:
    labels = torch.arange(40) % 2
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 6.0 * labels[:, None]
    sample = Features(rows, labels, torch.arange(40))
    found = feature_errors(sample, sample, 2, k=3)
    assert {name: part["top1_error"] for name, part in found.items()} == {"knn": 0, "linear": 0}
    assert found["linear"]["top1_accuracy"] == 100
    assert feature_errors(sample, sample, 2, protocol="knn", k=3).keys() == {"knn"}


def test_protocols() -> None:
    assert chosen_protocol("auto", True, "") == "classifier"
    assert chosen_protocol("auto", False, "") == "features"
    assert chosen_protocol("knn", True, "") == "knn"
    with pytest.raises(InputError, match=r"has no classifier\. use knn, linear or features, or fine-tune it"):
        chosen_protocol("classifier", False, "or fine-tune it")
    with pytest.raises(InputError, match="unknown protocol 'svm'"):
        chosen_protocol("svm", True, "")
    for k in (0, 11):
        with pytest.raises(InputError, match=f"k: {k} is not between 1 and the 10 labelled"):
            require_neighbours(k, 10)
