"""Starting weights from the files that people have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor

from dqnet import DQnet, GlobalViT, QueriedResNet
from dqnet.official import to_official
from dqnet.vit import resize_positions
from dqnet.weights import load_model, load_resnet, load_vit
from vireo.errors import InputError

VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
LAYERS = (1, 1, 1, 1)


@pytest.fixture
def vit() -> GlobalViT:
    torch.manual_seed(0)
    return GlobalViT(96, **VIT)


@pytest.fixture
def resnet() -> QueriedResNet:
    torch.manual_seed(0)
    return QueriedResNet(50, query_dim=16, window=2, heads=2, layers=LAYERS, width=8)


def encoder(side: int = 48, **options: Any) -> dict[str, Tensor]:
    """A transformer of timm, which is also that of MAE and DINO, with positions for images of ``side`` pixels."""
    torch.manual_seed(1)
    model = timm.create_model("vit_base_patch16_224", img_size=side, **{**VIT, "num_classes": 0, **options})
    return model.state_dict()


def classifier(block: Any = Bottleneck, classes: int = 10) -> dict[str, Tensor]:
    """A ResNet under the names of torchvision and timm, whose stem is as wide as the small networks'."""
    torch.manual_seed(1)
    own = QueriedResNet(50 if block is Bottleneck else 18, query_dim=None, layers=LAYERS, width=8).trunk.state_dict()
    head = ResNet(block, LAYERS, num_classes=classes, channels=(8, 16, 32, 64)).fc.state_dict()
    return {**own, **{f"fc.{name}": value for name, value in head.items()}}


def saved(content: Any, tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


MAE_DECODER = {
    "mask_token": torch.ones(1, 1, 8),
    "decoder_pos_embed": torch.ones(1, 10, 8),
    "decoder_embed.weight": torch.ones(8, 32),
    "decoder_blocks.0.norm1.weight": torch.ones(8),
    "decoder_pred.weight": torch.ones(768, 8),
}


@pytest.mark.parametrize(
    ("build", "left_out"),
    [
        (lambda: {"model": encoder()}, ""),
        (
            lambda: {"model": {**encoder(), **MAE_DECODER}},
            "; left out: mask_token (1), decoder_pos_embed (1)",
        ),
        (encoder, ""),
        (lambda: encoder(num_classes=7), "; left out: head (2)"),
    ],
    ids=["MAE encoder", "MAE with decoder", "DINO", "supervised timm"],
)
def test_transformer(build: Any, left_out: str, vit: GlobalViT, tmp_path: Path) -> None:
    content = build()
    file, state = saved(content, tmp_path), content.get("model", content)
    said = load_vit(vit, file)
    assert said.startswith(f"{file}: transformer loaded, positions resized to 6x6 patches{left_out}")
    for name, value in vit.state_dict().items():
        assert torch.equal(value, resize_positions(state[name], (6, 6)) if name == "pos_embed" else state[name])


def test_positions_of_the_same_grid_stay(vit: GlobalViT, tmp_path: Path) -> None:
    state = encoder(96)
    assert load_vit(vit, saved(state, tmp_path)).endswith("transformer loaded")
    assert torch.equal(vit.state_dict()["pos_embed"], state["pos_embed"])


def test_half_precision_is_resized_in_full(vit: GlobalViT, tmp_path: Path) -> None:
    load_vit(vit, saved({name: value.half() for name, value in encoder().items()}, tmp_path))
    expected = resize_positions(encoder()["pos_embed"].half().float(), (6, 6))
    assert torch.equal(vit.state_dict()["pos_embed"], expected)


@pytest.mark.parametrize("bare", [False, True], ids=["torchvision", "without counters"])
def test_resnet(bare: bool, resnet: QueriedResNet, tmp_path: Path) -> None:
    state = classifier()
    given = {name: value for name, value in state.items() if not (bare and "num_batches" in name)}
    queries: Any = resnet.queries
    before = [value.clone() for value in queries.state_dict().values()]
    assert load_resnet(resnet, saved(given, tmp_path)).endswith("ResNet loaded; left out: fc (2)")
    for name, value in resnet.trunk.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(map(torch.equal, before, queries.state_dict().values()))


def test_names_are_those_of_torchvision_and_timm() -> None:
    models = pytest.importorskip("torchvision.models", exc_type=ImportError)
    for depth in (18, 50):
        with torch.device("meta"):
            own = QueriedResNet(depth, query_dim=None).trunk.state_dict()
            others = models.get_model(f"resnet{depth}"), timm.create_model(f"resnet{depth}")
        for other in others:
            shapes = {name: value.shape for name, value in other.state_dict().items() if not name.startswith("fc.")}
            assert shapes == {name: value.shape for name, value in own.items()}


@pytest.fixture(scope="module")
def network() -> DQnet:
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"vit": {"name": "vit_base_patch16", **VIT}, "resnet": {"layers": LAYERS, "width": 8}}
    return DQnet(image_size=48, window=2, heads=2, head_width=4, **sizes)


@pytest.mark.parametrize("form", ["file", "run", "authors"])
def test_parts_of_a_whole_network(form: str, network: DQnet, tmp_path: Path, vit: GlobalViT) -> None:
    path = saved(network.state_dict(), tmp_path)
    if form == "run":
        network.save_pretrained(tmp_path)
        path = tmp_path
    if form == "authors":
        path = saved(to_official(network), tmp_path)
    resnet = QueriedResNet(layers=LAYERS, width=8, query_dim=None)
    for said, others in (
        (load_vit(vit, path), {"resnet.trunk", "resnet.queries", "head"}),
        (load_resnet(resnet, path), {"vit", "resnet.queries", "head"}),
    ):
        assert set(re.findall(r"([\w.]+) \(\d+\)", said.partition("left out: ")[2])) == others
    assert network.vit is not None
    assert network.resnet is not None
    for own, theirs in ((vit, network.vit), (resnet.trunk, network.resnet.trunk)):
        expected = theirs.state_dict()
        for name, value in own.state_dict().items():
            assert name == "pos_embed" or torch.equal(value, expected[name])


def test_methods_of_the_network(network: DQnet, tmp_path: Path) -> None:
    assert "6x6" not in network.load_mae(saved(encoder(), tmp_path))
    assert "ResNet loaded" in network.load_resnet(saved(classifier(), tmp_path))
    with torch.device("meta"):
        control = DQnet("resnet", resnet={"layers": LAYERS})
        other = DQnet("vit", vit={"name": "vit_base_patch16", **VIT})
    with pytest.raises(InputError, match="the network has no transformer"):
        control.load_mae(tmp_path / "weights.pth")
    with pytest.raises(InputError, match="the network has no ResNet"):
        other.load_resnet(tmp_path / "weights.pth")


def test_whole_network_of_another_image_size(network: DQnet, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vit": {"name": "vit_base_patch16", **VIT}, "resnet": {"layers": LAYERS, "width": 8}}
    other = DQnet(image_size=96, window=2, heads=2, head_width=4, **sizes)
    assert "network loaded" in load_model(other, saved(network.state_dict(), tmp_path))
    with pytest.raises(InputError, match="does not fit the model"):
        load_model(DQnet("concat", image_size=48, head_width=4, **sizes), tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: encoder(embed_dim=48), "misshaped: .* it holds one of width 48, depth 2, patch size 16"),
        (lambda: encoder(depth=3), "12 unexpected: blocks.2.*it holds one of width 32, depth 3"),
        (lambda: encoder(depth=1), "12 missing: blocks.1.*it holds one of width 32, depth 1"),
        (lambda: encoder(global_pool="avg"), "2 missing: norm.weight"),
        (lambda: {**encoder(), "pos_embed": torch.ones(1, 8, 32)}, "7 positions .* no square grid"),
        (lambda: {**encoder(), "pos_embed": torch.ones(8, 32)}, "pos_embed has shape"),
        (classifier, "it holds no transformer under timm's names"),
        (lambda: {"model": 3}, "holds no state dict"),
        (lambda: {"vit.pos_embed": torch.ones(1)}, "missing: cls_token"),
        (lambda: {"resnet.trunk.conv1.weight": torch.ones(1)}, "a network without a transformer"),
    ],
)
def test_transformers_that_do_not_fit(build: Any, said: str, vit: GlobalViT, tmp_path: Path) -> None:
    before = vit.state_dict()["cls_token"].clone()
    with pytest.raises(InputError, match=said):
        load_vit(vit, saved(build(), tmp_path))
    assert torch.equal(vit.state_dict()["cls_token"], before)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: classifier(BasicBlock), "it holds one of 1-1-1-1 basic blocks"),
        (lambda: {k: v for k, v in classifier().items() if "layer4" not in k}, "it holds one of 1-1-1-0 bottlenecks"),
        (encoder, "it holds no ResNet under timm's names"),
        (lambda: {"vit.cls_token": torch.ones(1)}, "a network without a ResNet"),
    ],
)
def test_resnets_that_do_not_fit(build: Any, said: str, resnet: QueriedResNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        load_resnet(resnet, saved(build(), tmp_path))


def test_torn_and_missing_files(vit: GlobalViT, tmp_path: Path) -> None:
    file = saved(encoder(), tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_vit(vit, file)
    with pytest.raises(InputError, match="no such file"):
        load_vit(vit, tmp_path / "other.pth")


def test_download(resnet: QueriedResNet, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no weights for a ResNet of these sizes"):
        load_resnet(resnet, "timm")
    asked: list[str] = []

    def create(name: str, pretrained: bool) -> Any:
        asked.append(name)
        if len(asked) == 1:
            raise ConnectionError("the hub is out of reach. Further words")
        return timm.models.resnet.resnet18()

    network = QueriedResNet(18, query_dim=None)
    monkeypatch.setattr("dqnet.weights.timm.create_model", create)
    with pytest.raises(InputError, match=r"resnet18 cannot be downloaded \(the hub is out of reach\)\. connect to"):
        load_resnet(network, "timm")
    assert load_resnet(network, "timm") == "timm's resnet18: ResNet loaded; left out: fc (2)"
    assert asked == ["resnet18", "resnet18"]
