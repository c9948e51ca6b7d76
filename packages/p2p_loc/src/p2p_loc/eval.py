"""``p2p-eval``: the location metric of a trained network, or of a result file from any detector.

p2p-eval run=outputs/p2p_loc                                    # on the run's own evaluation data
p2p-eval run=outputs/p2p_loc round=0                            # the network before any refinement
p2p-eval run=outputs/tiny data.root=/data/tiny_set eval.max_dets=1000 'eval.ignore_flags=[iscrowd,ignore,uncertain]'
p2p-eval run=null truth=test.json results=detections.json       # boxes or points of any detector
p2p-eval run=null truth=test.json results=detections.json box=true out=scores.json    # also TinyPerson's box metric
torchrun --nproc-per-node 2 -m p2p_loc.eval run=...             # several processes
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point
from vireo.errors import InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .annotations import Detections
    from .location import LocationEvaluator


@entry_point("p2p_loc.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics and write them as JSON (torchrun: each process calls this)."""
    from vireo.engine.folder import require_writable

    given = [name for name in ("truth", "results") if config[name] is not None]
    foreign = ("truth", "results") if config.run is not None else ("round", "weights", "save_results")
    named = [name for name in foreign if config[name] is not None]
    if named:
        what = f"belong{'s' if len(named) == 1 else ''} to {'a result file' if config.run is not None else 'a run'}"
        remedy = "add run=null to evaluate a file" if config.run is not None else "leave out, or give run=FOLDER"
        raise InputError(what, ", ".join(named), remedy)
    if config.run is None and len(given) < 2:
        raise InputError("nothing to evaluate", "run, truth, results", "give run=FOLDER, or truth=FILE results=FILE")
    name = "eval.json" if config.round is None else f"eval_round_{config.round}.json"
    out = Path(config.out) if config.out else None if config.run is None else Path(config.run) / name
    for file, setting in ((out, "out=..."), (config.save_results, "save_results=...")):
        if file is not None:
            require_writable(Path(file).parent, setting)
    measured = of_file(config) if config.run is None else of_run(config)
    if measured is None:
        return
    show(measured, title=f"{config.run or config.results}")
    if out is not None:
        from vireo.engine.logs import write_json  # torch: a result file is measured without it

        write_json(out, measured)
        print(f"wrote {out}")


def of_file(config: Any) -> dict[str, Any]:
    """What :func:`measure` gives for a result file.

    Raises:
        InputError: files that cannot be used, see :mod:`p2p_loc.results`.
    """
    from .results import read_results, read_truth

    truth = read_truth(config.truth)
    detections = read_results(config.results, truth)
    with_boxes = read_results(config.results, truth, boxes=True) if config.box else None
    measured = measure(truth, detections, evaluator_of(config.eval), with_boxes, box_options(config.box_eval))
    return {"results": str(config.results), **measured}


def of_run(config: Any) -> dict[str, Any] | None:
    """What :func:`measure` gives for a run; None on all processes but the first.

    Raises:
        InputError: no such run or round, or data that cannot be used or has other classes.
    """
    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group

    from .annotations import Detections
    from .data import build_evaluation_set
    from .detection import all_predictions, prediction_loader, seen_truth
    from .load import load_run

    loaded = load_run(config.run, config.round, config.weights)
    data = changed_data(loaded.config.data, config.data)
    changes = {key: value for key, value in config.eval.items() if value is not None}
    evaluator = evaluator_of({**dict(loaded.config.eval), **changes})
    fabric, here = evaluation_fabric(config)
    val_set = build_evaluation_set(data)
    require_classes(val_set.classes, loaded.classes, f"evaluation data of {config.run}")
    loader = prediction_loader(val_set, data, tiled=True, **here)
    with fabric.autocast():
        model = loaded.model.to(fabric.device)
        found = all_predictions(model, val_set, data, tiled=True, loader=loader, **here)
    skipped = skipped_lines(val_set, loader)
    leave_group()
    if fabric.global_rank:
        return None
    print_skipped(skipped)
    detections, truth = Detections.from_predictions(found, val_set.category_ids), seen_truth(val_set.truth, found)
    missing = len(val_set.truth["images"]) - len(truth["images"])
    notes = [f"{missing} images could not be decoded: they are left out, with their objects"] if missing else []
    if config.save_results is not None:
        write_json(Path(config.save_results), detections.coco())
    with_boxes = detections if config.box else None
    measured = measure(truth, detections, evaluator, with_boxes, box_options(config.box_eval), notes)
    return {"run": str(config.run), "round": loaded.round, **measured}


def evaluator_of(settings: Any) -> LocationEvaluator:
    """The evaluator of an ``eval`` configuration; a value of null is that of TinyPerson's standard.

    Raises:
        InputError: values that make no sense.
    """
    from .location import LocationEvaluator

    return LocationEvaluator(**{name: value for name, value in settings.items() if value is not None})


def box_options(settings: Any) -> dict[str, Any]:
    """Options of :func:`~p2p_loc.box_eval.evaluate_boxes` from a ``box_eval`` configuration; null is its default."""
    return {name: value for name, value in settings.items() if value is not None}


def measure(
    truth: Mapping[str, Any],
    detections: Detections,
    evaluator: LocationEvaluator,
    with_boxes: Detections | None = None,
    box_options: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The metrics, with what they depend on.

    Args:
        truth: COCO dict.
        detections: of its images.
        evaluator: of locations.
        with_boxes: detections for the box metric too; None: it is not wanted.
        box_options: of :func:`~p2p_loc.box_eval.evaluate_boxes`; ranges of sizes and ``max_dets`` are the evaluator's.
        notes: further ones, to come first.

    Returns:
        ``images``, ``objects``, ``detections`` (numbers), ``taus``, ``max_dets``, ``ignore_flags``, ``size_ranges``
        (names), ``notes`` (what was done with flagged objects, and warnings), ``metrics`` (see
        :func:`~p2p_loc.location.evaluate_locations`) and perhaps ``box_metrics`` (see
        :func:`~p2p_loc.box_eval.evaluate_boxes`).
    """
    from .box_eval import evaluate_boxes
    from .location import crowded_images, ranges_without_objects
    from .results import flag_lines

    most = max(evaluator.max_dets)
    lines, crowded = [*notes, *flag_lines(truth, evaluator.ignore_flags)], crowded_images(truth, most)
    if crowded:
        lines.append(
            f"warning: {len(crowded)} images have more than {most} objects of a class (the first: image {crowded[0]}); "
            "the rest cannot be found: raise eval.max_dets"
        )
    unfilled = ranges_without_objects(truth, evaluator) if evaluator.without_objects == "official" else []
    if unfilled:
        lines.append(
            f"a class has no object of size {', '.join(unfilled)}: as in the authors' code its AP and AR there are 1 "
            "if nothing is detected, else 0, and count in the mean; eval.without_objects=skip leaves them out"
        )
    measured: dict[str, Any] = {
        "images": len(truth["images"]),
        "objects": len(truth["annotations"]),
        "detections": len(detections),
        "taus": list(evaluator.taus),
        "max_dets": list(evaluator.max_dets),
        "ignore_flags": list(evaluator.ignore_flags),
        "size_ranges": list(evaluator.size_ranges),
        "notes": lines,
        "metrics": evaluator.evaluate(truth, detections),
    }
    if with_boxes is not None:
        ranges, options = evaluator.size_ranges, box_options or {}
        measured["box_metrics"] = evaluate_boxes(truth, with_boxes, max_dets=most, size_ranges=ranges, **options)
    return measured


def show(measured: Mapping[str, Any], title: str) -> None:
    """Print what :func:`measure` found: a row for each range of sizes, then one for each class."""
    from rich.console import Console
    from rich.table import Table

    print(f"{title}: {measured['images']} images, {measured['objects']} objects, {measured['detections']} detections")
    for line in measured["notes"]:
        print(line, file=sys.stderr if line.startswith("warning") else sys.stdout)
    counts = measured["max_dets"]
    endings = [f"@{tau:g}" + (f"/{n}" if len(counts) > 1 else "") for n in counts for tau in measured["taus"]]
    columns = [f"{kind}{ending}" for kind in ("AP", "AR") for ending in endings]

    def table_of(metrics: Mapping[str, Any], columns: Sequence[str], at: str) -> list[Table]:
        """``columns`` are those of all sizes; a size is named before ``at``, or at the end."""
        by_size = Table("size", *columns)
        sizes: Sequence[str] = measured["size_ranges"]

        def of_size(size: str) -> Sequence[str]:
            if size == "all":
                return columns
            return [c.replace(at, f"_{size}{at}") if at else f"{c}_{size}" for c in columns]

        for size in sizes:
            names = of_size(size)
            by_size.add_row(size, *(_shown(metrics[name]) for name in names))
        names = of_size("all" if "all" in sizes else sizes[0])
        by_class = Table("class", *names)
        for name, row in metrics["per_class"].items():
            by_class.add_row(name, *(_shown(row[column]) for column in names))
        return [by_size, by_class] if len(metrics["per_class"]) > 1 else [by_size]

    console = Console(width=None if Console().is_terminal else 200)  # in a log, numbers need their width
    for table in table_of(measured["metrics"], columns, "@"):
        console.print(table)
    if "box_metrics" in measured:
        ious = dict.fromkeys(key[2:].split("_")[0] for key in measured["box_metrics"] if key.startswith("AP"))
        names = [f"{kind}{iou}" for kind in ("AP", "AR") for iou in ious]
        for table in table_of(measured["box_metrics"], names, ""):
            console.print(table)


def _shown(value: float) -> str:
    """A metric in a table; a dash for one without objects."""
    return f"{value:.4f}" if value >= 0 else "–"


if __name__ == "__main__":
    main()
