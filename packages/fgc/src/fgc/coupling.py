"""Feature-gate coupling: the gates of images that are near in feature space are pulled together (section 3.3).

Two banks per coupled block hold a vector for every training image: its pooled feature, which is searched for the
image's nearest neighbours, and its gate logits, in which those neighbours are the positives of a contrastive loss.
Banks are read in chunks, and the loss brings its gradient along in closed form: no array of batch x bank survives it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vireo.data.random import counter_uniform
from vireo.errors import InputError

from .bank import MemoryBank
from .collectives import batch_share, gather_rows
from .search import bank_chunks, default_chunk, largest_products

EPSILON = 1e-7  # inside the logarithm of the loss
FAINT = -80.0  # logarithm of a share of the softmax that no float32 sum feels


class FeatureGateCoupling(nn.Module):
    """The coupling loss of one block, with its banks.

    Args:
        num_samples: size of the training set.
        dim: channels gated in the block.
        num_neighbors: positives of an image beside itself. With ``num_samples`` or more all other images are; with 0
            the image alone is, as in the warm-up.
        temperature: of the softmax over the gate bank.
        momentum: share of the old row in an update of either bank.
        warmup_epochs: epochs in which an image is its only positive.
        chunk: rows of a bank that are looked at together, at ``4 * B * chunk`` bytes; by default 2048 on the CPU, and
            64 MB worth on a GPU. No matter for the result.
        bank_dtype: of the stored rows; ``torch.bfloat16`` halves the memory, 1.28 M x 512 then takes 2 x 1.3 GB.
        normalize_query: contrast and store the gate logits at unit length. The authors' code takes them as they are.
        random_neighbors: positives drawn at random instead of searched: the control for whether neighbourhoods matter.

    Attributes:
        feature_bank, gate_bank: see :class:`fgc.bank.MemoryBank`.

    Raises:
        InputError: a negative number of neighbours, or a temperature or chunk that is not positive.
    """

    def __init__(
        self,
        num_samples: int,
        dim: int,
        num_neighbors: int = 200,
        temperature: float = 0.07,
        momentum: float = 0.5,
        warmup_epochs: int = 20,
        *,
        chunk: int | None = None,
        bank_dtype: torch.dtype = torch.float32,
        normalize_query: bool = False,
        random_neighbors: bool = False,
    ) -> None:
        super().__init__()
        if num_neighbors < 0 or not temperature > 0 or (chunk is not None and chunk < 1):
            raise InputError(
                f"{num_neighbors} neighbours, temperature {temperature}, chunk {chunk}",
                "FeatureGateCoupling",
                "give 0 or more neighbours, a positive temperature and a positive chunk",
            )
        self.feature_bank = MemoryBank(num_samples, dim, momentum, bank_dtype)
        self.gate_bank = MemoryBank(num_samples, dim, momentum, bank_dtype)
        self.num_neighbors, self.temperature, self.warmup_epochs = num_neighbors, temperature, warmup_epochs
        self.chunk, self.normalize_query, self.random_neighbors = chunk, normalize_query, random_neighbors

    def forward(
        self, features: Tensor, gate_logits: Tensor, indices: Tensor, epoch: int, update: bool | None = None
    ) -> Tensor:
        """``mean_i -log(sum of softmax_i over the positives of i + 1e-7)``, then update both banks.

        The softmax of ``gate_logits @ bank^T / temperature`` runs over all rows, the image's own, which is always a
        positive, included. Search and loss use the rows from before the update.

        With several processes each needs both banks equal at the start; all rows of all processes are then written by
        every one, so they stay equal. The value is this process's share of the loss: its mean over processes, like the
        mean of the gradients, is that of one process with the whole batch.

        Args:
            features: ``(B, dim)``, pooled ungated features; no gradient flows into them.
            gate_logits: ``(B, dim)`` of the gates, without noise.
            indices: int64 ``(B,)``, positions in the training set. See :meth:`MemoryBank.update` for repeated ones.
            epoch: counted from 1 where the coupling starts. Up to ``warmup_epochs`` an image is its only positive.
            update: whether to write the banks; by default in training mode and with gradients enabled.

        Returns:
            Scalar float32; not a number if a feature or logit of this process is not finite, and banks then keep the
            rows of the images concerned.

        Raises:
            InputError: an index outside the bank, or shapes that do not fit it.
        """
        features = features.detach().float()
        self._check(features, gate_logits, indices)
        with torch.autocast(features.device.type, enabled=False):
            query = gate_logits.float()
            if self.normalize_query:
                query = F.normalize(query)
            loss: Tensor = _Contrast.apply(
                query,
                self.gate_bank.memory,
                self.positives(features, indices, epoch),
                self.temperature,
                self._chunk(features),
            )
            loss = loss + 0 * features.sum()  # a feature that is not finite shows in the loss
            if self.training and torch.is_grad_enabled() if update is None else update:
                _, (all_features, all_queries, all_indices) = gather_rows(features, query, indices)
                self.feature_bank.update(all_indices, all_features)
                self.gate_bank.update(all_indices, all_queries)
        return loss * batch_share(len(indices), indices.device)

    def positives(self, features: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Each image's positives ``(B, P)`` int64: its own index first, then its neighbours, if it has any by now."""
        own = indices[:, None]
        if epoch <= self.warmup_epochs or self.num_neighbors == 0:
            return own
        others = self.strangers(indices, epoch) if self.random_neighbors else self.nearest(features, indices)
        return torch.cat([own, others], 1)

    @torch.no_grad()
    def nearest(self, features: Tensor, indices: Tensor) -> Tensor:
        """The rows of the feature bank with the largest inner products.

        Args:
            features: ``(B, dim)``.
            indices: int64 ``(B,)``; an image is no neighbour of itself.

        Returns:
            int64 ``(B, min(num_neighbors, num_samples - 1))``, the nearest first.

        Raises:
            InputError: an index outside the bank, or shapes that do not fit it.
        """
        self._check(features, features, indices)
        memory = self.feature_bank.memory
        count = min(self.num_neighbors, len(memory) - 1)
        scores, rows = largest_products(features.float(), memory, count + 1, self._chunk(features))
        # one more than asked for, so that the image itself can be dropped without waiting for the device
        scores = scores.masked_fill(rows == indices[:, None], -torch.inf)
        return rows.gather(1, scores.topk(count).indices)

    def strangers(self, indices: Tensor, epoch: int) -> Tensor:
        """As many rows as :meth:`nearest` gives, drawn at random: distinct, not the image itself.

        A function of index and epoch alone. The other rows, in the order in which they follow the image's own, are
        divided into that many ranges, and one is drawn from each.
        """
        others = len(self.feature_bank.memory) - 1
        count = min(self.num_neighbors, others)
        edges = torch.arange(count + 1, device=indices.device) * others // max(count, 1)
        draws = counter_uniform(indices, epoch, count).double()
        offsets = edges[:-1] + (draws * edges.diff()).long()
        return (indices[:, None] + 1 + offsets) % (others + 1)

    def _chunk(self, features: Tensor) -> int:
        return self.chunk or default_chunk(len(features), features.device)

    def _check(self, features: Tensor, gate_logits: Tensor, indices: Tensor) -> None:
        expected = (len(indices), self.gate_bank.memory.shape[1])
        if features.shape != expected or gate_logits.shape != expected:
            raise InputError(
                f"features {tuple(features.shape)} and gate logits {tuple(gate_logits.shape)}, not {expected}",
                "FeatureGateCoupling",
                "give (batch, dim) of the coupled block and one index for each image",
            )
        self.gate_bank.check(indices)


def couple(
    couplings: Sequence[FeatureGateCoupling],
    features: Sequence[Tensor],
    gate_logits: Sequence[Tensor],
    indices: Tensor,
    epoch: int,
) -> Tensor:
    """Sum of the losses of several coupled blocks, see :meth:`FeatureGateCoupling.forward`.

    One block after the other: a block's products fill the processor as they are, and on a CPU those of several blocks
    at once (``bmm``) leave its cache.
    """
    losses = [coupling(f, z, indices, epoch) for coupling, f, z in zip(couplings, features, gate_logits, strict=True)]
    return torch.stack(losses).sum()


class _Contrast(torch.autograd.Function):
    """The loss, and its gradient in the same passes over the bank; only ``(B, dim)`` is kept."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: Tensor,
        memory: Tensor,
        positives: Tensor,
        temperature: float,
        chunk: int,
    ) -> Tensor:
        scaled = query / temperature
        log_total, mean = _softmax_mean(scaled, memory, chunk)
        rows = memory[positives].float()  # (B, P, dim)
        weights = torch.exp(torch.einsum("bd,bpd->bp", scaled, rows) - log_total)
        inside = weights.sum(1, keepdim=True)
        # d loss / d scores = softmax * (inside - [positive]) / (inside + eps)
        grad = (inside * mean - torch.einsum("bp,bpd->bd", weights, rows)) / (inside + EPSILON)
        batch = max(len(query), 1)  # a process may have no image
        ctx.save_for_backward(grad / (temperature * batch))
        return -torch.log(inside + EPSILON).sum() / batch

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * upstream, None, None, None, None


def _softmax_mean(scaled: Tensor, memory: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """``logsumexp`` of ``scaled @ memory^T`` ``(B, 1)``, and its softmax times ``memory`` ``(B, dim)``."""
    highest = scaled.new_full((len(scaled), 1), -torch.inf)
    total, mean = torch.zeros_like(highest), torch.zeros_like(scaled)
    for _, rows in bank_chunks(memory, chunk):
        scores = scaled @ rows.t()
        higher = torch.maximum(highest, scores.amax(1, keepdim=True))
        scores.sub_(higher).clamp_(min=FAINT).exp_()  # exponentials below the normal floats take ten times as long
        shrink = torch.exp(highest - higher)
        total = total * shrink + scores.sum(1, keepdim=True)
        mean = torch.addmm(mean * shrink, scores, rows)
        highest = higher
    return highest + total.log(), mean / total
