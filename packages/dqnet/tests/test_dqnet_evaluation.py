"""Evaluation of a network, and ``dqnet-eval`` of runs, settings and data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dqnet_scored_maps as maps
import dqnet_trees as trees
import numpy as np
import pytest
import torch
from dqnet_runs import MODEL, configuration
from dqnet_saved_run import saved_run
from PIL import Image
from torch import nn

from dqnet.data import build_dataset, build_loader
from dqnet.evaluation import evaluate, probability_maps
from dqnet.load import load_run
from dqnet.metrics import NAMES
from dqnet.scoring import score_folder
from vireo.testing import Outcome, call_script
from vireo.testing.runs import read

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

DATA = trees.data_config("generated", val_images=5, image_size=40, eval_batch_size=2)


def judge(*arguments: object) -> Outcome:
    return call_script("dqnet.eval", "accelerator=cpu", *arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    return saved_run(tmp_path_factory.mktemp("runs") / "gate")


def test_maps_are_resized_as_probabilities_and_truncated() -> None:
    logits = torch.tensor([[-2.0, 2.0]])[None, None].expand(2, 1, 1, 2)
    one, other = probability_maps(nn.Identity(), logits, [(1, 4), (2, 2)])
    low, high = torch.tensor([-2.0, 2.0]).sigmoid().tolist()
    expected = [low, 0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high, high]
    assert one.tolist() == [[int(255 * value) for value in expected]]
    assert other.tolist() == [[int(255 * low), int(255 * high)]] * 2


def test_evaluation_equals_that_of_its_maps() -> None:
    """A network that shows the red channel, in training mode before; the masks are larger than its maps."""

    class Red(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return images[:, :1]

    dataset, network = build_dataset(DATA, train=False), Red().train()
    seen: dict[int, np.ndarray] = {}
    found = evaluate(network, build_loader(dataset, DATA, 32, train=False, **trees.HERE), seen.__setitem__)
    assert sorted(seen) == list(range(5))
    expected = maps.reference((seen[index], dataset[index][1]["mask"].numpy()) for index in range(5))
    assert max(abs(found[name] - expected[name]) for name in NAMES) < 1e-9


def test_a_run(run: Path, tmp_path: Path) -> None:
    outcome = judge(f"run={run}", f"maps={tmp_path / 'maps'}", f"out={tmp_path / 'found.json'}")
    assert outcome.status == 0, outcome.err
    assert "camouflage │ 4 " in outcome.out
    found = read(tmp_path / "found.json")
    assert list(found["metrics"]) == [*NAMES, "IoU"]
    loaded = load_run(run)
    dataset = build_dataset(loaded.config.data, train=False)
    for index in range(len(dataset)):
        folder = tmp_path / "masks"
        folder.mkdir(exist_ok=True)
        Image.fromarray(dataset[index][1]["mask"].numpy()).save(folder / f"{dataset.name(index)}.png")
    assert score_folder(tmp_path / "maps", tmp_path / "masks").metrics == found["metrics"]
    loader = build_loader(dataset, loaded.config.data, loaded.config.model.image_size, train=False, **trees.HERE)
    assert evaluate(loaded.network, loader) == found["metrics"]


def test_fresh_weights(run: Path) -> None:
    assert judge(f"run={run}").status == 0
    assert judge(f"run={run}", "untrained=true").status == 0
    trained, fresh = read(run / "eval.json"), read(run / "eval_untrained.json")
    assert (trained["untrained"], fresh["untrained"]) == (False, True)
    assert trained["metrics"] != fresh["metrics"]


@pytest.fixture
def cod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The sets of camouflaged objects, small, and a run on them."""
    root = tmp_path / "cod"
    trees.write_packaged_archives(root)
    monkeypatch.setattr("dqnet.cod.TEST_COUNTS", trees.TEST_COUNTS)
    (root / "TestDataset" / "NC4K").rename(tmp_path / "elsewhere")
    data = ["data=cod", "data.workers=0", f"data.root={tmp_path / 'nowhere'}"]
    return root, saved_run(tmp_path / "run", *data, settings=MODEL)


def test_every_set_of_camouflaged_objects(cod: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = cod
    outcome = judge(f"run={run}", f"data.root={root}", f"maps={tmp_path / 'maps'}")
    assert outcome.status == 0, outcome.err
    metrics: dict[str, Any] = read(run / "eval.json")["metrics"]
    assert list(metrics) == ["CAMO", "CHAMELEON", "COD10K"]
    for name, found in metrics.items():
        assert score_folder(tmp_path / "maps" / name, root / "TestDataset" / name / "GT").metrics == found
    outcome = judge(f"run={run}", f"data.root={root}", "data.test_set=COD10K")
    assert outcome.status == 0, outcome.err
    assert read(run / "eval.json")["metrics"] == metrics["COD10K"]


def test_sets_that_are_not_there(cod: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = cod
    assert "no test set NC4K" in judge(f"run={run}", f"data.root={root}", "data.test_set=NC4K").mistake()
    assert "unknown test set" in judge(f"run={run}", f"data.root={root}", "data.test_set=ImageNet").mistake()
    (tmp_path / "empty").mkdir()
    assert "no test set CAMO" in judge(f"run={run}", f"data.root={tmp_path / 'empty'}").mistake()
    assert "there is no such folder" in judge(f"run={run}").mistake()


def test_a_setting_with_weights(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_run(run).config
    monkeypatch.setattr("dqnet.load.setting_of", lambda name: config)
    out = tmp_path / "found.json"
    outcome = judge("run=null", "setting=tiny", f"weights={run / 'model.safetensors'}", f"out={out}")
    assert outcome.status == 0, outcome.err
    assert judge(f"run={run}").status == 0
    assert read(out)["run"] == "tiny"
    assert read(out)["metrics"] == read(run / "eval.json")["metrics"]


def test_mistakes(run: Path) -> None:
    assert "a run or a setting" in judge("run=null").mistake()
    assert "a run or a setting" in judge(f"run={run}", "setting=cod").mistake()
    assert "give weights=FILE" in judge("run=null", "setting=cod").mistake()
    assert "give weights=FILE" in judge("run=null", "setting=cod", "weights=a.pt", "untrained=true").mistake()
    assert "no such experiment" in judge("run=null", "setting=none", "weights=a.pt").mistake()
    assert "holds no config.yaml" in judge("run=outputs/none").mistake()
    assert "data.test_set" in judge(f"run={run}", "data.test_set=CAMO").mistake()
    assert "test_sett" in judge(f"run={run}", "data.test_sett=CAMO").mistake()


def test_the_configuration_names_every_set() -> None:
    """``dqnet-eval`` changes only what a configuration of camouflaged objects has."""
    from omegaconf import OmegaConf

    import dqnet

    evaluation = OmegaConf.load(Path(dqnet.__file__).parent / "conf" / "eval.yaml")
    assert set(evaluation.data) <= set(configuration("data=cod").data)
