"""Schedules and multiply-adds against the authors' programs."""

from __future__ import annotations

import pytest
import torch
from fgc_golden import close, fill_state_dict, load, load_json, tensor

from fgc.macs import count_macs
from fgc.meters import OnRates
from fgc.resnet import gated_resnet20, gated_resnet32, gated_resnet56
from fgc.schedules import Recipe
from vireo.engine import build_schedule
from vireo.errors import InputError

NETWORKS = {"resnet20": gated_resnet20, "resnet32": gated_resnet32, "resnet56": gated_resnet56}


def test_schedules() -> None:
    golden = load_json("schedules")
    rates = build_schedule("multistep", epochs=500, steps_per_epoch=7, milestones=[300, 375, 450])
    assert golden["bas_columns"] == ["epoch", "lr", "zeta", "rho"]
    for epoch, lr, zeta, rho in golden["bas"]:
        weights = Recipe("bas").weights(epoch)
        assert (weights.zeta, weights.rho) == pytest.approx((zeta, rho), rel=1e-12)
        assert (weights.kappa, weights.coupling_epoch) == (0.0, 0)
        assert 0.1 * rates(7 * epoch) == pytest.approx(lr)
    assert golden["fgc_columns"] == ["epoch", "lr", "kappa", "rho", "on_epoch", "uses_neighbours"]
    for epoch, lr, kappa, rho, coupling_epoch, uses_neighbours in golden["fgc"]:
        weights = Recipe("fgc").weights(epoch)
        assert (weights.kappa, weights.rho, weights.zeta) == pytest.approx((kappa, rho, 0.0), rel=1e-12)
        assert weights.coupling_epoch == coupling_epoch
        assert (weights.coupling_epoch > 20) == bool(uses_neighbours)
        assert 0.1 * rates(7 * epoch) == pytest.approx(lr)


def test_both_stages_in_one_run_are_the_two_of_the_authors() -> None:
    both = Recipe("both")
    assert both.weights(99) == Recipe("bas").weights(99)
    assert both.weights(100) == Recipe("fgc").weights(100)
    assert both.weights(400) == Recipe("fgc").weights(400)
    assert both.coupling_start == 100


@pytest.mark.parametrize("wrong", [{"stage": "fcg"}, {"rho": -1.0}, {"rho_epochs": -1}])
def test_impossible_recipes_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Recipe(**wrong)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_macs(name: str) -> None:
    """``macs.json`` and the authors' counter in ``<name>_eval.npz``."""
    golden, case = load_json("macs")[name], load(f"{name}_eval")
    network = NETWORKS[name]()
    report = count_macs(network, (32, 32))
    assert report.dense == golden["dense_conv_macs"]
    assert report.gates == golden["gate_macs"]
    layers = golden["conv_layer_macs"]
    assert report.fixed == layers[0]
    assert list(report.blocks) == [a + b for a, b in zip(layers[1::2], layers[2::2])]
    gate_layers = golden["gate_layer_macs"]
    assert list(report.gate_blocks) == [a + b for a, b in zip(gate_layers[::2], gate_layers[1::2])]
    gate_parameters = sum(p.numel() for key, p in network.named_parameters() if ".gate." in key)
    assert gate_parameters == golden["gate_parameters"]
    assert sum(p.numel() for p in network.parameters()) == golden["parameters"]

    batch, seed = {"resnet20": (4, 5), "resnet32": (3, 12), "resnet56": (2, 10)}[name]
    fill_state_dict(network.state_dict(), seed)
    rates = OnRates()
    with torch.no_grad():
        network.eval()(tensor("input.image", (batch, 3, 32, 32), seed))
    rates.add(network)
    close(torch.tensor(rates.mean), case["gate_on_rate"])
    report = report.at(rates.mean)
    assert int(report.gated) == int(case["avg_block_macs"])
    assert int(report.gated) + report.gates == int(case["avg_total_macs"])
    assert report.pruning == pytest.approx(float(case["pruning"]), rel=1e-12)
