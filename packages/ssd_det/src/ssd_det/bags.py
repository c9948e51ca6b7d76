"""Bags of candidate boxes: building them, sampling negatives against them, picking the best of them.

Shapes: ``B`` images, ``G`` annotated boxes of all images together, ``P`` candidates in a bag, ``C`` classes.
Source: Wu et al., ICCV 2023, section 3; the free product of width and height ratios follows the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import clip_boxes, elementwise_iou, inside_fraction

RATIOS = (1.0, 1.2, 1.3, 0.8, 0.7)  # COCO, and VOC from 30 % noise
SHAKES = (0.2,)
RATIOS_LOW_NOISE = (1.0, 1.1, 0.9)  # VOC at 10 and 20 %
SHAKES_LOW_NOISE = (0.1,)
VALID_INSIDE_FRACTION = 0.7
_PAIRS_AT_ONCE = 4_000_000  # IoU values held at a time while negatives are compared with bags


def neighborhood_proposals(
    boxes: Tensor,
    image_sizes: Tensor,
    ratios: Sequence[float] = RATIOS,
    shakes: Sequence[float] = SHAKES,
) -> tuple[Tensor, Tensor]:
    """The bag around every box: all width x height scalings, each unmoved and shaken four ways.

    Args:
        boxes: ``(G, 4)``, any size, float.
        image_sizes: ``(G, 2)`` height and width of each box's image (or ``(2,)`` for one image).
        ratios: factors for the sides; widths vary slowest.
        shakes: shifts as a fraction of the *scaled* side: left, right, up, down for each.

    Returns:
        proposals ``(G, P, 4)`` with ``P = len(ratios)**2 * (1 + 4 * len(shakes))``, not clipped to the image, and
        valid ``(G, P)`` bool: more than 70 % of the proposal lies inside the image.
    """
    factor = boxes.new_tensor(ratios)
    grid = torch.cartesian_prod(factor, factor).reshape(-1, 2)  # (R*R, 2): width factor, height factor
    steps = [(0.0, 0.0)]
    for o in shakes:
        steps += [(-o, 0.0), (o, 0.0), (0.0, -o), (0.0, o)]
    shift = boxes.new_tensor(steps)  # (1 + 4*O, 2)

    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = (boxes[:, 2:] - boxes[:, :2])[:, None] * grid  # (G, R*R, 2)
    centres = centre[:, None, None] + shift * size[:, :, None]  # (G, R*R, 1+4*O, 2)
    half = size[:, :, None] * 0.5
    proposals = torch.cat([centres - half, centres + half], dim=-1).flatten(1, 2)
    sizes = image_sizes.to(boxes).expand(len(boxes), 2)[:, None]
    return proposals, inside_fraction(proposals, sizes) > VALID_INSIDE_FRACTION


def random_negatives(
    image_sizes: Tensor,
    bags: Tensor,
    batch_index: Tensor,
    num: int = 500,
    iou_thr: float = 0.3,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Random background boxes, at most 20 % of an image's side outside it, kept where they miss every bag.

    Args:
        image_sizes: ``(B, 2)`` height and width.
        bags: ``(G, P, 4)`` candidates of all images.
        batch_index: ``(G,)`` the image of each bag.
        num: boxes drawn per image.
        iou_thr: a box is kept if its IoU with *every* candidate of its image is below this.
        uniforms: ``(B, 4, num)`` draws in [0, 1) for left, top, width and height; drawn with ``generator`` if None.

    Returns:
        boxes ``(B, num, 4)`` and keep ``(B, num)`` bool. Boxes that are not kept stay in place, to be weighted by 0.
    """
    sizes = image_sizes.to(bags)
    if uniforms is None:
        uniforms = torch.rand(len(sizes), 4, num, generator=generator, device=bags.device)
    height, width = sizes[:, 0:1], sizes[:, 1:2]
    u_left, u_top, u_width, u_height = uniforms.unbind(1)
    x1 = -0.2 * width + u_left * (1.2 * width)
    y1 = -0.2 * height + u_top * (1.2 * height)
    x2 = x1 + u_width * (1.2 * width - x1)
    y2 = y1 + u_height * (1.2 * height - y1)
    boxes = torch.stack([x1, y1, x2, y2], dim=-1)

    hits = torch.zeros(len(sizes), num, device=bags.device)
    step = max(1, _PAIRS_AT_ONCE // max(1, num * bags.shape[1]))
    for start in range(0, len(bags), step):
        of_image = batch_index[start : start + step]
        overlap = elementwise_iou(boxes[of_image][:, :, None], bags[start : start + step, None])  # (g, num, P)
        hits.index_add_(0, of_image, (overlap >= iou_thr).any(-1).float())
    return boxes, hits == 0


def instance_scores(instance_logits: Tensor, valid: Tensor) -> Tensor:
    """Share of each candidate in its bag: softmax over the bag, invalid ones removed, sum 1 again (0 if none is valid).

    ``instance_logits`` is ``(G, P, ...)``, ``valid`` ``(G, P)``; returns the shape of the logits.
    """
    mask = valid.to(instance_logits.dtype).reshape(*valid.shape, *(1,) * (instance_logits.dim() - 2))
    share = instance_logits.softmax(dim=1) * mask
    return share / share.sum(dim=1, keepdim=True).clamp(min=1e-12)


def normalized_iou_scores(iou_logits: Tensor) -> Tensor:
    """SISD scores: the head's output ``(G, P)`` mapped to [0, 1] by minimum and maximum of each bag.

    A bag of equal values (a single candidate, dead units) gives 0 everywhere instead of the authors' NaN.
    """
    score = 0.5 * iou_logits + 0.5
    low, high = score.amin(1, keepdim=True), score.amax(1, keepdim=True)
    return (score - low) / (high - low).clamp(min=1e-12)


@torch.no_grad()
def select_and_merge(
    class_prob: Tensor,
    instance_logits: Tensor,
    valid: Tensor,
    labels: Tensor,
    proposals: Tensor,
    top_k: int = 7,
    iou_score: Tensor | None = None,
    image_sizes: Tensor | None = None,
    fallback: Tensor | None = None,
    instance_score_with_iou: bool = False,
) -> tuple[Tensor, Tensor]:
    """One refined box a bag: the mean of its ``top_k`` best candidates, weighted by their scores.

    Args:
        class_prob: ``(G, P, C')`` class probabilities; only the column of each bag's label is read.
        instance_logits: ``(G, P, C')``.
        valid: ``(G, P)`` bool or 0/1.
        labels: ``(G,)``.
        proposals: ``(G, P, 4)``.
        top_k: candidates averaged (all, if the bag is smaller).
        iou_score: ``(G, P)`` raw output of the SISD head. Then class x IoU score ranks and weighs (the instance score
            is left out, as in the authors' code; ``instance_score_with_iou`` puts it back, as in the paper's text).
        image_sizes: ``(G, 2)`` to clip the result to; None leaves it unclipped.
        fallback: ``(G, 4)`` boxes returned where no candidate has a positive score; by default the first candidate.

    Returns:
        boxes ``(G, 4)`` and bag scores ``(G,)`` = sum over the bag of class x instance [x IoU] score. No gradient.
    """
    column = labels[:, None, None].expand(-1, proposals.shape[1], 1)
    chance = class_prob.gather(2, column)[..., 0] * valid
    joint = chance * instance_scores(instance_logits.gather(2, column)[..., 0], valid)
    ranking = joint
    if iou_score is not None:
        closeness = normalized_iou_scores(iou_score)
        joint = joint * closeness
        ranking = joint if instance_score_with_iou else chance * closeness
    best, index = ranking.topk(min(top_k, ranking.shape[1]), dim=1)
    total = best.sum(1, keepdim=True)
    weight = best / total.clamp(min=torch.finfo(total.dtype).tiny) + 1e-8
    boxes = (weight[..., None] * proposals.gather(1, index[..., None].expand(-1, -1, 4))).sum(1)
    if image_sizes is not None:
        boxes = clip_boxes(boxes, image_sizes)
    boxes = torch.where(total > 0, boxes, proposals[:, 0] if fallback is None else fallback)
    return boxes, joint.sum(1)
