"""Execution of batches on a GPU: every image computes its own channels (section 11), by Triton kernels."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from vireo.errors import InputError

from .blocks import GatedBlock
from .folding import FoldedBlock, bias_of, plain_convolution


class RaggedBlock(FoldedBlock):
    """A folded block for a batch on a GPU.

    Convolutions with groups, dilation or kernels that are not square, and dtypes other than float32, are computed
    masked.

    Attributes:
        precision: of the products, ``"ieee"`` or, faster and with 10 bits of mantissa, ``"tf32"``.
    """

    producer_weight: Tensor
    consumer_weight: Tensor

    def __init__(self, block: GatedBlock) -> None:
        super().__init__(block)
        convs = (self.producer, self.consumer)
        self.precision = "ieee"
        self.supported = all(plain_convolution(conv) and _square(conv) for conv in convs)
        first, second = (conv.weight.detach() for conv in convs)
        self.register_buffer("producer_weight", first.flatten(2).transpose(1, 2).contiguous(), persistent=False)
        self.register_buffer("consumer_weight", second.flatten(2).permute(2, 1, 0).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` to ``(B, C_out, H', W')``."""
        if not self.supported or self.gate is None or x.dtype != torch.float32 or len(x) == 0:
            return super().forward(x)
        from .ragged_kernels import ragged_pair

        producer = (self.producer_weight, bias_of(self.producer), *_geometry(self.producer))
        consumer = (self.consumer_weight, bias_of(self.consumer), *_geometry(self.consumer))
        return ragged_pair(self.before(x), self.gate(x) > 0, producer, consumer, self.shortcut(x), self.precision)


def require_triton() -> None:
    """Raise ``InputError`` unless Triton can be imported."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise InputError(
            "Triton is not installed", 'ConditionalExecutor(mode="ragged")', 'install triton, or take mode="gather"'
        ) from error


def require_gpu(images: Tensor) -> None:
    """Raise ``InputError`` unless the images are on a GPU or Triton's interpreter is on."""
    if not images.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise InputError(
            f"Triton does not run on {images.device}",
            'ConditionalExecutor(mode="ragged")',
            'move network and images to a GPU, or take mode="gather"',
        )


def _square(conv: nn.Conv2d) -> bool:
    return all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))


def _geometry(conv: nn.Conv2d) -> tuple[int, int, int]:
    return conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
