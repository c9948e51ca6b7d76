"""Helpers of the tests that search: a tiny space, its settings, and runs inside this process."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from vireo.testing import Outcome, call_script

DATA = ["data.train_images=48", "data.val_images=20", "data.num_classes=6", "data.batch_size=16"]
SPACE = ["space.nodes=[2,3,2]", "space.length=2", "model.width=2"]
STEPS = ["epochs=2", "arch_optim.start_epoch=1", "discretization.start_epoch=0", "run.log_every=1"]
TINY = [*DATA, *SPACE, *STEPS]  # 3 steps an epoch, 3 phases
DARTS = [
    *(*DATA, *STEPS, "space=darts", "space.nodes=2", "space.ops=[none,skip_connect,max_pool_3x3]"),
    *("model.width=2", "model.cells=3", "derive.keep=null"),
]
REPORT = "if_nas.search_report.write_search_report"


def call(*arguments: object, settings: list[str] = TINY) -> Outcome:
    """Run ``if-nas-search`` in this process."""
    return call_script("if_nas.search", *settings, *arguments)


def search(folder: Path, *arguments: object, settings: list[str] = TINY) -> Path:
    """A tiny search in ``folder`` that must end well."""
    outcome = call(f"output_dir={folder}", *arguments, settings=settings)
    assert outcome.status == 0, outcome.err
    return folder


def configuration(*overrides: str, name: str = "search") -> DictConfig:
    """Of a run of ``if-nas-search``."""
    with initialize_config_module("if_nas.conf", version_base="1.3"):
        return compose(name, list(overrides))
