"""``ssd-det-eval``: COCO and VOC metrics of a trained detector, and the quality of its refined boxes.

ssd-det-eval run=outputs/ssd_det                               # on the run's own evaluation data
ssd-det-eval run=outputs/ssd_det data.root=/data/coco          # the same data elsewhere
ssd-det-eval run=outputs/ssd_det weights=other.safetensors     # other weights of the same network
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omegaconf import DictConfig

    from vireo.data import DetectionDataset

    from .model import SSDDet


def predict(model: SSDDet, batches: Iterable[Any]) -> list[dict[str, Any]]:
    """Detections of all images of a loader, in pixels of the original files, on the CPU."""
    import torch

    model.eval()
    predictions = []
    with torch.no_grad():
        for images, targets in batches:
            for target, found in zip(targets, model(images, targets)):
                moved = {name: value.cpu() for name, value in found.items()}
                predictions.append({"image_id": int(target["image_id"]), **moved})
    return predictions


def evaluate(model: SSDDet, batches: Iterable[Any], dataset: DetectionDataset) -> dict[str, Any] | None:
    """COCO metrics and VOC AP50 (area) over all processes; None on all but the first.

    Args:
        model: not wrapped for several processes.
        batches: an evaluation loader over this process's share of ``dataset``.
        dataset: the ground truth.
    """
    import torch.distributed as dist

    from vireo.evaluation import evaluate_coco, gather_predictions, voc_average_precision

    predictions = gather_predictions(predict(model, batches))
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    truth = dataset.coco()
    metrics = evaluate_coco(truth, predictions)
    voc = voc_average_precision(truth, predictions)
    named = {"AP_per_class": metrics.pop("per_class"), "VOC_AP50_per_class": voc["per_class"]}
    return {**metrics, "VOC_AP50": voc["AP50"], **named}


def refinement_quality(model: SSDDet, batches: Iterable[Any], limit: int | None = None) -> dict[str, float] | None:
    """How near the given and the refined boxes of a training set are to the true ones (Fig. 5 of the paper).

    Args:
        model: with a refiner.
        batches: an evaluation loader over images whose targets have ``true_boxes``.
        limit: stop after so many images of this process.

    Returns:
        Mean IoU with the true box and share above 0.5, over all processes, before and after refinement; mean and best
        IoU within the final bags. None where there is no refiner, or true boxes are unknown.
    """
    import torch
    import torch.distributed as dist

    from .boxes import clip_boxes, elementwise_iou

    if model.refiner is None or limit == 0:
        return None
    model.eval()
    rows: list[torch.Tensor] = []
    seen = 0
    with torch.no_grad():
        for images, targets in batches:
            if any("true_boxes" not in target for target in targets):
                break
            kept = [~target["iscrowd"] for target in targets]
            boxes, labels, true = (
                [target[name][keep] for target, keep in zip(targets, kept)]
                for name in ("boxes", "labels", "true_boxes")
            )
            sizes = torch.tensor([target["size"] for target in targets], device=images.device).float()
            found, _ = model.refiner.run(model.extract(images), boxes, labels, sizes, with_losses=False)
            size = sizes.repeat_interleave(torch.tensor([len(b) for b in boxes], device=images.device), 0)
            refined, goal = clip_boxes(found.boxes, size), torch.cat(true)
            in_bag = elementwise_iou(found.bags[-1], goal[:, None])
            given = elementwise_iou(torch.cat(boxes), goal)
            rows.append(torch.stack([given, elementwise_iou(refined, goal), in_bag.mean(1), in_bag.amax(1)]).cpu())
            seen += len(targets)
            if limit is not None and seen >= limit:
                break
    table = torch.cat(rows, 1) if rows else torch.zeros(4, 0)
    if dist.is_initialized():
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, table)
        table = torch.cat(parts, 1)
    if table.shape[1] == 0:
        return None
    given, refined, bag_mean, bag_best = table
    return {
        "iou_given": float(given.mean()),
        "iou_refined": float(refined.mean()),
        "above_half_given": float((given > 0.5).float().mean()),
        "above_half_refined": float((refined > 0.5).float().mean()),
        "above_three_quarters_refined": float((refined > 0.75).float().mean()),
        "iou_bag_mean": float(bag_mean.mean()),
        "iou_bag_best": float(bag_best.mean()),
    }


@entry_point("ssd_det.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a trained detector on the evaluation data of its run or on other data; write a JSON."""

    from rich.console import Console
    from rich.table import Table

    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group

    from .data import build_evaluation_set, build_loader, build_training_set
    from .load import load_run

    out = Path(config.out or Path(config.run) / "eval.json")
    loaded = load_run(config.run, config.weights)
    require_writable(out.parent, "out=...")
    data = changed_data(loaded.config.data, config.data)
    fabric, here = evaluation_fabric(config)
    val_set = build_evaluation_set(data)
    require_classes(val_set.classes, loaded.classes, f"evaluation data of {config.run}")
    model = loaded.model.to(fabric.device)
    with fabric.autocast():
        loader = build_loader(val_set, data, train=False, seed=0, **here)
        metrics = evaluate(model, loader, val_set)
        quality = None
        if config.refined and model.refiner is not None:
            given = build_loader(build_training_set(data), data, train=False, seed=0, **here)
            quality = refinement_quality(model, given, config.refined // fabric.world_size)
    skipped = skipped_lines(val_set, loader)
    leave_group()
    if metrics is None:
        return
    metrics |= quality or {}
    print_skipped(skipped)
    table = Table("metric", "value")
    for name, value in metrics.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.4f}")
    classes = Table("class", "AP", "VOC AP50")
    for name, value in metrics["AP_per_class"].items():
        classes.add_row(name, f"{value:.4f}", f"{metrics['VOC_AP50_per_class'][name]:.4f}")
    print(f"{config.run}: {len(val_set)} images")
    Console().print(table, classes)
    write_json(out, {"run": str(config.run), "metrics": metrics})


if __name__ == "__main__":
    main()
