"""Exponential moving average of a model's weights."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def ema_of(model: nn.Module, decay: float) -> AveragedModel:
    """An average ``ema <- decay * ema + (1 - decay) * weights`` per ``update_parameters(model)``.

    The first update copies the weights. Buffers (a norm's running statistics) are copied, not averaged.
    ``.module`` is the averaged network.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)
    average.requires_grad_(False)
    average.eval()
    return average
