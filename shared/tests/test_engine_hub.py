"""Models saved and loaded in the hub's layout."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vireo.engine import Pretrained, Run
from vireo.errors import InputError


class Net(nn.Module, Pretrained):
    """A network of given width, with tied weights."""

    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])
        self.tied = self.layers[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def test_saved_and_loaded_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = Net(3, depth=4)
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"width": 3, "depth": 4}
    again = Net.from_pretrained(tmp_path)
    assert not again.training
    images = torch.randn(2, 3)
    assert torch.equal(net(images), again(images))
    assert capfd.readouterr().out == ""


def test_a_runs_folder_is_a_pretrained_model(tmp_path: Path) -> None:
    net = Net(5)
    run = Run(tmp_path, accelerator="cpu", epochs=0, config={"seed": 0})
    run.launch()
    run.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
    run.finish()
    again = Net.from_pretrained(str(tmp_path))
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), again.parameters()))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    net = Net(3)
    net.save_pretrained(tmp_path)
    state = {key: value.clone() for key, value in net.state_dict().items() if key != "layers.1.bias"}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors: the checkpoint does not fit.*layers.1.bias"):
        Net.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="misshaped"):
        Net.from_pretrained(tmp_path, width=4)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"holds no config.json and no model.safetensors"):
        Net.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="neither a folder nor a repository name"):
        Net.from_pretrained(tmp_path / "absent" / "folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing: cannot be downloaded.*config.json and model.safetensors"):
        Net.from_pretrained("nobody/nothing", cache_dir=tmp_path / "cache")
