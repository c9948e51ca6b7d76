"""The network against reference numbers, training and evaluation from the console, and what the README shows."""

from __future__ import annotations

from pathlib import Path

import torch

import paper_name
from vireo.testing import call_script, fill_state_dict, tensor
from vireo.testing.runs import losses, read

PACKAGE = Path(__file__).resolve().parents[1]
TINY = ["epochs=2", "data.train_images=64", "data.val_images=32", "data.batch_size=16", "model.width=4"]


def test_network_has_the_reference_outputs() -> None:
    """Reference cases of a paper hold what its authors' code computed; weights and input come from their names."""
    expected = read(PACKAGE / "tests" / "golden" / "network.json")["logits"]
    network = paper_name.SmallNet(num_classes=3, width=4)
    paper_name.from_official(network, {"state_dict": fill_state_dict(network.state_dict(), seed=1)})
    torch.testing.assert_close(network(tensor("input", (2, 3, 16, 16))), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_training_learns_and_evaluation_repeats_its_number(tmp_path: Path) -> None:
    assert "config.yaml" in call_script("paper_name.eval", f"run={tmp_path}").mistake()
    trained = call_script("paper_name.train", "+experiment=demo", *TINY, f"output_dir={tmp_path}")
    assert trained.status == 0, trained.err
    first, *_, last = losses(tmp_path)
    assert last["loss"] < first["loss"]
    evaluated = call_script("paper_name.eval", f"run={tmp_path}")
    assert evaluated.status == 0, evaluated.err
    assert read(tmp_path / "eval.json")["metrics"] == read(tmp_path / "metrics.json")["metrics"]


def test_readme_snippet_runs() -> None:
    snippet = (PACKAGE / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    logits = names["logits"]
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 10)
