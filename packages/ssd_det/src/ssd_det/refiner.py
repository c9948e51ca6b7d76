"""The box refiner of SSD-Det: from an inaccurate box to a better one, end to end with any FPN detector.

Shapes: ``B`` images, ``G`` annotated boxes of all images together, ``P`` candidates in a bag, ``C`` classes, ``D``
hidden units.
Source: Wu et al., ICCV 2023 (arXiv 2307.12101), section 3. Where text and authors' code differ, the code is followed
and the text is an option.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vireo.engine.averages import mean_over_processes
from vireo.errors import InputError

from .bags import RATIOS, SHAKES, neighborhood_proposals, random_negatives, select_and_merge
from .boxes import ROI_STDS, decode_boxes
from .draws import Draws, TorchDraws, mask_at_most
from .losses import mil_bag_loss, negative_loss, sisd_loss, spsd_loss
from .roi import TwoLayerMLP, roi_features

ObjectRelevance = Literal["add", "none", "subtract", "concat"]

MIL_WEIGHT = 0.25
SPSD_WEIGHT = 0.25
NEGATIVE_WEIGHT = 0.75


@dataclass(frozen=True)
class Refinement:
    """What the refiner found for ``G`` boxes; nothing carries gradient.

    Attributes:
        boxes: ``(G, 4)`` refined boxes, pixels of the resized image. With SISD they may reach outside the image.
        scores: ``(G,)`` bag scores of the last stage.
        stage1_boxes: ``(G, 4)`` after stage I.
        stage1_scores: ``(G,)``.
        bags: the candidates after each step: neighbourhood, stage I, stage II; ``(g, P, 4)`` for the ``g`` boxes that
            were refined (all of them, unless ``max_boxes_per_image`` is set).
    """

    boxes: Tensor
    scores: Tensor
    stage1_boxes: Tensor
    stage1_scores: Tensor
    bags: tuple[Tensor, ...]


class BoxRefiner(nn.Module):
    """Refines inaccurate boxes with two multiple-instance stages and two forms of spatial self-distillation.

    Attach it to any detector with a feature pyramid: give it the maps, the noisy boxes and labels, train on its losses,
    and use the refined boxes as the detector's targets of the same step. It is not needed for inference.

    Args:
        num_classes: ``C``.
        in_channels: channels of the pyramid.
        hidden: width ``D`` of the perceptrons.
        roi_size: side of the RoIAlign output.
        strides: strides of the maps that are read, finest first.
        spsd: spatial position self-distillation (regress candidates to the given box, then to the stage-I box).
        sisd: spatial identity self-distillation (predict each candidate's IoU with the stage-I box, rank by it).
        stages: 2, or 1 to stop at the stage-I box (Table 3, row 1).
        ratios, shakes: form of the bag, see :func:`~ssd_det.bags.neighborhood_proposals`.
        top_k: candidates averaged into the refined box.
        num_negatives: random background boxes per image.
        negative_iou: background boxes overlap no candidate by this or more.
        sisd_weight: 5.0 in the authors' code, 0.25 in the paper's text.
        spsd_first: False leaves out the regression before stage I (Table 4).
        spsd_weighted: weigh the second regression by the stage-I bag score (Table 4).
        spsd_fresh_bag: regress a fresh bag around the stage-I box (the paper's text) instead of stage I's candidates.
        object_relevance: how SISD sees the bag's mean feature (Table 5).
        share_sisd_mlp: read SISD from the common perceptron (Table 5; 4.6 AP worse).
        instance_score_with_iou: keep the instance score in the last selection (the paper's text).
        max_boxes_per_image: in training, refine at most so many boxes of an image, a random choice; the others stay
            as given.
        row_limit: RoI rows above which the perceptrons run in chunks that are recomputed in the backward pass.
        init_std: of all linear layers; 0.01 suits the paper's widths, narrower perceptrons want more.
        mlp_dtype: run the perceptrons in this type (``"bfloat16"``); box arithmetic and losses stay float32.

    Raises:
        InputError: for an unknown ``object_relevance``, ``mlp_dtype`` or number of stages.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 256,
        hidden: int = 1024,
        roi_size: int = 7,
        strides: Sequence[int] = (4, 8, 16, 32),
        spsd: bool = True,
        sisd: bool = True,
        stages: int = 2,
        ratios: Sequence[float] = RATIOS,
        shakes: Sequence[float] = SHAKES,
        top_k: int = 7,
        num_negatives: int = 500,
        negative_iou: float = 0.3,
        sisd_weight: float = 5.0,
        spsd_first: bool = True,
        spsd_weighted: bool = True,
        spsd_fresh_bag: bool = False,
        object_relevance: ObjectRelevance = "add",
        share_sisd_mlp: bool = False,
        instance_score_with_iou: bool = False,
        max_boxes_per_image: int | None = None,
        row_limit: int = 16384,
        mlp_dtype: str | torch.dtype | None = None,
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        if stages not in (1, 2):
            raise InputError(f"{stages} stages", "refiner.stages", "use 1 or 2")
        if object_relevance not in ("add", "none", "subtract", "concat"):
            raise InputError(
                f"unknown choice {object_relevance!r}", "refiner.object_relevance", "use add, none, subtract or concat"
            )
        if isinstance(mlp_dtype, str) and not isinstance(getattr(torch, mlp_dtype, None), torch.dtype):
            raise InputError(f"no such type: {mlp_dtype!r}", "refiner.mlp_dtype", "use bfloat16, float16 or null")
        self.num_classes, self.roi_size, self.strides = num_classes, roi_size, tuple(strides)
        self.spsd, self.sisd, self.stages = spsd, sisd and stages == 2, stages
        self.ratios, self.shakes, self.top_k = tuple(ratios), tuple(shakes), top_k
        self.num_negatives, self.negative_iou, self.sisd_weight = num_negatives, negative_iou, sisd_weight
        self.spsd_first, self.spsd_weighted, self.spsd_fresh_bag = spsd and spsd_first, spsd_weighted, spsd_fresh_bag
        self.object_relevance: ObjectRelevance = object_relevance
        self.share_sisd_mlp, self.instance_score_with_iou = share_sisd_mlp, instance_score_with_iou
        self.max_boxes_per_image, self.row_limit = max_boxes_per_image, row_limit
        self.mlp_dtype: torch.dtype | None = getattr(torch, mlp_dtype) if isinstance(mlp_dtype, str) else mlp_dtype

        features = in_channels * roi_size**2
        self.mlp = TwoLayerMLP(features, hidden)
        self.stage1_cls = nn.Linear(hidden, num_classes + 1)
        self.stage1_ins = nn.Linear(hidden, num_classes + 1)
        if self.spsd_first:
            self.spsd1 = nn.Linear(hidden, 4)
        if spsd and stages == 2:
            self.spsd2 = nn.Linear(hidden, 4)
        if stages == 2:
            self.stage2_cls = nn.Linear(hidden, num_classes)
            self.stage2_ins = nn.Linear(hidden, num_classes)
        if self.sisd:
            if not share_sisd_mlp:
                self.sisd_mlp = TwoLayerMLP(features, hidden)
            self.iou = nn.Linear(2 * hidden if object_relevance == "concat" else hidden, 1)
        self.reset_parameters(init_std)

    def reset_parameters(self, std: float = 0.01) -> None:
        """N(0, ``std``) weights and zero biases; class heads start at a probability of 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
        for name in ("stage1_cls", "stage2_cls"):
            if hasattr(self, name):
                nn.init.constant_(getattr(self, name).bias, -math.log(99))

    def forward(
        self,
        features: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | Tensor,
        draws: Draws | None = None,
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Refine the boxes of a batch and return what to learn from them.

        Args:
            features: pyramid maps ``(B, in_channels, H / s, W / s)``, finest first; surplus coarse maps are ignored.
            boxes: per image ``(n, 4)`` noisy boxes in pixels of the image the maps were computed from.
            labels: per image ``(n,)`` in ``[0, C)``.
            image_sizes: height and width of each image without padding.
            draws: source of the negatives' random numbers.

        Returns:
            refined boxes per image ``(n, 4)``, their scores ``(n,)``, and the losses, already weighted; their sum is
            the refiner's loss. A batch without any box gives losses of 0.
        """
        found, losses = self.run(features, boxes, labels, image_sizes, draws)
        counts = [len(b) for b in boxes]
        return list(found.boxes.split(counts)), list(found.scores.split(counts)), losses

    @torch.no_grad()
    def refine(
        self,
        features: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Refined boxes and scores of each image without losses or gradient; arguments as in :meth:`forward`."""
        found = self.run(features, boxes, labels, image_sizes, with_losses=False)[0]
        counts = [len(b) for b in boxes]
        return list(found.boxes.split(counts)), list(found.scores.split(counts))

    def run(
        self,
        features: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]] | Tensor,
        draws: Draws | None = None,
        with_losses: bool = True,
    ) -> tuple[Refinement, dict[str, Tensor]]:
        """The steps of section 3.3 of the method in order; :meth:`forward` with every intermediate box."""
        maps = features[: len(self.strides)]
        device = maps[0].device
        sizes = torch.as_tensor(image_sizes, dtype=torch.float32, device=device)
        draws = draws or TorchDraws()
        given = torch.cat(list(boxes)).to(device=device, dtype=torch.float32)
        all_labels = torch.cat(list(labels)).to(device)
        counts = torch.as_tensor([len(b) for b in boxes], device=device)
        image_of = torch.repeat_interleave(torch.arange(len(boxes), device=device), counts)

        chosen = self._chosen(counts, draws) if self.max_boxes_per_image and with_losses else None
        noisy, label, image = (t if chosen is None else t[chosen] for t in (given, all_labels, image_of))
        size = sizes[image]
        num_boxes = torch.as_tensor(len(noisy), device=device, dtype=torch.float32)
        losses: dict[str, Tensor] = {}

        # The bag, moved towards the given box (SPSD I).
        bag, valid = neighborhood_proposals(noisy, size, self.ratios, self.shakes)
        bags = [bag]
        covered = valid.any(1).sum().float()
        if with_losses:
            num_boxes, covered = mean_over_processes(num_boxes, covered)
        per_box = num_boxes.clamp(min=1.0 / _world_size())
        if self.spsd_first:
            offsets = self._head(self.spsd1, self._bag_embedding(maps, bag, image, self.mlp))
            if with_losses:
                losses["loss_spsd1"] = SPSD_WEIGHT * spsd_loss(offsets, bag, noisy, normalizer=per_box)
            bag = decode_boxes(bag, offsets.detach(), ROI_STDS)

        # Stage I: softmax multiple-instance learning over C + 1 classes.
        bags.append(bag)
        embedding = self._bag_embedding(maps, bag, image, self.mlp)
        prob = self._head(self.stage1_cls, embedding).softmax(-1)
        ins = self._head(self.stage1_ins, embedding)
        if with_losses:
            n = covered.clamp(min=1.0 / _world_size())
            losses["loss_mil1"] = MIL_WEIGHT * mil_bag_loss(prob, ins, label, valid, kind="bce", normalizer=n)
        box1, score1 = select_and_merge(prob, ins, valid, label, bag, self.top_k, image_sizes=size, fallback=noisy)
        if self.stages == 1:
            first = _put_back(given, chosen, box1, score1)
            return Refinement(*first, *first, tuple(bags)), losses

        # SPSD II, then the bag of stage II, all of it valid.
        if self.spsd:
            start, read = bag, embedding
            if self.spsd_fresh_bag:
                start, _ = neighborhood_proposals(box1, size, self.ratios, self.shakes)
                read = self._bag_embedding(maps, start, image, self.mlp)
            offsets = self._head(self.spsd2, read)
            if with_losses:
                weight = score1 if self.spsd_weighted else None
                losses["loss_spsd2"] = SPSD_WEIGHT * spsd_loss(offsets, start, box1, weight, per_box)
            bag = decode_boxes(start, offsets.detach(), ROI_STDS)
            valid = torch.ones_like(valid)
        else:
            bag, valid = neighborhood_proposals(box1, size, self.ratios, self.shakes)
        bags.append(bag)

        # Stage II: sigmoid multiple-instance learning; candidates and negatives share one RoIAlign and one product.
        rows, row_image = bag.flatten(0, 1), image.repeat_interleave(bag.shape[1])
        if with_losses:
            uniforms = draws("negatives", len(sizes), 4 * self.num_negatives, device)
            negatives, keep = random_negatives(
                sizes, bag, image, self.num_negatives, self.negative_iou, uniforms.view(-1, 4, self.num_negatives)
            )
            rows = torch.cat([rows, negatives.flatten(0, 1)])
            row_image = torch.cat([row_image, torch.arange(len(sizes), device=device).repeat_interleave(keep.shape[1])])
        own_mlp = self.sisd and not self.share_sisd_mlp
        embedded = self._embed(maps, rows, row_image, (self.mlp, self.sisd_mlp) if own_mlp else (self.mlp,), bag.shape)
        in_bag = embedded[0][: len(noisy) * bag.shape[1]].unflatten(0, bag.shape[:2])
        prob = self._head(self.stage2_cls, in_bag).sigmoid()
        ins = self._head(self.stage2_ins, in_bag)
        iou_logits = (
            self._iou_logits(embedded[1].unflatten(0, bag.shape[:2]) if own_mlp else in_bag) if self.sisd else None
        )
        if with_losses:
            losses["loss_mil2"] = MIL_WEIGHT * mil_bag_loss(prob, ins, label, valid, score1, "focal", per_box)
            background = self._head(self.stage2_cls, embedded[0][in_bag.shape[:2].numel() :]).sigmoid()
            (score_sum,) = mean_over_processes(score1.sum())
            background_loss = negative_loss(background, keep.flatten(), per_box)
            losses["loss_negatives"] = NEGATIVE_WEIGHT * score_sum / per_box * background_loss
            if iou_logits is not None:
                losses["loss_sisd"] = self.sisd_weight * sisd_loss(iou_logits, bag, box1, per_box)
        box2, score2 = select_and_merge(
            prob,
            ins,
            valid,
            label,
            bag,
            self.top_k,
            iou_score=iou_logits,
            image_sizes=None if self.sisd else size,
            fallback=box1,
            instance_score_with_iou=self.instance_score_with_iou,
        )
        first, last = (_put_back(given, chosen, b, s) for b, s in ((box1, score1), (box2, score2)))
        return Refinement(*last, *first, tuple(bags)), losses

    def _chosen(self, counts: Tensor, draws: Draws) -> Tensor:
        """Rows of the boxes to refine when images are crowded, in order."""
        most = int(counts.max()) if len(counts) else 0
        present = torch.arange(most, device=counts.device) < counts[:, None]
        assert self.max_boxes_per_image is not None
        kept = mask_at_most(present, self.max_boxes_per_image, draws("crowd", len(counts), most, counts.device))
        return kept[present].nonzero()[:, 0]

    def _iou_logits(self, embedding: Tensor) -> Tensor:
        """SISD head ``(G, P, D) -> (G, P)`` on features that know their bag (object relevance enhancement)."""
        mean = embedding.mean(1, keepdim=True)
        if self.object_relevance == "add":
            embedding = embedding + mean
        elif self.object_relevance == "subtract":
            embedding = embedding - mean
        elif self.object_relevance == "concat":
            embedding = torch.cat([embedding, mean.expand_as(embedding)], dim=-1)
        return self._head(self.iou, embedding)[..., 0]

    def _head(self, layer: nn.Module, embedding: Tensor) -> Tensor:
        """A linear head; its output is float32 whatever the perceptrons ran in."""
        with self._mlp_precision(embedding.device.type):
            return layer(embedding).float()

    def _bag_embedding(self, maps: Sequence[Tensor], bag: Tensor, image: Tensor, mlp: nn.Module) -> Tensor:
        """Embedding ``(G, P, D)`` of a bag ``(G, P, 4)``."""
        rows = self._embed(maps, bag.flatten(0, 1), image.repeat_interleave(bag.shape[1]), (mlp,), bag.shape)[0]
        return rows.unflatten(0, bag.shape[:2])

    def _embed(
        self, maps: Sequence[Tensor], boxes: Tensor, image: Tensor, mlps: tuple[nn.Module, ...], bag_shape: torch.Size
    ) -> list[Tensor]:
        """Rows ``(R, D)`` of the first perceptron for all boxes, of a second one for the bag's rows at the front."""
        num_bag_rows = bag_shape[0] * bag_shape[1]

        def embed(start: int, stop: int, *tensors: Tensor) -> tuple[Tensor, ...]:
            rois = roi_features(tensors, boxes[start:stop], image[start:stop], self.strides, self.roi_size)
            with self._mlp_precision(rois.device.type):
                return mlps[0](rois), *(mlp(rois[: max(0, num_bag_rows - start)]) for mlp in mlps[1:])

        if len(boxes) <= self.row_limit:
            return list(embed(0, len(boxes), *maps))
        parts = []
        for start in range(0, len(boxes), self.row_limit):
            stop = min(start + self.row_limit, len(boxes))
            if torch.is_grad_enabled():
                parts.append(checkpoint(embed, start, stop, *maps, use_reentrant=False))
            else:
                parts.append(embed(start, stop, *maps))
        return [torch.cat(part) for part in zip(*parts)]

    def _mlp_precision(self, device: str) -> torch.autocast:
        """The surrounding precision, or ``mlp_dtype`` where it is set."""
        if self.mlp_dtype is None:
            dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        else:
            dtype, enabled = self.mlp_dtype, True
        return torch.autocast(device, dtype=dtype, enabled=enabled)


def _put_back(given: Tensor, chosen: Tensor | None, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Refined boxes and scores in the places of the given ones; boxes left out keep their place with score 0."""
    if chosen is None:
        return boxes, scores
    return given.index_copy(0, chosen, boxes), scores.new_zeros(len(given)).index_copy(0, chosen, scores)


def _world_size() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
