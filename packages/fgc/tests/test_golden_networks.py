"""Gate, gated blocks and whole networks against the authors' computation."""

from __future__ import annotations

import pytest
import torch
from fgc_golden import close, fill_state_dict, load, load_json, tensor, unpacked

from fgc.blocks import GatedBasicBlock, gated_blocks
from fgc.gate import ChannelGate, binary_concrete_ste, gates_of
from fgc.resnet import GatedResNet, gated_resnet20, gated_resnet32, gated_resnet56

NETWORKS = {"resnet20": gated_resnet20, "resnet32": gated_resnet32, "resnet56": gated_resnet56}


def test_gate() -> None:
    case = load("gate")
    gate = ChannelGate(32, 64)
    fill_state_dict(gate.state_dict(), 1)
    x, grad = tensor("input.x", (6, 32, 8, 8), 1).requires_grad_(), tensor("input.grad", (6, 64, 1, 1), 1)
    with torch.no_grad():
        hard = gate.eval()(x)
    assert gate.logits is not None
    assert gate.probs is not None
    close(gate.logits, case["eval_logits"])
    close(gate.probs, case["eval_probs"])
    assert torch.equal(hard.flatten(1), case["eval_gate"].float())

    sampled = gate.train()(x, case["u"])
    close(gate.logits, case["train_logits"])
    close(gate.probs, case["train_probs"])
    assert torch.equal(sampled.flatten(1), case["train_gate"].float())
    sampled.backward(grad)
    assert x.grad is not None
    close(x.grad[:, :, 0, 0], case["grad_x"])
    for entry, parameter in {
        "grad_fc1": gate.mlp["fc1"].weight,
        "grad_fc2": gate.mlp["fc2"].weight,
        "grad_fc2_bias": gate.mlp["fc2"].bias,
        "grad_bn_weight": gate.mlp["bn"].weight,
        "grad_bn_bias": gate.mlp["bn"].bias,
    }.items():
        close(parameter.grad, case[entry])
    close(gate.mlp["bn"].running_mean, case["new_running_mean"])
    close(gate.mlp["bn"].running_var, case["new_running_var"])


def test_straight_through_step_of_the_gate() -> None:
    case = load("gate")
    logits = (3 * tensor("input.logits", (6, 64, 1, 1), 1)).requires_grad_()
    sampled = binary_concrete_ste(logits, 2 / 3, case["u"])
    assert torch.equal(sampled.flatten(1), case["ste_out"].float())
    sampled.backward(tensor("input.grad", (6, 64, 1, 1), 1))
    assert logits.grad is not None
    close(logits.grad, case["ste_grad"])


@pytest.mark.parametrize(("name", "out_channels", "stride", "seed"), [("block_s1", 16, 1, 2), ("block_s2", 32, 2, 3)])
def test_block(name: str, out_channels: int, stride: int, seed: int) -> None:
    case = load(name)
    block = GatedBasicBlock(16, out_channels, stride)
    fill_state_dict(block.state_dict(), seed)
    x = tensor("input.x", (3, 16, 8, 8), seed).requires_grad_()
    with torch.no_grad():
        out = block.eval()(x)
    close(out, case["eval_out"])
    assert block.feature is not None
    close(block.feature, case["eval_feat"])
    assert block.gate.logits is not None
    assert torch.equal((block.gate.logits > 0).float(), case["eval_gate"].float().reshape(3, -1))

    block.gate.uniform = case["u"]
    out = block.train()(x)
    close(out, case["train_out"])
    close(block.feature, case["train_feat"])
    out.backward(tensor("input.grad", tuple(out.shape), seed))
    assert x.grad is not None
    close(x.grad, case["grad_x"])
    for key, parameter in block.named_parameters():
        close(parameter.grad, case[f"grad:{key}"])
    buffers = {f"buf:{key}": buffer for key, buffer in block.named_buffers()}
    stored = [key for key in case if key.startswith("buf:")]
    assert len(stored) == 6
    for key in stored:
        close(buffers[key], case[key])


@pytest.mark.parametrize(
    ("name", "batch", "seed"), [("resnet20_eval", 4, 5), ("resnet32_eval", 3, 12), ("resnet56_eval", 2, 10)]
)
def test_network_in_evaluation(name: str, batch: int, seed: int) -> None:
    case = load(name)
    network = NETWORKS[name.removesuffix("_eval")]().eval()
    fill_state_dict(network.state_dict(), seed)
    with torch.no_grad():
        logits = network(tensor("input.image", (batch, 3, 32, 32), seed))
    close(logits, case["logits"])
    gate_logits = torch.cat([gate.logits for gate in gates_of(network) if gate.logits is not None], 1)
    close(gate_logits, case["gate_logits"])
    gates = (gate_logits > 0).float()
    assert torch.equal(gates, unpacked(case["gate"], gates.shape[1]))
    rates = [part.mean() for part in gates.split([block.gate.out_channels for block in gated_blocks(network)], 1)]
    close(torch.stack(rates), case["gate_on_rate"])


@pytest.mark.parametrize("name", list(NETWORKS))
def test_keys_of_the_authors_networks(name: str) -> None:
    """``<name>.keys.json``."""
    network: GatedResNet = NETWORKS[name]()
    own = {key: {"shape": list(v.shape), "dtype": str(v.dtype)[6:]} for key, v in network.state_dict().items()}
    assert own == load_json(f"{name}.keys")
