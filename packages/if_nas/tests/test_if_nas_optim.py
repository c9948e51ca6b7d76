"""Architecture parameters that are learned in turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from if_nas.optim import SearchSGD
from vireo.errors import InputError

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def stepped(gradients: list[list[float] | None], idle: str) -> list[list[float]]:
    """Values of three rows, of one entry each and 1 at the start, after each step."""
    parameter = nn.Parameter(torch.ones(3, 1, dtype=torch.double))
    optimizer = SearchSGD([{"params": [parameter], "idle": idle}], LR, MOMENTUM, DECAY)
    values = []
    for gradient in gradients:
        parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.double)[:, None]
        optimizer.step()
        values.append(parameter.flatten().tolist())
    return values


def test_rows_move_from_their_first_turn_on() -> None:
    first = 1 - LR * (2 + DECAY)
    values = stepped([[2, 0, 0], [0, 3, 0], None], "momentum")
    assert values[0] == pytest.approx([first, 1, 1])
    buffer = MOMENTUM * (2 + DECAY) + DECAY * first
    second = first - LR * buffer
    assert values[1] == pytest.approx([second, 1 - LR * (3 + DECAY), 1])
    third = second - LR * (MOMENTUM * buffer + DECAY * second)
    assert values[2][0] == pytest.approx(third)
    assert values[2][2] == 1


def test_frozen_rows_rest_between_their_turns() -> None:
    values = stepped([[2, 0, 0], [0, 3, 0], None, [1, 0, 0]], "freeze")
    first = 1 - LR * (2 + DECAY)
    assert values[0] == pytest.approx([first, 1, 1])
    assert values[1] == values[2] == pytest.approx([first, 1 - LR * (3 + DECAY), 1])
    assert values[3][0] == pytest.approx(first - LR * (MOMENTUM * (2 + DECAY) + 1 + DECAY * first))


def gradients_for(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    parameters[1].grad = torch.zeros(3, 2).index_fill(0, torch.tensor([step % 3]), 0.5)


def pair() -> tuple[list[nn.Parameter], SearchSGD]:
    parameters = [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(3, 2))]
    groups = [{"params": [parameters[0]], "lr": 0.3}, {"params": [parameters[1]], "idle": "momentum"}]
    return parameters, SearchSGD(groups, LR, MOMENTUM, DECAY)


def test_weights_move_as_in_torch() -> None:
    parameters, optimizer = pair()
    twin = nn.Parameter(torch.ones(4))
    reference = torch.optim.SGD([twin], lr=0.3, momentum=MOMENTUM, weight_decay=DECAY)
    for step in range(4):
        gradients_for(parameters, step)
        assert parameters[0].grad is not None
        twin.grad = parameters[0].grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(parameters[0], twin)


def test_resumed_from_its_state_it_goes_on_alike() -> None:
    def run(stop: int | None) -> list[nn.Parameter]:
        parameters, optimizer = pair()
        for step in range(5):
            if step == stop:
                state: dict[str, Any] = optimizer.state_dict()
                values = [parameter.detach().clone() for parameter in parameters]
                parameters, optimizer = pair()
                optimizer.load_state_dict(state)
                for parameter, value in zip(parameters, values):
                    parameter.data.copy_(value)
            gradients_for(parameters, step)
            optimizer.step()
            optimizer.zero_grad()
        return parameters

    assert all(torch.equal(one, other) for one, other in zip(run(None), run(2), strict=True))


def test_closure() -> None:
    parameters, optimizer = pair()

    def closure() -> Tensor:
        loss = sum(parameter.sum() for parameter in parameters)
        assert isinstance(loss, Tensor)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 10
    assert all((parameter < 1).all() for parameter in parameters)


def test_unknown_treatment_of_idle_rows() -> None:
    with pytest.raises(InputError, match="use momentum or freeze"):
        SearchSGD([{"params": [nn.Parameter(torch.ones(1))], "idle": "rest"}])
