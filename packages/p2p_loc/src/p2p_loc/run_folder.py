"""The folder of a ``p2p-train`` run: what is in it, what may change when a run goes on, and how it ends.

``config.yaml``, ``classes.json``; ``labels/round_{t}.json`` (COCO dict that round t was trained on) and
``detections/round_{t}.json`` (COCO results on its training images); ``round_{t}/``, a folder as of any training; and
``rounds.json``, a row for each round. At the end ``model.safetensors`` and ``metrics.json`` of the last round, pictures
and ``report.html``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from vireo.engine import results
from vireo.engine.cli import plain
from vireo.engine.finished import save_classes
from vireo.engine.folder import remove_unfinished, write_atomically
from vireo.engine.logs import write_json
from vireo.errors import InputError

from .location import LocationEvaluator
from .rounds import Rounds, remove_rounds, require_no_more
from .tiles import check_tile

HEADLINE = 1.0  # tau of the metric that is followed, where it is among those of the evaluation
_FIXED = ("seed", "epochs", "model.", "optim.", "refine.", "data.", "run.precision", "run.accumulate", "run.ema_decay")
_FREE = ("root", "workers", "val_", "eval_", "on_error", "check_images")  # of data


def require_settings(config: DictConfig) -> str:
    """Check what the parts do not check themselves.

    Returns:
        The metric to follow: the average precision at tau 1, or at the first of ``eval.taus``, of most detections.

    Raises:
        InputError: a value out of range, or values that contradict each other.
    """
    for name, least in (("epochs", 1), ("eval_every", 1), ("rounds", 0), ("gallery_images", 0)):
        if not isinstance(config[name], int) or config[name] < least:
            raise InputError(f"{config[name]!r} is not a number from {least}", name, f"use {least} or more")
    _require_data(config.data)
    if config.resume not in ("auto", "never"):
        raise InputError(f"{config.resume!r} is not a choice", "resume", "use auto or never")
    if config.data.labels == "boxes" and config.rounds:
        what = "true boxes are not to be refined by detections"
        raise InputError(what, f"rounds={config.rounds}", "add rounds=0, or set data.labels=points")
    evaluator = LocationEvaluator(**plain(config.eval))
    tau = HEADLINE if HEADLINE in evaluator.taus else evaluator.taus[0]
    most = evaluator.max_dets
    return f"AP@{tau:g}" + (f"/{max(most)}" if len(most) > 1 else "")


def _require_data(data: DictConfig) -> None:
    """Check what is used first when a round is trained already, and what no part refuses."""
    if type(data.eval_batch_size) is not int or data.eval_batch_size < 1:
        raise InputError(f"{data.eval_batch_size!r} is not a number from 1", "data.eval_batch_size", "use 1 or more")
    if type(data.flip) not in (int, float) or not 0 <= data.flip <= 1:
        raise InputError(f"{data.flip!r} is no probability", "data.flip", "use a number from 0 to 1")
    if data.eval_tile is not None:
        for name in ("eval_tile", "eval_overlap"):
            pair = data[name]
            if not isinstance(pair, ListConfig) or len(pair) != 2 or any(type(side) is not int for side in pair):
                raise InputError(f"{pair!r} is no width and height", f"data.{name}", "give two, such as [640, 512]")
        try:
            check_tile(data.eval_tile, data.eval_overlap)
        except InputError as error:
            raise InputError(error.what, "data.eval_tile, data.eval_overlap", error.remedy) from error


class RunFolder:
    """The folder of a run.

    Args:
        config: of the run.
        main: whether this process writes the files.
    """

    def __init__(self, config: DictConfig, *, main: bool) -> None:
        self.config, self.main = config, main
        self.path = Path(config.output_dir)

    def begin(self) -> bool:
        """Prepare the folder, on the main process; whether the run is finished.

        Raises:
            InputError: rounds that were made with other settings, or more of them.
        """
        if not self.main:
            return False
        remove_unfinished(self.path)
        # a worker that torchrun restarts must go on, whatever it was first started with
        if self.config.resume == "never" and not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
            self._remove()
        changed = [key for key in results.changed_keys(self.path, plain(self.config)) if _is_fixed(key)]
        if changed and any(self.path.glob("round_*/log.jsonl")):
            what = f"its rounds were trained with other settings: {', '.join(changed)}"
            remedy = "go on with the old ones, take another output_dir, or set resume=never"
            raise InputError(what, str(self.path), remedy)
        require_no_more(self.path, self.config.rounds)
        if self._rounds_done() == self.config.rounds + 1:
            print(f"{self.path}: this run is finished; set resume=never, or more rounds, to train again")
            return True
        for name in ("metrics.json", "model.safetensors", "config.json"):  # of the last round there was before
            (self.path / name).unlink(missing_ok=True)
        results.write_config(self.path, plain(self.config))
        self._restore_rounds()
        return False

    def write_classes(self, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        """Write ``classes.json``."""
        if self.main:
            rows = [{"id": int(number), "name": name} for number, name in zip(category_ids, classes, strict=True)]
            save_classes(self.path, rows)

    def round_config(self, number: int) -> DictConfig:
        """The configuration of a round: that of the run, with a folder of its own."""
        own = OmegaConf.merge(self.config, {"output_dir": str(self.path / f"round_{number}"), "resume": "auto"})
        assert isinstance(own, DictConfig)
        return own

    def is_finished(self, number: int) -> bool:
        """Whether a round is trained."""
        return results.finished_epochs(self.path / f"round_{number}") == self.config.epochs

    def results(self, number: int) -> dict[str, Any]:
        """``metrics`` and ``train_s`` (seconds with evaluation) of a trained round; nothing on other processes."""
        if not self.main:
            return {}
        content = json.loads((self.path / f"round_{number}" / "metrics.json").read_text())
        return {"metrics": content["metrics"], "train_s": content["wall_s"]}

    def finish(self, result: Rounds[Any], training: Any, val_set: Any, device: Any) -> None:
        """What tools read of any run, from the last round; pictures and the page of the rounds."""
        from .gallery import write_gallery, write_label_pictures
        from .report import write_report

        config, last = self.config, self.path / f"round_{len(result.rounds) - 1}"
        for name in ("model.safetensors", "config.json"):
            with open(last / name, "rb") as source:
                write_atomically(self.path / name, lambda file: shutil.copyfileobj(source, file))
        rows = [entry.row() for entry in result.rounds]
        content = json.loads((last / "metrics.json").read_text())
        wall = sum(row.get(name, 0.0) for row in rows for name in ("train_s", "predict_s"))
        content |= {"finished": False, "config": plain(config), "rounds": rows, "wall_s": round(wall, 2)}
        write_json(self.path / "metrics.json", content)
        if config.gallery_images:
            write_gallery(result.model, val_set, config.data, config.gallery_images, self.path, device)
            labels = [entry.labels for entry in result.rounds]
            write_label_pictures(training, labels, config.gallery_images, self.path)
        write_report(self.path, plain(config.paper_metrics))
        write_json(self.path / "metrics.json", {**content, "finished": True})
        print(f"{self.path}: finished")

    def _rounds_done(self) -> int | None:
        """Rounds of the finished run in this folder, None if there is none."""
        try:
            content = json.loads((self.path / "metrics.json").read_text())
        except (OSError, json.JSONDecodeError):
            return None
        return len(content.get("rounds", ())) if content.get("finished") else None

    def _restore_rounds(self) -> None:
        """Make ``rounds.json`` again where it was removed, from what every trained round has left itself."""
        file = self.path / "rounds.json"
        trained = [number for number in range(self.config.rounds + 1) if self.is_finished(number)]
        if trained and not file.exists():
            write_json(file, [{"round": number, **self.results(number)} for number in trained])

    def _remove(self) -> None:
        results.remove_run(self.path)
        remove_rounds(self.path)
        for folder in self.path.glob("round_*"):
            results.remove_run(folder)


def _is_fixed(key: str) -> bool:
    """Whether a flattened key of the configuration decides on what was trained."""
    return key.startswith(_FIXED) and not key.removeprefix("data.").startswith(_FREE)
