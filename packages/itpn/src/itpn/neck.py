"""The feature pyramid of iTPN: MLPs inside units, from stride 16 down to stride 4 (section 3.2).

Legend of shapes: B images, N units of 16 x 16 pixels (any number of them, in any order), d channels of the pyramid.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from .attention import MlpBlock, init_layers

MLP_RATIO = 4.0


class PyramidUnits(NamedTuple):
    """Outputs of the pyramid in units: ``o16 (B, N, 1, 1, d)``, ``o8 (B, N, 2, 2, d)``, ``o4 (B, N, 4, 4, d)``."""

    o16: Tensor
    o8: Tensor
    o4: Tensor


class PatchSplit(nn.Module):
    """One token of a unit's inner grid to four.

    Args:
        dim: channels of the input.
        out_dim: of each of the four.
        norm_eps: of the norm.
    """

    def __init__(self, dim: int, out_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.reduction = nn.Linear(dim, 4 * out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, N, s, s, c)`` to ``(B, N, 2 s, 2 s, d)``."""
        quads = self.reduction(self.norm(x)).unflatten(4, (2, 2, -1))  # (B, N, h, w, i, j, d)
        split: Tensor = quads.permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 3)
        return split


class PyramidNeck(nn.Module):
    """Top-down pyramid over the three stages of a HiViT; pre-trained with it and kept downstream.

    Args:
        dims: channels of stages 1 to 3.
        dim: d, channels of every output.
        depth: MLP blocks of each top-down step.
        norm_eps: of the norms; 1e-6 in pre-training, 1e-5 in the released detectors and segmenters.
    """

    def __init__(
        self, dims: tuple[int, int, int] = (128, 256, 512), dim: int = 256, depth: int = 1, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.dims, self.dim, self.depth = tuple(dims), dim, depth

        def blocks(count: int) -> nn.Sequential:
            return nn.Sequential(*(MlpBlock(dim, MLP_RATIO, norm_eps=norm_eps) for _ in range(count)))

        self.align_dim_16tofpn = nn.Linear(dims[2], dim) if dims[2] != dim else nn.Identity()
        self.align_dim_16to8 = nn.Linear(dims[1], dim, bias=False)
        self.split_16to8 = PatchSplit(dims[2], dim, norm_eps)
        self.block_16to8 = blocks(depth)
        self.align_dim_8to4 = nn.Linear(dims[0], dim, bias=False)
        self.split_8to4 = PatchSplit(dim, dim, norm_eps)
        self.block_8to4 = blocks(depth)
        self.fpn_modules = nn.ModuleList(MlpBlock(dim, MLP_RATIO, norm_eps=norm_eps) for _ in range(3))
        init_layers(self)

    def forward(self, f4: Tensor, f8: Tensor, x16: Tensor) -> PyramidUnits:
        """The pyramid of some units.

        Args:
            f4: ``(B, N, 4, 4, dims[0])``, the output of stage 1.
            f8: ``(B, N, 2, 2, dims[1])``, of stage 2.
            x16: ``(B, N, dims[2])``, of stage 3.
        """
        top = x16[:, :, None, None]
        t8 = self.block_16to8(self.split_16to8(top) + self.align_dim_16to8(f8))
        t4 = self.block_8to4(self.split_8to4(t8) + self.align_dim_8to4(f4))
        levels = (self.align_dim_16tofpn(top), t8, t4)
        return PyramidUnits(*(module(level) for module, level in zip(self.fpn_modules, levels)))


def units_to_map(units: Tensor, grid: tuple[int, int]) -> Tensor:
    """All units of a grid, ``(B, R C, s, s, d)``, as a map ``(B, d, R s, C s)``."""
    cells = units.unflatten(1, grid)  # (B, R, C, s, s, d)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3).contiguous()
