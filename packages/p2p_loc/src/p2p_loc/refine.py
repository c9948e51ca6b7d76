"""``p2p-refine``: better labels for coarse points, from any detector's detections or those of a run.

p2p-refine annotations=points.json detections=found.json out=refined.json      # of any detector, on these images
p2p-refine run=outputs/p2p_loc out=refined.json                                # with the network of a run's last round
p2p-refine run=outputs/p2p_loc round=0 refine.score_thr=0                      # of another; as the authors' script

The result is a file to train any detector on. Points, ids and all other entries stay; ``bbox`` is the refined box. A
detector that gives points instead of boxes can move labels of one size: refine.label=point.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point
from vireo.errors import InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .annotations import Detections


_FEW = 0.05  # share of labels; fewer that move are worth a warning


@entry_point("p2p_loc.conf", "refine")
def main(config: DictConfig) -> None:
    """Write the refined labels and print what refinement did."""
    from dataclasses import asdict

    from vireo.engine.folder import write_reproducibly
    from vireo.engine.text import two_columns

    from .label_quality import label_statistics
    from .refiner import PointRefiner
    from .relabel import refine_annotations

    given = {str(name): value for name, value in config.refine.items() if value is not None}
    if config.run is not None:
        content, detections, settings = _of_run(config)
        out, where = Path(config.out or Path(config.run) / "refined.json"), str(config.run)
    else:
        content, detections, settings = _of_files(config, given)
        out, where = Path(config.out), str(config.annotations)
    refiner = PointRefiner(**{**settings, **given})
    refined = refine_annotations(content, detections, refiner, where)
    statistics = label_statistics(content, refined)
    digest = write_reproducibly({**refined, "refinement": {**asdict(refiner), "statistics": statistics}}, out)
    known = {name: value for name, value in statistics.items() if value is not None}
    print(two_columns({"detections": len(detections), **known, "file": out, "sha256": digest}))
    moved = statistics["moved"] or 0.0
    if moved < _FEW:
        reason = (
            "detections with scores above refine.score_thr whose edges are within refine.max_grow widths are needed"
        )
        print(f"warning: {moved:.1%} of the labels moved: {reason}", file=sys.stderr)


def _of_files(config: DictConfig, given: dict[str, Any]) -> tuple[dict[str, Any], Detections, dict[str, Any]]:
    """Annotations, detections (also points, where labels are to keep their size), and the settings of ``p2p-train``."""
    from importlib import resources

    import yaml

    from .coco_content import read_content
    from .results import read_results

    for name in ("annotations", "detections", "out"):
        if config[name] is None:
            remedy = f"add {name}=FILE.json, or take the network of a run with run=FOLDER"
            raise InputError("is not given", name, remedy)
    source, found, out = (Path(config[name]) for name in ("annotations", "detections", "out"))
    if out.resolve() in (source.resolve(), found.resolve()):
        raise InputError("output and input are the same file", str(out), "choose another output name")
    content = read_content(source).content
    if "refinement" in content:
        what = "these labels were refined before, and refinement starts from the first ones"
        raise InputError(what, str(source), "give the file that p2p-points wrote, or labels/round_0.json of a run")
    text = resources.files("p2p_loc.conf").joinpath("train.yaml").read_text(encoding="utf-8")
    settings = {**yaml.safe_load(text)["refine"], **given}
    return content, read_results(found, content, boxes=settings["label"] == "box"), settings


def _of_run(config: DictConfig) -> tuple[dict[str, Any], Detections, dict[str, Any]]:
    """First labels of a run, detections of its network on the training images, and its settings.

    Detections that the run has kept are not made again.
    """
    import torch

    from vireo.engine import plain, print_skipped
    from vireo.engine.finished import changed_data, require_classes

    from .annotations import Detections
    from .coco_content import read_content
    from .data import build_training
    from .detection import all_detections
    from .load import load_run
    from .results import read_results

    for name in ("annotations", "detections"):
        if config[name] is not None:
            raise InputError(f"files and a run are both given ({name}, run)", name, f"leave out run or {name}")
    loaded = load_run(config.run, config.round, config.weights)
    settings = plain(loaded.config.refine)
    kept = Path(config.run) / "detections" / f"round_{loaded.round}.json"
    if kept.is_file():
        content = read_content(Path(config.run) / "labels" / "round_0.json").content
        return content, read_results(kept, content, boxes=True), settings
    data = changed_data(loaded.config.data, config.data)
    training = build_training(data)
    require_classes(training.classes, loaded.classes, f"training data of {config.run}")
    available = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=available if config.device == "auto" else config.device).device
    except (RuntimeError, AssertionError, TypeError) as error:  # of torch: no such device, or none here
        what = f"{config.device!r} cannot be used ({str(error).splitlines()[0]})"
        raise InputError(what, "device", "use auto, cpu or cuda") from error
    found = all_detections(loaded.model.to(device), training.dataset(train=False), data, device=device)
    print_skipped(training.skipped)
    return training.content, Detections.from_coco(found.coco()), settings


if __name__ == "__main__":
    main()
