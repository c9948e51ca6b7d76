"""The super-network of the L-chain space: all candidates in one network, few of them evaluated at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .arch import ArchWeights
from .candidates import EdgeOperators, build_bank
from .genotype import Genotype
from .losses import edge_penalty, op_penalty
from .plan import Plan, StagePlan, as_active, bank_size, phase_plan, remembered, subnet_plan, swapped_rows
from .schedule import ActiveNodes, every_node
from .space import LChainSpace
from .stem import Downsample, Head, ResidualEntry, build_stem


class SearchStage(nn.Module):
    """A line of nodes with all its candidates.

    Args:
        space: the search space.
        stage: number of the stage, from 0.
        legacy: nodes share operators.
        in_channels, channels: before the stage and in it; the resolution is halved where they differ.
    """

    def __init__(self, space: LChainSpace, stage: int, legacy: bool, in_channels: int, channels: int) -> None:
        super().__init__()
        same = in_channels == channels
        self.entry = ResidualEntry(channels) if same else Downsample(in_channels, channels)
        edges = bank_size(space, stage, legacy)
        self.banks = nn.ModuleDict({name: build_bank(name, edges, channels) for name in space.ops})

    def forward(self, features: Tensor, plan: StagePlan, weights: tuple[Tensor, ...]) -> Tensor:
        """The last node.

        Args:
            features: (B, in_channels, H, W)
            plan: which edges run.
            weights: (L, operators) of every node of all stages, 2 / m included.
        """
        banks = list(self.banks.values())
        cuts = [bank.cut(plan.spans(op)) for op, bank in enumerate(banks)]  # type: ignore[operator]
        nodes = {0: self.entry(features)}
        for step in plan.steps:
            terms = []
            for call in step.calls:
                inputs = [nodes[source] for source in call.sources]
                together = torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]
                for op in call.ops:
                    factors = None if step.row is None else weights[step.row][: call.span[1], op]
                    terms.append(banks[op](together, call.span, cuts[op][call.span], factors))
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            nodes[step.node] = total * step.scale if step.row is None else total
            for node in step.frees:
                del nodes[node]
        last: Tensor = nodes[plan.steps[-1].node]
        return last


class LChainSupernet(nn.Module):
    """The super-network of section 3.3.

    An active node is the sum over its m candidate edges and their operators, weighted by ``2 / m``, the weight of the
    edge and that of the operator; an inactive node is ``2 / m`` times the plain sum of the operators on the edge from
    its direct predecessor. What has no weight in a phase is not computed.

    Args:
        space: the search space.
        width: C, channels of the first stage; each further stage has twice as many at half the resolution.
        num_classes: of the classifier.
        stem: ``imagenet`` (an eighth of the resolution) or ``cifar`` (full resolution).
        legacy_op_indexing: nodes share operators as in the authors' code (section 8, item 2); those
            that no node uses do not exist. Needs two operators.
        dense: evaluate all candidates always and multiply those out of turn by 0, as the authors' code: their batch
            statistics then follow the data.
        train_op_weights: False: only weights of edges are learned, as in the authors' script.

    Attributes:
        arch: the architecture parameters.
        nodes: of each stage, for a schedule.
        length: the longest connection, for a schedule.

    Raises:
        InputError: unknown operator or stem, a width or a number of classes below 1, or ``legacy_op_indexing``
            with other than two operators.
    """

    def __init__(
        self,
        space: LChainSpace,
        width: int = 16,
        num_classes: int = 10,
        stem: str = "imagenet",
        legacy_op_indexing: bool = False,
        dense: bool = False,
        train_op_weights: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("num_classes", num_classes)):
            if type(value) is not int or value < 1:
                raise InputError(f"{name} {value!r} is no whole number from 1", "super-network", "use for example 16")
        if legacy_op_indexing and len(space.ops) != 2:
            what = f"the authors' indexing of operators with {len(space.ops)} operators"
            raise InputError(what, "legacy_op_indexing", "use it with two, skip and conv3")
        self.space, self.legacy, self.dense = space, legacy_op_indexing, dense
        self.width, self.num_classes = width, num_classes
        self.nodes, self.length = space.nodes, space.longest
        self.stem = build_stem(stem, width)
        channels = [width, *(width * 2**stage for stage in range(len(space.nodes)))]
        self.stages = nn.ModuleList(
            SearchStage(space, stage, legacy_op_indexing, *channels[stage : stage + 2])
            for stage in range(len(space.nodes))
        )
        self.head = Head(channels[-1], num_classes)
        self.arch = ArchWeights(space, train_op_weights)
        self._plans: dict[ActiveNodes, Plan] = {}

    def forward(self, images: Tensor, active: ActiveNodes | None = None, subnet: Genotype | None = None) -> Tensor:
        """The logits (B, classes) of images (B, 3, H, W).

        Args:
            images: normalised.
            active: the active nodes of each stage, from a schedule; None: every node.
            subnet: in place of ``active``: connections that are evaluated alone and without weights, each node being
                ``2 / m`` times their sum (for ranking sub-networks, section 10).

        Raises:
            InputError: ``active`` or ``subnet`` does not fit the space.
        """
        if subnet is not None:
            plan = subnet_plan(self.space, subnet, legacy=self.legacy)
            weights: tuple[Tensor, ...] = ()
        else:
            active = every_node(self.nodes) if active is None else active
            plan = self.plan(active)
            weights = self._weights(active).unbind()
        features = self.stem(images)
        for stage, stage_plan in zip(self.stages, plan):
            features = stage(features, stage_plan, weights)
        logits: Tensor = self.head(features)
        if weights and not any(step.row is not None for stage_plan in plan for step in stage_plan.steps):
            logits = logits + 0 * torch.stack(weights).sum()  # distributed training wants a gradient from all
        return logits

    def plan(self, active: ActiveNodes) -> Plan:
        """What is computed when these nodes are active."""
        chosen = as_active(active)
        return remembered(
            self._plans, chosen, lambda: phase_plan(self.space, chosen, legacy=self.legacy, dense=self.dense)
        )

    def _weights(self, active: ActiveNodes) -> Tensor:
        """The weights of all operators of all edges, (rows, L, operators)."""
        arch = self.arch
        op_weights = arch.op_weights()
        if self.legacy:
            swapped = torch.tensor(swapped_rows(self.space), device=op_weights.device)
            op_weights = torch.where(swapped[:, None, None], op_weights.flip(2), op_weights)
        weights = arch.edge_weights()[:, :, None] * op_weights
        if self.dense:
            last = torch.arange(self.space.length, device=weights.device) == arch.counts[:, None] - 1
            weights = torch.where(arch.active_rows(active)[:, None, None], weights, last[:, :, None].to(weights))
        return weights * 2 / arch.counts[:, None, None]

    def architecture_parameters(self) -> list[nn.Parameter]:
        """``beta``, and ``alpha`` if it is trained."""
        return [parameter for parameter in self.arch.parameters() if parameter.requires_grad]

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters but the architecture's."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("arch.")]

    @property
    def has_unused_parameters(self) -> bool:
        """Whether edges out of turn leave parameters without a gradient, not even zeros: those of operators that are
        not stacked (see :class:`~if_nas.candidates.EdgeOperators`)."""
        unstacked = (module for module in self.stages.modules() if isinstance(module, EdgeOperators))
        return not self.dense and any(parameter.requires_grad for bank in unstacked for parameter in bank.parameters())

    def penalties(self, active: ActiveNodes) -> tuple[Tensor, Tensor]:
        """R_edge and R_op of section 3.5, two scalars without weights."""
        return edge_penalty(self.arch, active), op_penalty(self.arch, active)

    def edge_weights(self) -> list[dict[int, dict[int, float]]]:
        """Of each stage: node to source to weight of the edge in [0, 1]."""
        return self.arch.by_node()

    def derive(self, threshold: float = 0.1, keep: int | None = None, op_threshold: float | None = None) -> Genotype:
        """The architecture that the weights stand for; see :func:`if_nas.derivation.derive_genotype`."""
        from .derivation import derive_genotype

        return derive_genotype(self.space, *self.arch.tables(), threshold, keep, op_threshold)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """``torch.compile`` the network in place: a graph for each set of active nodes, in training and evaluation."""
        import torch._dynamo

        config = torch._dynamo.config
        graphs = 3 * (max(self.nodes) + 1)  # of each phase: when its plan is new, later, and in evaluation
        config.recompile_limit = max(config.recompile_limit, graphs)
        super().compile(*args, **kwargs)
