"""The rounds of self-refinement around any detector: train, detect on the training images, refine the labels, again.

::

    def train(labels, number):               # a COCO dict; a new detector every time
        return fit(Detector(), labels)

    def predict(detector):                   # on all training images: COCO results, or Detections
        return [{"image_id": 7, "category_id": 1, "bbox": [x, y, w, h], "score": 0.9}, ...]

    result = self_refine_rounds(train, predict, annotations, rounds=2, folder="outputs/rounds")
    result.model                             # the detector of the last round

Source: section 3 of the paper (Algorithm of the rounds) and the authors' code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from vireo.errors import InputError

from .annotations import Detections
from .label_quality import label_statistics
from .refiner import PointRefiner
from .relabel import refine_annotations

Model = TypeVar("Model")
_REFINER = PointRefiner()
_SETTINGS = "settings.json"
_AGAIN = "remove it: it is made again"


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: 0 for the training on the first labels.
        labels: the COCO dict that its detector was trained on.
        statistics: of these labels, see :func:`~p2p_loc.label_quality.label_statistics`.
        extra: what ``on_round`` returned for it.
    """

    number: int
    labels: dict[str, Any]
    statistics: dict[str, Any]
    extra: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """The round without its labels, as ``rounds.json`` has it."""
        return {"round": self.number, "labels": self.statistics, **self.extra}


@dataclass(frozen=True)
class Rounds(Generic[Model]):
    """What the rounds made.

    Attributes:
        model: what ``train_fn`` returned for the last round.
        rounds: all of them, in order.
    """

    model: Model
    rounds: tuple[Round, ...]

    @property
    def labels(self) -> dict[str, Any]:
        """The labels of the last round: for training any other detector."""
        return self.rounds[-1].labels


def self_refine_rounds(
    train_fn: Callable[[dict[str, Any], int], Model],
    predict_fn: Callable[[Model], Detections | Sequence[Mapping[str, Any]]],
    annotations: Mapping[str, Any],
    rounds: int = 2,
    refiner: PointRefiner = _REFINER,
    *,
    folder: str | os.PathLike[str] | None = None,
    on_round: Callable[[int, Model, dict[str, Any]], Mapping[str, Any] | None] | None = None,
    write: bool = True,
) -> Rounds[Model]:
    """Train ``rounds + 1`` detectors, each but the first on labels refined by the one before.

    Every refinement starts from ``annotations``, so labels do not drift from round to round.

    Args:
        train_fn: ``train_fn(labels, number)`` trains a new detector on a COCO dict and returns it.
        predict_fn: ``predict_fn(model)`` detects on all training images: :class:`~p2p_loc.annotations.Detections`, or
            rows in COCO's result format, with category ids.
        annotations: COCO dict of the first labels; every annotation has ``point`` and ``bbox``, see ``p2p-points``.
        rounds: refinements; 0 trains on the first labels only.
        refiner: how labels are refined.
        folder: keeps ``labels/round_{t}.json``, ``detections/round_{t}.json`` and ``rounds.json``. Called again with
            the same folder, rounds whose detections are there are not trained again; the last round always is,
            as a model cannot be stored here (a resumable ``train_fn`` finds its own). Where ``rounds.json`` was
            removed, what ``on_round`` returned for these rounds is gone.
        on_round: called after the training of a round (and its detection, where there is one) with number, model and
            statistics; what it returns is kept with the statistics.
        write: whether this process writes the files. Of several processes only one does, and all of them take the same
            detections.

    Returns:
        The last model, and labels and statistics of all rounds.

    Raises:
        InputError: annotations without points, a folder with rounds of other annotations or another refiner, or with
            more of them, a file in it that is damaged, or detections that cannot be used.
    """
    if rounds < 0:
        raise InputError(f"{rounds} refinements", "rounds", "use 0 or more")
    place = _Folder(Path(folder), write) if folder is not None else None
    if place is not None:
        require_no_more(place.path, rounds)
        place.require_same({"refiner": asdict(refiner), "annotations": _digest(annotations)})
    labels, done = dict(annotations), []
    for number in range(rounds + 1):
        statistics = label_statistics(annotations, labels)
        if place is not None:
            place.write_labels(number, labels)
        detections = place.read_detections(number) if place is not None and number < rounds else None
        if detections is not None and place is not None:
            done.append(Round(number, labels, statistics, place.extra_of(number)))
        else:
            model = train_fn(labels, number)
            if number < rounds:
                detections = _stored(predict_fn(model))
            extra = dict(on_round(number, model, statistics) or {}) if on_round is not None else {}
            done.append(Round(number, labels, statistics, extra))
            if place is not None:  # detections last: they say that the round is done
                place.write_rounds(done)
                place.write_detections(number, detections)
        if detections is not None:
            where = f"annotations of round {number}"
            labels = refine_annotations(annotations, Detections.from_coco(detections), refiner, where)
    return Rounds(model, tuple(done))


class _Folder:
    """The files of the rounds."""

    def __init__(self, path: Path, write: bool) -> None:
        self.path, self.write = path, write
        if write:
            from vireo.engine.folder import remove_unfinished

            for name in ("labels", "detections"):
                (path / name).mkdir(parents=True, exist_ok=True)
                remove_unfinished(path / name)

    def require_same(self, settings: dict[str, Any]) -> None:
        """Refuse to go on with other settings than the folder's rounds were made with."""
        file = self.path / "labels" / _SETTINGS
        if not any((self.path / "detections").glob("round_*.json")):
            self._put(file, settings, indent=2)
            return
        remedy = "take another folder, or remove the rounds of this one"
        before, now = self._get(file, remedy), json.loads(json.dumps(settings))
        if not isinstance(before, dict) or not isinstance(before.get("refiner"), dict):
            raise InputError("are no settings of rounds", str(file), remedy)
        old, new = ({**s["refiner"], "annotations": s.get("annotations")} for s in (before, now))
        changed = [name for name in new if old.get(name) != new[name]]
        if changed:
            shown = ", ".join(n if n == "annotations" else f"{n} {old.get(n)} (now {new[n]})" for n in changed)
            what = f"its rounds were made with other settings: {shown}"
            raise InputError(what, str(self.path), "take the old ones or another folder, or remove this one")

    def write_labels(self, number: int, labels: dict[str, Any]) -> None:
        self._put(self.path / "labels" / f"round_{number}.json", labels)

    def write_detections(self, number: int, rows: list[dict[str, Any]] | None) -> None:
        if rows is not None:
            self._put(self.path / "detections" / f"round_{number}.json", rows)

    def read_detections(self, number: int) -> list[dict[str, Any]] | None:
        """None where the round is still to do."""
        file = self.path / "detections" / f"round_{number}.json"
        if not file.is_file():
            return None
        rows = self._get(file)
        try:
            Detections.from_coco(rows)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"is no list of detections ({error})", str(file), _AGAIN) from error
        return list(rows)

    def write_rounds(self, done: Sequence[Round]) -> None:
        self._put(self.path / "rounds.json", [entry.row() for entry in done], indent=2)

    def extra_of(self, number: int) -> dict[str, Any]:
        """What ``rounds.json`` holds of a round beside the statistics of its labels."""
        file = self.path / "rounds.json"
        rows = self._get(file) if file.is_file() else []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError("is no list of rounds", str(file), _AGAIN)
        found = [row for row in rows if row.get("round") == number]
        return {key: value for key, value in found[0].items() if key not in ("round", "labels")} if found else {}

    def _put(self, path: Path, content: Any, indent: int | None = None) -> None:
        from vireo.engine.folder import write_atomically

        if self.write:
            write_atomically(path, lambda file: file.write((json.dumps(content, indent=indent) + "\n").encode()))

    def _get(self, path: Path, remedy: str = _AGAIN) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read ({error})", str(path), remedy) from error


def require_no_more(folder: str | os.PathLike[str], rounds: int) -> None:
    """Refuse a folder with labels of more than ``rounds`` refinements: those behind would stay in it.

    Raises:
        InputError: it has such labels.
    """
    found = (path.stem.removeprefix("round_") for path in (Path(folder) / "labels").glob("round_*.json"))
    most = max((int(number) for number in found if number.isdecimal()), default=0)
    if most > rounds:
        what = f"it has round {most} already, of more refinements than rounds={rounds}"
        raise InputError(what, str(folder), f"set rounds={most} or more, or take another folder")


def remove_rounds(folder: str | os.PathLike[str]) -> None:
    """Remove the files of :func:`self_refine_rounds` from a folder, nothing else."""
    for name in ("labels", "detections"):
        shutil.rmtree(Path(folder) / name, ignore_errors=True)
    (Path(folder) / "rounds.json").unlink(missing_ok=True)


def _stored(detections: Detections | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the files have them, so that a run that goes on from a file sees the same numbers."""
    if not isinstance(detections, Detections):
        try:
            detections = Detections.from_coco(detections)
        except (KeyError, TypeError, ValueError) as error:
            what = f"are no rows with image_id, category_id, bbox and score ({error})"
            raise InputError(what, "detections of predict_fn", "return COCO results or Detections") from error
    return detections.coco()


def _digest(annotations: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(annotations, sort_keys=True, default=str).encode()).hexdigest()
