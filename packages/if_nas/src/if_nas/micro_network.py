"""Networks of DARTS cells, trained from scratch. Experimental: a reconstruction (section 3.9).

Structure and names of parameters are those of DARTS (arXiv 1806.09055).
"""

from __future__ import annotations

from timm.layers import drop_path
from torch import Tensor, cat, nn

from vireo.errors import InputError

from .auxiliary import AuxiliaryHead, Variant
from .micro_cell import CellNetwork, CellShape, build_micro_operator, cell_shapes
from .micro_genotype import CELL_INPUTS, CellNodes, MicroGenotype


class Cell(nn.Module):
    """Nodes that are sums of two operators each; some of them, side by side, are the output.

    Args:
        nodes: of the genotype.
        concat: states that make the output.
        shape: channels and resolution.
    """

    def __init__(self, nodes: CellNodes, concat: tuple[int, ...], shape: CellShape) -> None:
        super().__init__()
        self.nodes, self.concat = nodes, concat
        self.preprocess0, self.preprocess1 = shape.preprocess()
        self._ops = nn.ModuleList(  # named as in DARTS
            build_micro_operator(op, shape.channels, 2 if shape.reduction and source < CELL_INPUTS else 1)
            for inputs in nodes
            for op, source in inputs
        )

    def forward(self, before: Tensor, previous: Tensor, drop: float = 0.0) -> Tensor:
        """The outputs of the two cells before to (B, len(concat) * channels, H, W).

        Args:
            before, previous: of the cell before the previous one, and of the previous one.
            drop: rate of drop path, 0 to leave it out.
        """
        states = [self.preprocess0(before), self.preprocess1(previous)]
        operators = iter(self._ops)
        for inputs in self.nodes:
            terms = []
            for _, source in inputs:
                operator = next(operators)
                term = operator(states[source])
                terms.append(term if isinstance(operator, nn.Identity) else drop_path(term, drop, self.training))
            states.append(terms[0] + terms[1])
        return cat([states[state] for state in self.concat], 1)


class MicroAuxiliaryHead(AuxiliaryHead):
    """The classifier after the second reduction: without the layers that bring an L-chain's larger map to its size.

    Args:
        channels: of the map.
        num_classes: K.
        variant: ``"imagenet"`` takes maps of 7x7, ``"cifar"`` of 8x8.
    """

    def __init__(self, channels: int, num_classes: int, variant: Variant) -> None:
        super().__init__(channels // 2, num_classes, variant)
        self.features = nn.Sequential(nn.ReLU(), *self.features[3:])
        self.side //= 2

    def require_map(self, height: int, width: int) -> None:
        """Check the size of the map after the second reduction.

        Raises:
            InputError: it does not fit.
        """
        if (height, width) != (self.side, self.side):
            what = f"the map after the second reduction is {height}x{width}, the head needs {self.side}x{self.side}"
            pixels = "32x32" if self.side == 8 else "224x224"
            raise InputError(what, "auxiliary head", f"train on images of {pixels} pixels, or without auxiliary head")


class MicroNetwork(CellNetwork):
    """A stack of cells, of which those at 1/3 and 2/3 of the depth reduce the resolution.

    Args:
        genotype: of the cells.
        width: channels of a node before the first reduction, which doubles them as does the second. DARTS: 36 on CIFAR,
            48 on ImageNet.
        num_classes: K.
        cells: how many. DARTS: 20 on CIFAR, 14 on ImageNet.
        variant: ``"imagenet"``: a stem of stride 8; ``"cifar"``: a stem of stride 1.
        auxiliary: add the auxiliary classifier after the second reduction, which runs in training only. Images are then
            224x224 (ImageNet) or 32x32 pixels (CIFAR).
        drop_path: rate at which training leaves out an operator other than the identity, for each sample by itself; the
            rest is scaled up. The attribute may be set anew at every epoch.

    Raises:
        InputError: fewer than 3 cells, a width below 2, an unknown variant, or a rate outside [0, 1).
    """

    def __init__(
        self,
        genotype: MicroGenotype,
        width: int,
        num_classes: int,
        cells: int = 20,
        variant: Variant = "cifar",
        auxiliary: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        outputs = len(genotype.normal_concat), len(genotype.reduce_concat)
        shapes = cell_shapes(cells, width, variant, *outputs)
        if isinstance(drop_path, bool) or not isinstance(drop_path, int | float) or not 0 <= drop_path < 1:
            what = f"drop_path {drop_path!r} is no rate"
            raise InputError(what, "network of cells", "use a number from 0 up to 1, e.g. 0.2")
        super().__init__(width, variant)
        self.genotype, self.num_classes, self.drop_path = genotype, num_classes, drop_path
        kinds = (genotype.normal, genotype.normal_concat), (genotype.reduce, genotype.reduce_concat)
        self.cells = nn.ModuleList(Cell(*kinds[shape.reduction], shape) for shape in shapes)
        self.last_reduction = max(index for index, shape in enumerate(shapes) if shape.reduction)
        auxiliary_channels = shapes[self.last_reduction].channels * outputs[1]
        self.auxiliary_head = MicroAuxiliaryHead(auxiliary_channels, num_classes, variant) if auxiliary else None
        self.num_features = shapes[-1].channels * outputs[shapes[-1].reduction]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to logits (B, K); in training with an auxiliary head to (logits, auxiliary logits)."""
        before, previous = self.first_inputs(images)
        reduced = previous
        for index, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous, self.drop_path)
            if index == self.last_reduction:
                reduced = previous
        logits: Tensor = self.classifier(self.pool(previous).flatten(1))
        if self.training and self.auxiliary_head is not None:
            return logits, self.auxiliary_head(reduced)
        return logits
