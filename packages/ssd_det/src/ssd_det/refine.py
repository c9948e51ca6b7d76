"""``ssd-det-refine``: replace the inaccurate boxes of annotations by refined ones, for training any other detector.

ssd-det-refine run=outputs/ssd_det                                           # the run's own training data
ssd-det-refine run=outputs/ssd_det annotations=noisy.json images=DIR out=refined.json
ssd-det-refine run=outputs/ssd_det voc=VOCdevkit/VOC2007 split=trainval out=refined.json

Source: Wu et al., ICCV 2023, "Re-Train" (Table 8).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vireo.engine.cli import entry_point
from vireo.engine.folder import write_reproducibly
from vireo.engine.text import two_columns
from vireo.errors import InputError

from .relabel import MIN_BOX, RefineStatistics, apply_refinement, refine_boxes

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from vireo.data import DetectionDataset

    from .load import LoadedRun
    from .model import SSDDet


@dataclass(frozen=True)
class RefineReport(RefineStatistics):
    """:class:`RefineStatistics` and the file they belong to."""

    path: str
    sha256: str
    skipped: tuple[str, ...] = ()
    """One line for every record or image that was left out (``on_error="skip"``)."""

    def table(self) -> str:
        """Two aligned columns, one line per entry, then the skipped records."""
        rows: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if isinstance(value, Mapping):
                rows |= {f"{name} {entry}": number for entry, number in value.items()}
            elif value is not None:
                rows[name] = value
        rows["skipped"] = len(self.skipped)
        return "\n".join([two_columns(rows), *(f"  {line}" for line in self.skipped)])


def refine_annotations(
    model: SSDDet,
    coco_json: str | os.PathLike[str],
    images: str | os.PathLike[str],
    out_json: str | os.PathLike[str],
    *,
    on_error: Literal["raise", "skip"] = "raise",
    thresholds: Mapping[str, float] | None = None,
    **options: Any,
) -> RefineReport:
    """Refine the boxes of a COCO json and write them as another, with the same bytes for the same model and input.

    In the result ``bbox`` is the refined box, clipped to the image, ``score`` its bag score and ``noisy_bbox`` the box
    that was given; ids and all other entries stay. Crowd annotations are passed on unchanged. The entry ``refinement``
    holds the :class:`~ssd_det.relabel.RefineStatistics`. The file appears complete or not at all.

    Args:
        model: a detector with a refiner, trained on these boxes; it is put into evaluation mode.
        coco_json: annotations with inaccurate ``bbox`` and, for the statistics only, ``true_bbox``.
        images: folder that its ``file_name`` entries are relative to.
        out_json: file to write.
        on_error: ``"skip"`` leaves out images and annotations that cannot be used instead of stopping at the first.
        thresholds: ``bad_iou`` and ``high_overlap`` of :func:`~ssd_det.quality.box_quality`.
        **options: of :func:`~ssd_det.relabel.refine_boxes`: sizes, batch size, workers, device.

    Raises:
        InputError: unreadable or unfit input, categories that are not as many as the model's, a model without
            refiner, ``out_json`` not writable or the same file as ``coco_json``.
    """
    from vireo.data import CocoDetection
    from vireo.data.coco_json import read_json

    _require_other_file(Path(out_json), Path(coco_json))
    dataset = CocoDetection(Path(images), Path(coco_json), on_error=on_error, min_box=MIN_BOX)
    content = read_json(Path(coco_json))
    return refine_dataset(model, dataset, out_json, content=content, thresholds=thresholds, **options)


def refine_dataset(
    model: SSDDet,
    dataset: DetectionDataset,
    out_json: str | os.PathLike[str],
    *,
    content: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, float] | None = None,
    **options: Any,
) -> RefineReport:
    """:func:`refine_annotations` for a data set of any kind.

    Args:
        content: the COCO dict that the data set was read from, so that entries it does not know stay; by default
            ``dataset.coco()``.
    """
    from vireo.engine.folder import require_writable

    target = Path(out_json)
    require_writable(target.parent, "out=...")  # before the work, not after it
    found, unreadable = refine_boxes(model, dataset, **options)
    result, statistics = apply_refinement(content or dataset.coco(), dataset, found, **(thresholds or {}))
    return RefineReport(
        **{name: getattr(statistics, name) for name in RefineStatistics.__dataclass_fields__},
        path=str(target),
        sha256=write_reproducibly(result, target),
        skipped=(*dataset.skipped, *unreadable),
    )


def _require_other_file(out: Path, source: Path) -> None:
    if out.resolve() == source.resolve():
        raise InputError("output and input are the same file", str(out), "Choose another output name")


@entry_point("ssd_det.conf", "refine")
def main(config: DictConfig) -> None:
    """Write the refined annotations and print what refinement did."""
    import sys

    from vireo.engine.finished import changed_data

    from .load import load_run

    out = Path(config.out or Path(config.run) / "refined.json")
    if config.annotations:
        _require_other_file(out, Path(config.annotations))
    loaded = load_run(config.run, config.weights)
    data = changed_data(loaded.config.data, config.data)
    dataset, content = _source(config, data, loaded)
    report = refine_dataset(
        loaded.model,
        dataset,
        out,
        content=content,
        thresholds={"bad_iou": config.bad_iou, "high_overlap": config.high_overlap},
        short_side=data.short_side,
        long_side=data.long_side,
        batch_size=data.eval_batch_size,
        workers=data.workers,
        device=None if config.device == "auto" else config.device,
        progress=sys.stderr.isatty(),
    )
    print(report.table())


def _source(config: DictConfig, data: DictConfig, loaded: LoadedRun) -> tuple[DetectionDataset, dict[str, Any] | None]:
    """The data set to refine, and the file's content where it is a COCO json."""
    from vireo.data import CocoDetection, VocDetection
    from vireo.data.coco_json import read_json
    from vireo.engine.finished import require_classes

    from .data import build_training_set

    content: dict[str, Any] | None = None
    dataset: DetectionDataset
    if config.annotations and config.voc:
        raise InputError("annotations and voc are both given", "annotations, voc", "give one of them")
    if config.annotations:
        if not config.images:
            raise InputError("no image folder given", "images", "add images=DIR, the folder of the annotated images")
        where = str(config.annotations)
        dataset = CocoDetection(config.images, where, on_error=data.on_error, min_box=MIN_BOX)
        content = read_json(Path(where))
    elif config.voc:
        where = f"{config.voc} ({config.split})"
        dataset = VocDetection(config.voc, config.split, classes=loaded.classes, on_error=data.on_error)
    else:
        where = f"training data of {config.run}"
        dataset = build_training_set(data)
    require_classes(dataset.classes, loaded.classes, where)
    return dataset, content


if __name__ == "__main__":
    main()
