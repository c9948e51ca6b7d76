"""``dqnet-eval``: measure a trained network as the paper does, on the evaluation data of its run or on other data.

dqnet-eval run=outputs/dqnet
dqnet-eval run=outputs/dqnet untrained=true                        # fresh weights, to compare with
dqnet-eval run=outputs/cod data.root=/data/cod                     # every test set below the root: CAMO, COD10K, ...
dqnet-eval run=outputs/cod data.test_set=NC4K maps=outputs/maps    # one of them; also save the maps, for dqnet-score
dqnet-eval run=null setting=cod weights=state_final.pth data.root=/data/cod    # a checkpoint in the authors' layout
torchrun --nproc-per-node 2 -m dqnet.eval ...                      # several processes
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from omegaconf import DictConfig

    from .load import LoadedRun
    from .mask_dataset import MaskDataset


@entry_point("dqnet.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of each data set and write them as JSON (torchrun: each process calls this)."""
    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group

    from .data import build_loader
    from .evaluation import evaluate
    from .score_tables import show

    loaded = load_subject(config)
    folder = Path() if config.run is None else Path(config.run)
    out = Path(config.out or folder / ("eval_untrained.json" if config.untrained else "eval.json"))
    require_writable(out.parent, "out=...")
    data = changed_data(loaded.config.data, config.data)
    sets = test_sets(data, config.data.test_set)
    fabric, here = evaluation_fabric(config)
    network = loaded.network.to(fabric.device)
    scores, skipped = {}, []
    for name, dataset in sets.items():
        loader = build_loader(dataset, data, loaded.config.model.image_size, train=False, **here)
        maps = None if config.maps is None else Path(config.maps) / name if len(sets) > 1 else Path(config.maps)
        with fabric.autocast():
            scores[name] = evaluate(network, loader, None if maps is None else map_writer(maps, dataset))
        skipped += skipped_lines(dataset, loader)
    leave_group()
    if fabric.global_rank:
        return
    print_skipped(skipped)
    title = f"{config.run or config.setting}{' (untrained)' if config.untrained else ''}"
    show(scores, {name: len(dataset) for name, dataset in sets.items()}, title)
    metrics: Any = scores if len(scores) > 1 else next(iter(scores.values()))
    write_json(out, {"run": str(config.run or config.setting), "untrained": config.untrained, "metrics": metrics})


def load_subject(config: Any) -> LoadedRun:
    """The network that a configuration names: a run, or a published setting with weights.

    Raises:
        InputError: neither or both, or as in :mod:`dqnet.load`.
    """
    from vireo.errors import InputError

    from .load import load_run, load_setting

    if (config.run is None) == (config.setting is None):
        raise InputError("a run or a setting is judged", "run, setting", "give one of the two, the other as null")
    if config.run is not None:
        return load_run(config.run, config.weights, untrained=config.untrained)
    if config.weights is None or config.untrained:
        what = "has no value" if config.weights is None else "a setting has no weights of its own to start from"
        where = "weights" if config.weights is None else "untrained"
        raise InputError(what, where, f"give weights=FILE, trained as {config.setting}, and not untrained")
    return load_setting(config.setting, config.weights)


def test_sets(data: DictConfig, chosen: str | None) -> dict[str, MaskDataset]:
    """The evaluation sets of a ``data`` configuration by name: one, or those of camouflaged objects below its root.

    Args:
        data: see :func:`~dqnet.data.build_dataset`.
        chosen: a test set of camouflaged objects; None: all that are there.

    Raises:
        InputError: see there; or none of the sets is there.
    """
    from omegaconf import OmegaConf

    from .cod import TEST_SETS, available_test_sets
    from .data import build_dataset

    if data.format != "cod" or chosen is not None or data.root is None:
        name = data.test_set if data.format == "cod" else data.format
        return {name: build_dataset(data, train=False)}
    names = available_test_sets(data.root) or TEST_SETS[:1]  # none: the message says what is looked for
    return {name: build_dataset(OmegaConf.merge(data, {"test_set": name}), train=False) for name in names}


def map_writer(folder: Path, dataset: MaskDataset) -> Callable[[int, np.ndarray], None]:
    """A function that writes the map of a sample as a PNG of its name.

    Raises:
        InputError: the folder cannot be written.
    """
    from vireo.engine.folder import require_writable
    from vireo.report import write_picture

    require_writable(folder, "maps=...")
    return lambda index, found: write_picture(folder / f"{dataset.name(index)}.png", found)


if __name__ == "__main__":
    main()
