"""Derived networks against the reference numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from if_nas_derived_cases import double, filled
from if_nas_golden import close, load, load_json

from if_nas.derived import DerivedNetwork
from if_nas.official import to_official
from if_nas.published import GENOTYPES
from vireo.testing import tensor

IMAGENET = ("if_l8_keep1", "if_l8", "taas_sample_l4_v2", "taas_no_sample_l4", "geno_cosine_similarity2")


@pytest.fixture(scope="module")
def imagenet() -> dict[str, np.ndarray]:
    arrays = load("derived_imagenet")
    evaluated = {"if_l8_keep1.C64.eval.logits", *(f"{name}.C16.eval.logits" for name in IMAGENET)}
    assert set(arrays) == evaluated | {"if_l8.C16.train64.logits", "if_l8.C16.train64.aux"}
    return arrays


@pytest.mark.parametrize("name", IMAGENET)
@torch.no_grad()
def test_imagenet(name: str, imagenet: dict[str, np.ndarray]) -> None:
    network = filled(name, 16, 100, "imagenet", 8)
    close(network(tensor("input", (2, 3, 224, 224), 8)), imagenet[f"{name}.C16.eval.logits"], 1e-4, name)


@torch.no_grad()
def test_imagenet_at_the_published_width(imagenet: dict[str, np.ndarray]) -> None:
    network = filled("if_l8_keep1", 64, 1000, "imagenet", 8)
    close(network(tensor("input", (1, 3, 224, 224), 8)), imagenet["if_l8_keep1.C64.eval.logits"], 1e-4)


@torch.no_grad()
def test_imagenet_in_training(imagenet: dict[str, np.ndarray]) -> None:
    network = filled("if_l8", 16, 100, "imagenet", 8, auxiliary=True)
    logits, auxiliary = double(network, tensor("input", (2, 3, 224, 224), 8))
    close(logits, imagenet["if_l8.C16.train64.logits"], 1e-9)
    close(auxiliary, imagenet["if_l8.C16.train64.aux"], 1e-9)


@torch.no_grad()
def test_cifar() -> None:
    arrays = load("derived_cifar")
    assert set(arrays) == {f"geno_cifar.C16.{what}" for what in ("eval.logits", "train64.logits", "train64.aux")}
    network, images = filled("geno_cifar", 16, 10, "cifar", 9, auxiliary=True), tensor("input", (4, 3, 32, 32), 9)
    close(network(images), arrays["geno_cifar.C16.eval.logits"], 1e-4)
    logits, auxiliary = double(network, images)
    close(logits, arrays["geno_cifar.C16.train64.logits"], 1e-9)
    close(auxiliary, arrays["geno_cifar.C16.train64.aux"], 1e-9)


@pytest.mark.parametrize(
    ("file", "name", "width", "num_classes"),
    [
        ("imagenet_if_l8_C64.keys", "if_l8", 64, 1000),
        ("imagenet_if_l8_keep1_C64.keys", "if_l8_keep1", 64, 1000),
        ("cifar_geno_cifar_C16.keys", "geno_cifar", 16, 10),
    ],
)
def test_keys(file: str, name: str, width: int, num_classes: int) -> None:
    with torch.device("meta"):
        variant = "cifar" if file.startswith("cifar") else "imagenet"
        network = DerivedNetwork(GENOTYPES[name], width, num_classes, variant, auxiliary=True)  # type: ignore[arg-type]
    ours = {key: [list(value.shape), str(value.dtype)[6:]] for key, value in to_official(network).items()}
    assert ours == load_json(file)


def test_published_architectures() -> None:
    wanted = load_json("genotypes")
    assert {name: genotype.to_dict() for name, genotype in GENOTYPES.items()} == wanted
    assert len(GENOTYPES) == len(wanted) == 26
