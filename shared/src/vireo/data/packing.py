"""A batch's tensors in one buffer: one shared-memory segment, one pinned block, one copy to the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes; every dtype may start at a multiple of it


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies in the buffer."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()

    def view(self, buffer: Tensor) -> Tensor:
        return buffer[self.offset : self.offset + self.nbytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Packed:
    """Nested dicts, lists and tuples whose tensors lie in ``buffer``, uint8 (bytes,); made by :func:`pack`."""

    buffer: Tensor
    layout: Any

    def pin_memory(self) -> Packed:
        """The same in page-locked memory; called by torch's DataLoader."""
        return Packed(self.buffer.pin_memory(), self.layout)

    def unpack(self, device: torch.device) -> Any:
        """The nested structure on ``device``; its tensors are views of one copy of the buffer."""
        buffer = self.buffer.to(device, non_blocking=True)
        return map_leaves(lambda leaf: leaf.view(buffer) if isinstance(leaf, _Slot) else leaf, self.layout)


def pack(tree: Any) -> Packed:
    """Copy the tensors of nested dicts, lists and tuples into one buffer; other leaves are kept as they are."""
    placed: list[tuple[_Slot, Tensor]] = []
    end = 0

    def place(leaf: Any) -> Any:
        nonlocal end
        if not isinstance(leaf, Tensor):
            return leaf
        slot = _Slot(end, leaf.dtype, tuple(leaf.shape))
        placed.append((slot, leaf))
        end += -(-slot.nbytes // _ALIGNMENT) * _ALIGNMENT
        return slot

    layout = map_leaves(place, tree)
    buffer = torch.empty(end, dtype=torch.uint8)
    for slot, tensor in placed:
        slot.view(buffer).copy_(tensor)
    return Packed(buffer, layout)


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply ``function`` to everything in nested dicts, lists and tuples that is none of these."""
    if isinstance(tree, dict):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)([map_leaves(function, value) for value in tree])
    return function(tree)


def tensors_of(tree: Any) -> list[Tensor]:
    """One tensor for every storage used in nested dicts, lists and tuples."""
    by_storage: dict[int, Tensor] = {}

    def note(leaf: Any) -> None:
        if isinstance(leaf, Tensor):
            by_storage[leaf.untyped_storage().data_ptr()] = leaf

    map_leaves(note, tree)
    return list(by_storage.values())
