"""``if-nas-derive`` from the command line: sources, rules, budgets, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from if_nas.derive import parse_macs
from if_nas.genotype import read_genotype, write_genotype
from if_nas.history import write_epoch
from if_nas.published import GENOTYPES
from if_nas.search_build import build_search_network
from if_nas.search_load import SCRIPT
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError
from vireo.testing import call_script


def derive(*arguments: object) -> str:
    outcome = call_script("if_nas.derive", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome.out


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny search with weights drawn at random, as if-nas-search leaves it."""
    assert SCRIPT == "if-nas-search"
    folder = tmp_path_factory.mktemp("search")
    content = {
        "space": {"name": "lchain", "nodes": [3, 3, 3], "length": 2, "ops": ["skip", "conv3"]},
        "model": {"width": 4, "stem": "cifar"},
        "schedule": {"name": "interleaving_free", "period": None, "turn": "epoch"},
        "data": {"image_size": [16, 16]},
        "derive": {"threshold": 0.1, "keep": 1, "op_threshold": None},
        "seed": 0,
    }
    config = OmegaConf.create(content)
    OmegaConf.save(config, folder / "config.yaml")
    (folder / "classes.json").write_text('["a", "b", "c"]')
    torch.manual_seed(0)
    network = build_search_network(config, 3)
    with torch.no_grad():
        for parameter in network.architecture_parameters():
            parameter.normal_()
    save_weights(network.state_dict(), folder / "model.safetensors")
    write_epoch(folder, 0, network.derive(keep=2), network.edge_weights())
    write_epoch(folder, 1, network.derive(keep=1), network.edge_weights())
    return folder


def test_run(search: Path, tmp_path: Path) -> None:
    found = {}
    for name, rule in {
        "as it is": [],
        "keep": ["--keep", 2],
        "epoch": ["--epoch", 1],
        "all": ["--threshold", 0],
    }.items():
        path = tmp_path / "found.json"
        assert "parameters" in derive("--run", search, *rule, "--output", path)
        found[name] = read_genotype(path)
    assert found["as it is"] == read_genotype(search / "genotype.json")
    assert found["keep"] == found["epoch"] != found["as it is"]
    assert [len(found["all"].edges(stage)) for stage in range(3)] == [5, 5, 5]
    network = json.loads(path.read_text())["network"]
    assert (network["variant"], network["image_size"], network["num_classes"]) == ("cifar", [16, 16], 3)


def test_run_is_drawn(search: Path, tmp_path: Path) -> None:
    for options in ([], ["--weights"], ["--space", "--weights", "--phase", 2], ["--epoch", 1]):
        outcome = call_script("if_nas.draw", "--run", search, *options, "--output", tmp_path / "found.svg")
        assert outcome.status == 0, outcome.err


def test_budget(tmp_path: Path) -> None:
    arguments = ["--genotype", "geno_cosine_similarity", "--variant", "cifar", "--max-macs", "20M"]
    out = derive(*arguments, "--output", tmp_path / "found.json")
    network = json.loads((tmp_path / "found.json").read_text())["network"]
    assert network["macs"] <= 20e6
    assert f"width          {network['width']}\n" in out
    assert read_genotype(tmp_path / "found.json") == GENOTYPES["geno_cosine_similarity"]


def test_random_depends_on_seed_and_number(search: Path, tmp_path: Path) -> None:
    for folder, count, seed in (("a", 2, 1), ("b", 1, 1), ("c", 1, 2)):
        options = ["--variant", "cifar", "--nodes", 4, 4, 4, "--length", 2]
        derive("--random", count, "--seed", seed, *options, "--output", tmp_path / folder)
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert sorted(drawn) == ["random_1_00.json", "random_1_01.json"]
    assert (tmp_path / "b" / "random_1_00.json").read_bytes() == drawn["random_1_00.json"]
    first, other = (read_genotype(tmp_path / path) for path in ("a/random_1_00.json", "c/random_2_00.json"))
    assert first != other
    derive("--random", 1, "--run", search, "--max-inputs", 1, "--output", tmp_path / "d")
    of_run = read_genotype(tmp_path / "d" / "random_0_00.json")
    assert max(map(max, of_run.stages)) == 3
    assert all(len(inputs) == 1 for stage in of_run.stages for inputs in stage.values())


@pytest.mark.parametrize(("text", "value"), [("600M", 6e8), ("0.6g", 6e8), ("6e8", 6e8), ("12", 12), ("5k", 5000)])
def test_budgets(text: str, value: float) -> None:
    assert parse_macs(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "M", "-5", "0", "600MB", "nan", "1e999"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="is no number of multiply-adds"):
        parse_macs(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one architecture is needed"),
        (["--genotype", "if_l8", "--run", "."], "one architecture is needed"),
        (["--genotype", "if_l8", "--keep", 2], "--keep: a rule needs the weights of a search"),
        (["--random", 1, "--op-threshold", 0.2], "--op-threshold: a rule needs"),
        (["--genotype", "if_l9"], "if_l9: is no genotype"),
        (["--genotype", "if_l8", "--nodes", 3], "only a random architecture has a space"),
        (["--genotype", "geno_cosine_similarity", "--max-macs", "1M"], "no width fits"),
        (["--genotype", "if_l8", "--max-macs", "much"], "'much' is no number of multiply-adds"),
        (["--genotype", "if_l8", "--image-size", 0], "[0] is no size"),
        (["--genotype", "if_l8", "--num-classes", 0], "--num-classes"),
        (["--genotype", "if_l8", "--width", 4, "--output", "found.txt"], "is no name of a JSON file"),
        (["--random", 0], "0 is too small"),
        (["--random", 1, "--seed", -1], "-1 is negative"),
        (["--random", 1, "--max-inputs", 0], "max_inputs 0"),
        (["--random", 1, "--length", 0], "length 0"),
        (["--random", 1, "--nodes", 0, 1, 1], "are no stages"),
        (["--random", 1, "--ops", "conv9"], "unknown operator 'conv9'"),
        (["--random", 1, "--nodes", 6, 6], "--nodes: networks have 3 stages, not 2"),
        (["--random", 1, "--ops", "none"], "--ops: none alone computes nothing"),
        (["--genotype", "if_l8", "--seed", 1], "--seed: nothing is drawn at random"),
        (["--run", "nowhere", "--max-inputs", 1], "--max-inputs: nothing is drawn at random"),
        (["--genotype", "if_l8", "--num-classes", 1], "--num-classes: 1 is too small. give 2 or more"),
        (["--genotype", ""], "an empty name: is no genotype"),
        (["--run", "nowhere"], "nowhere: holds no config.yaml. give the folder of a search with --run"),
    ],
)
def test_mistakes(arguments: list[object], message: str) -> None:
    assert message in call_script("if_nas.derive", *arguments).mistake()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", 0], "keep 0"),
        (["--threshold", 2], "threshold 2"),
        (["--threshold", 0.2, "--keep", 2], "they exclude each other"),
        (["--epoch", 9], "holds no architecture of epoch 9. give 1 to 2"),
        (["--epoch", 1, "--keep", 2], "--epoch: of an epoch the architecture is kept"),
    ],
)
def test_mistakes_about_a_run(arguments: list[object], message: str, search: Path) -> None:
    assert message in call_script("if_nas.derive", "--run", search, *arguments).mistake()


def test_malformed_file(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_genotype(path, GENOTYPES["geno_cosine_similarity"])
    path.write_text(path.read_text().replace("conv3", "conv9"))
    assert "unknown operator 'conv9'" in call_script("if_nas.derive", "--genotype", path).mistake()
    path.write_text('{"stage1": {"1": []}}')
    assert "node 1: has no input" in call_script("if_nas.derive", "--genotype", path).mistake()
