"""Batch normalisation over the global batch, on any device.

torch's ``SyncBatchNorm`` computes the same but refuses CPU tensors, and its modules are no ``BatchNorm2d``.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

_Module = TypeVar("_Module", bound=nn.Module)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the samples of all processes, forward and backward.

    The processes' batches may differ in size. As in ``DistributedDataParallel``, gradients of ``weight`` and ``bias``
    are those of the local samples; over all processes they sum to those of the global batch. Without a process group,
    with one process, and outside training it is ``BatchNorm2d`` itself. The state dict is that of ``BatchNorm2d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, H, W)`` in and out; call it on all processes in training."""
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        output: Tensor
        output, mean, variance, count = _GlobalBatchNorm.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._update_running(mean, variance, count)
        return output

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """``variance`` is the biased one; the running variance is unbiased, as torch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1).clamp(min=1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(new.to(running), momentum)


class _GlobalBatchNorm(torch.autograd.Function):
    """Normalise by the statistics of all processes: one collective forward, one backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        if x.numel():
            variance, mean = torch.var_mean(x.to(wide), (0, 2, 3), correction=0)
        else:
            variance = mean = x.new_zeros(x.shape[1], dtype=wide)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        mine = torch.cat((mean, variance, count))
        shards = mine.new_empty(dist.get_world_size(), len(mine))
        dist.all_gather(list(shards.unbind()), mine)
        means, variances, counts = shards.double().split([x.shape[1], x.shape[1], 1], dim=1)
        total = counts.sum()
        share = counts / total
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean) ** 2)).sum(0)  # law of total variance
        mean, variance, total = mean.to(wide), variance.to(wide), total.to(wide)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), total)
        output = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, variance, total)
        return output, mean, variance, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse_std, total = ctx.saved_tensors
        gradient = gradients[0].to(mean.dtype)

        def per_channel(values: Tensor) -> Tensor:
            return values[:, None, None]

        normalised = (x.to(mean.dtype) - per_channel(mean)) * per_channel(inverse_std)
        sums = torch.stack((gradient.sum((0, 2, 3)), (gradient * normalised).sum((0, 2, 3))))
        grad_x = None
        if ctx.needs_input_grad[0]:
            over_all = sums.clone()
            dist.all_reduce(over_all)
            offset, slope = over_all / total
            scale = inverse_std if weight is None else inverse_std * weight
            grad_x = gradient - per_channel(offset) - normalised * per_channel(slope)
            grad_x = (grad_x * per_channel(scale)).to(x.dtype)
        grad_bias, grad_weight = sums.unbind()
        return (
            grad_x,
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
            None,
        )


def global_batch_norm(model: _Module) -> _Module:
    """Turn every plain ``nn.BatchNorm2d`` of ``model`` into a :class:`GlobalBatchNorm2d`, in place.

    Modules, parameters and hooks stay the same objects, so an optimizer made before keeps working. Subclasses such as
    :class:`~vireo.backbones.FixedStatsBatchNorm2d` are left as they are.

    Returns:
        ``model``.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d  # which has no state of its own
    return model
