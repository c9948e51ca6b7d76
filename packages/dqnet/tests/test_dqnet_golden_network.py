"""Whole branches, the whole network and a training step against the numbers of the authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dqnet_golden import FORWARD, close, fill_module, filled_model, keys, load, load_json, stats, thinned
from torch import Tensor, nn

from dqnet import DQnet, GlobalViT, QueriedResNet, structure_loss
from dqnet.layouts import UNUSED, official_name
from dqnet.sizes import vit_options
from vireo.testing import tensor


def recorded(module: nn.Module, inputs: bool = False) -> list[Any]:
    """Filled with what a module gives, or with the arguments it gets, whenever it is called."""
    seen: list[Any] = []
    module.register_forward_hook(lambda _, arguments, output: seen.append(arguments if inputs else output))
    return seen


def stages(resnet: QueriedResNet) -> list[nn.Module]:
    trunk = resnet.trunk
    return [trunk.act1, trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4]


def close_stats(found: list[Tensor], expected: Tensor) -> None:
    """Of deviations and magnitudes that are of order 1 to 6, as the maps are."""
    close(torch.stack([stats(x) for x in found]), expected, FORWARD)


@pytest.mark.parametrize(("name", "side", "batch", "seed"), [("dqnet_b_384", 384, 1, 0), ("dqnet_b_256", 256, 2, 1)])
def test_whole_network(name: str, side: int, batch: int, seed: int) -> None:
    model, case = filled_model(seed), load(name)
    assert model.vit is not None
    assert model.resnet is not None
    assert model.resnet.queries is not None
    queries: list[Any] = list(model.resnet.queries)
    maps = [recorded(stage) for stage in stages(model.resnet)]
    entering = [recorded(query) for query in queries]
    asked = [recorded(query.query, inputs=True) for query in queries]
    of_vit, blocks = recorded(model.vit), [recorded(model.vit.blocks[i]) for i in (2, 5, 8)]
    with torch.inference_mode():
        logits = model(tensor("input_image", (batch, 3, side, side), seed))
        gates = [query.query.attend(*arguments[0]).sigmoid() for query, arguments in zip(queries, asked)]

    close(thinned(logits, 1, 4), case["logit"], FORWARD)
    close(stats(logits), case["logit_stats"], FORWARD)
    close(thinned(of_vit[0], 16, 2), case["vit_last"], FORWARD)
    close(stats(of_vit[0]), case["vit_last_stats"], FORWARD)
    close_stats([*(seen[0][:, 1:] for seen in blocks), of_vit[0]], case["vit_stats"])
    for (part, steps), seen in zip(
        {"stem": (8, 16), "layer1": (16, 8), "layer2": (32, 4), "layer3": (32, 2), "layer4": (64, 1)}.items(), maps
    ):
        close(thinned(seen[0], *steps), case[part], FORWARD)
    close_stats([seen[0] for seen in maps], case["res_stats"])
    for n, (steps, seen) in enumerate(zip([(8, 8), (16, 8), (32, 4), (32, 2)], entering)):
        close(thinned(seen[0], *steps), case[f"fused{n}"], FORWARD)
    close_stats([seen[0] for seen in entering], case["fused_stats"])
    close_stats(gates, case["gate_stats"])


@torch.inference_mode()
def test_plain_resnet() -> None:
    resnet, case = QueriedResNet(query_dim=None), load("resnet50_plain_256")
    fill_module(resnet, "resnet.", 2)
    maps = [recorded(stage) for stage in stages(resnet)]
    found = resnet(tensor("input_image", (1, 3, 256, 256), 2))
    for n, (x, steps) in enumerate(zip(found, [(32, 8), (32, 4), (32, 2), (32, 1)]), 1):
        close(thinned(x, *steps), case[f"layer{n}"], FORWARD)
    close_stats([seen[0] for seen in maps], case["res_stats"])


@pytest.mark.parametrize(("name", "side", "batch", "seed"), [("vit_b_384", 384, 1, 3), ("vit_b_192", 192, 2, 4)])
@torch.inference_mode()
def test_transformer(name: str, side: int, batch: int, seed: int) -> None:
    vit, case = GlobalViT(384, **vit_options("vit_base_patch16")), load(name)
    fill_module(vit, "vit.", seed)
    blocks = [recorded(vit.blocks[i]) for i in (2, 5, 8)]
    last = vit(tensor("input_image", (batch, 3, side, side), seed))
    grid = vit.grid_of(torch.empty(1, 3, side, side))
    maps = [*(seen[0][:, 1:].transpose(1, 2).unflatten(2, grid) for seen in blocks), last]
    for n, x in enumerate(maps):
        close(thinned(x, 24, 2), case[f"f{n}"], FORWARD)
    close_stats(maps, case["stats"])


def test_training_step() -> None:
    case, names = load("train_step_192"), load_json("train_step_192.names")
    model = filled_model(5, drop_path_rate=0.0).double().train()
    masks = (tensor("input_mask", (2, 1, 192, 192), 5) > 0.5).double()
    logits = model(tensor("input_image", (2, 3, 192, 192), 5).double())
    loss = structure_loss(logits, masks)
    loss.backward()

    def near(found: Tensor, expected: Tensor) -> None:
        close(found, expected, 1e-12, 1e-6)

    near(loss, case["loss"])
    near(thinned(logits.sigmoid(), 1, 8), case["prob"])
    near(stats(logits.sigmoid()), case["prob_stats"])
    gradients = {official_name(name): value.grad for name, value in model.named_parameters()}
    assert None not in gradients.values()
    assert gradients.keys() == set(names["params_with_grad"])
    near(torch.stack([gradients[name].norm() for name in names["params_with_grad"]]), case["grad_norm"])
    near(gradients["segmentation_head.head.weight"][:, ::8], case["grad_head"])
    near(gradients["space_encoder.cross0.rel_pos_h"], case["grad_cross0_rel"])
    near(gradients["space_encoder.cross3.q.weight"][::32, ::32], case["grad_cross3_q"])
    near(gradients["higher_encoder.patch_embed.proj.weight"][::64, :, ::4, ::4], case["grad_patch"])
    near(gradients["space_encoder.conv1.weight"][::8], case["grad_conv1"])
    state = {official_name(name): value for name, value in model.named_buffers()}
    near(torch.stack([state[name].norm() for name in names["bn"]]), case["bn_mean_norm"])
    variances = [state[name.replace("running_mean", "running_var")].norm() for name in names["bn"]]
    near(torch.stack(variances), case["bn_var_norm"])


def test_entries_are_the_authors() -> None:
    with torch.device("meta"):
        state = DQnet().state_dict()
    ours = {official_name(name): (tuple(value.shape), value.dtype) for name, value in state.items()}
    unused = {name for name in keys() if UNUSED.match(name)}
    assert ours == {name: entry for name, entry in keys().items() if name not in unused}
    without = set(load_json("train_step_192.names")["params_without_grad"])
    assert unused == without
