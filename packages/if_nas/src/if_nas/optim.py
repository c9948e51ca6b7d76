"""One optimizer for weights and architecture parameters (section 3.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from vireo.errors import InputError

from .search_network import SearchNetwork

Idle = Literal["momentum", "freeze"]


class SearchSGD(torch.optim.SGD):
    """SGD with momentum and weight decay, in which rows of architecture parameters are learned in turns.

    Groups with a key ``idle`` are architecture parameters; a row, the first dimension, is a node. A row whose gradient
    has never been other than 0 is left alone. What happens to one that has had its turn, and has no gradient now, is
    said by ``idle``: ``"momentum"``: it goes on by momentum and weight decay, as in the authors' code, where zeroed
    gradients remain; ``"freeze"``: it rests, and so does its momentum.

    Other groups are those of ``torch.optim.SGD``.

    Args:
        params: parameters or groups.
        lr, momentum, weight_decay: defaults of groups.

    Raises:
        InputError: another ``idle``.
    """

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 3e-5) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        for group in self.param_groups:
            if group.get("idle", "freeze") not in ("momentum", "freeze"):
                raise InputError(f"{group['idle']!r}", "arch_optim.idle", "use momentum or freeze")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups; ``closure`` as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        architecture = [group for group in self.param_groups if "idle" in group]
        aside = [(parameter, parameter.grad) for group in architecture for parameter in group["params"]]
        for parameter, _ in aside:
            parameter.grad = None  # which SGD passes over
        super().step()
        for parameter, gradient in aside:
            parameter.grad = gradient
        for group in architecture:
            for parameter in group["params"]:
                self._move_rows(parameter, group)
        return loss

    def _move_rows(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        state = self.state[parameter]
        rows = (-1, *[1] * (parameter.dim() - 1))
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            # of the parameter's type, as load_state_dict would make it that
            state["touched"] = parameter.new_zeros(len(parameter))
        present = (gradient.flatten(1) != 0).any(1)
        touched, buffer = state["touched"], state["momentum_buffer"]
        touched.masked_fill_(present, 1)
        moving = (present if group["idle"] == "freeze" else touched.bool()).view(rows)
        change = group["momentum"] * buffer + gradient + group["weight_decay"] * parameter
        buffer.copy_(torch.where(moving, change, buffer))
        parameter.copy_(torch.where(moving, parameter - group["lr"] * buffer, parameter))


def search_optimizer(
    network: SearchNetwork,
    *,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 3e-5,
    arch_lr: float = 0.1,
    arch_momentum: float = 0.9,
    arch_weight_decay: float = 3e-5,
    idle: Idle = "momentum",
) -> SearchSGD:
    """The optimizer of a search: a group of weights, then one of architecture parameters, which is not clipped.

    Args:
        network: what is searched.
        lr, momentum, weight_decay: of the weights.
        arch_lr, arch_momentum, arch_weight_decay: of the architecture parameters. That their learning begins later is
            a matter of their schedule: momentum builds up meanwhile.
        idle: see :class:`SearchSGD`.

    Raises:
        InputError: another ``idle``.
    """
    weights = {"params": network.weight_parameters(), "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    architecture = {
        "params": network.architecture_parameters(),
        "lr": arch_lr,
        "momentum": arch_momentum,
        "weight_decay": arch_weight_decay,
        "idle": idle,
        "clip": False,
    }
    return SearchSGD([weights, architecture])
