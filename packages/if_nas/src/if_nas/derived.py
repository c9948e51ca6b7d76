"""Networks of a genotype, trained from scratch (section 3.8)."""

from __future__ import annotations

from typing import get_args

import torch
from timm.layers import drop_path
from torch import Tensor, nn

from vireo.errors import InputError

from .auxiliary import AuxiliaryHead, Variant
from .genotype import Genotype, Stage, prune_dead_nodes
from .operators import ReLUConvBN, Separable, build_operator


class StageEntry(nn.Module):
    """Halves the resolution along a pooling and a convolving branch, and merges the two."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(*_projection(in_channels, channels), nn.MaxPool2d(3, 2, 1))
        self.convolved = nn.Sequential(*_projection(in_channels, channels), Separable(channels, channels, stride=2))
        self.merge = ReLUConvBN(2 * channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H / 2, W / 2), rounding up"""
        merged: Tensor = self.merge(torch.cat([self.pooled(features), self.convolved(features)], 1))
        return merged


class DerivedStage(nn.Module):
    """A line of nodes. Each is the plain sum of its connections, the last is the output.

    Args:
        nodes: of the genotype.
        in_channels: of the input; None if the stage takes it as it is.
        channels: of every node.
    """

    def __init__(self, nodes: Stage, in_channels: int | None, channels: int) -> None:
        super().__init__()
        self.nodes, self.last_reader = nodes, _last_readers(nodes)
        self.entry = nn.Identity() if in_channels is None else StageEntry(in_channels, channels)
        self.ops = nn.ModuleList(build_operator(op, channels) for inputs in nodes.values() for op, _ in inputs)

    def remove_dead_nodes(self) -> None:
        """Remove the nodes that nothing reads, which get no gradient. Other operators' weights keep their names."""
        (alive,) = prune_dead_nodes(Genotype((self.nodes,))).stages
        for number, node in enumerate([node for node, inputs in self.nodes.items() for _ in inputs]):
            if node not in alive:
                delattr(self.ops, str(number))  # del self.ops[number] would number the rest anew
        self.nodes, self.last_reader = alive, _last_readers(alive)

    def forward(self, features: Tensor, drop: float = 0.0) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H', W'); ``drop`` is the rate of drop path, 0 to leave it out."""
        outputs: dict[int, Tensor] = {0: self.entry(features)}
        operators = iter(self.ops)
        out = features
        for node, inputs in self.nodes.items():
            terms = []
            for op, source in inputs:
                term = next(operators)(outputs[source])
                terms.append(drop_path(term, drop, self.training) if op != "skip" else term)
            out = outputs[node] = sum(terms[1:], terms[0])
            for source in {source for _, source in inputs if self.last_reader[source] == node}:
                del outputs[source]  # nobody reads it again
        return out


class DerivedNetwork(nn.Module):
    """Stem, three stages, head; as ``model.py`` of the authors' code builds it.

    Args:
        genotype: of three stages.
        width: C, channels of the first stage. The others have 3C and 4C on ImageNet, 2C and 4C on CIFAR.
        num_classes: K; 0 for no classifier.
        variant: ``"imagenet"``: a stem of stride 8; ``"cifar"``: a stem of stride 1.
        auxiliary: add the auxiliary classifier after stage 2, which runs in training only. Images are then 224x224
            (ImageNet) or 32x32 pixels (CIFAR).
        drop_path: rate at which training leaves out a connection other than ``skip``, for each sample by itself; the
            rest is scaled up. 0 in the authors' code. The attribute may be set anew at every epoch.

    Raises:
        InputError: another number of stages, an unknown operator or variant, a width below 1, a rate outside [0, 1).
    """

    def __init__(
        self,
        genotype: Genotype,
        width: int,
        num_classes: int,
        variant: Variant = "imagenet",
        auxiliary: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        _require_network(genotype, width, variant, drop_path)
        cifar = variant == "cifar"
        self.genotype, self.width, self.num_classes, self.variant = genotype, width, num_classes, variant
        self.drop_path = drop_path
        self.widths = (width, (2 if cifar else 3) * width, 4 * width)
        self.num_features = 1024 if cifar else 16 * width
        self.stem = _cifar_stem(width) if cifar else _imagenet_stem(width)
        entries = (None, *self.widths[:-1])
        self.stages = nn.ModuleList(map(DerivedStage, genotype.stages, entries, self.widths))
        head = AuxiliaryHead(self.widths[1], num_classes, variant) if auxiliary else None
        self.auxiliary_head = head
        self.final = nn.Sequential(Separable(self.widths[-1], self.num_features), nn.BatchNorm2d(self.num_features))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def stage_features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to the outputs of the three stages, at strides 8, 16, 32 (CIFAR: 1, 2, 4)."""
        features, found = self.stem(images), []
        for stage in self.stages:
            features = stage(features, self.drop_path)
            found.append(features)
        return found

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the map before pooling, (B, num_features, h, w)."""
        features: Tensor = self.final(self.stage_features(images)[-1])
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The map before pooling to logits (B, K), or with ``pre_logits`` to (B, num_features)."""
        pooled = self.pool(features).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to logits (B, K); in training with an auxiliary head to (logits, auxiliary logits)."""
        _, middle, last = self.stage_features(images)
        logits = self.forward_head(self.final(last))
        if self.training and self.auxiliary_head is not None:
            return logits, self.auxiliary_head(middle)
        return logits


def _last_readers(nodes: Stage) -> dict[int, int]:
    """Of each node that is read, the last one that reads it."""
    return {source: node for node, inputs in nodes.items() for _, source in inputs}


def _projection(in_channels: int, channels: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)]


def _cifar_stem(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))


def _imagenet_stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        Separable(32, 32),
        Separable(32, 32, stride=2),
        Separable(32, width),
        Separable(width, width, stride=2),
    )


def _require_network(genotype: Genotype, width: int, variant: str, drop_path: float) -> None:
    where = "derived network"
    if not isinstance(genotype, Genotype):
        remedy = "give a Genotype, e.g. if_nas.GENOTYPES['if_l8'] or if_nas.read_genotype(path)"
        raise InputError(f"{genotype!r} is no genotype", where, remedy)
    if len(genotype.stages) != 3:
        raise InputError(f"a genotype of {len(genotype.stages)} stages", where, "give one of three stages")
    if variant not in get_args(Variant):
        raise InputError(f"unknown variant {variant!r}", where, f"use {' or '.join(get_args(Variant))}")
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise InputError(f"width {width!r} is no number of channels", where, "use a whole number, e.g. 36")
    if isinstance(drop_path, bool) or not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
        raise InputError(f"drop_path {drop_path!r} is no rate", where, "use a number from 0 up to 1, e.g. 0.2")
