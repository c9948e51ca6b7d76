"""The image tower of CLIP (Radford et al., 2021), frozen, as the teacher of feature pre-training (section 3.5).

Weights come from a file of the user's: a state dict of OpenAI's or open_clip's, whole or of the image tower alone, or
one in the layout of Hugging Face. OpenAI's own downloads are TorchScript archives, which hold code; they are refused.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.errors import InputError

from .positions import resample_positions

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_DIM = 64  # of every CLIP tower with a published checkpoint
TeacherInput = Literal["official", "clip"]
Activation = Literal["quick_gelu", "gelu"]

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_HF_NAMES = (
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),  # so it is written
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"transformer.resblocks.\1.ln_\2."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
)


class _Attention(nn.Module):
    """Self-attention with the parameters of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.heads, -1)).unbind(2)
        attended = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class _Mlp(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, width: int, quick: bool) -> None:
        super().__init__()
        self.quick = quick
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        out: Tensor = self.c_proj(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))
        return out


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, quick: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _Attention(width, width // HEAD_DIM)
        self.mlp = _Mlp(width, quick)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class CLIPTeacher(nn.Module):
    """Targets of feature pre-training: the projected patch tokens of a CLIP image tower, normalised.

    Always in evaluation mode and without gradient; its sizes are read off the weights. Not part of a student: a student
    only sees what it returns.

    Args:
        weights: state dict, or file of one, see :func:`tower_state`.
        input: ``official`` passes images in [0, 1] through a scaler made for [-1, 1], as the released models were
            trained: the tower sees values in [0.5, 1]. ``clip`` gives it what CLIP was trained with.
        activation: ``quick_gelu`` of OpenAI's weights, or ``gelu`` of most of open_clip's.
        dtype: of weights and arithmetic, e.g. ``torch.bfloat16``; targets are float32 all the same.

    Attributes:
        dim: D, values of a target.
        patch_size: pixels of a patch's side: N targets want images of that many patches.

    Raises:
        InputError: an unknown option, or weights that are missing or none of such a tower.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor] | str | os.PathLike[str],
        *,
        input: TeacherInput = "official",  # the specification's name
        activation: Activation = "quick_gelu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if input not in ("official", "clip"):
            raise InputError(f"unknown input {input!r}", "teacher.input", "use official or clip")
        if activation not in ("quick_gelu", "gelu"):
            raise InputError(f"unknown activation {activation!r}", "teacher.activation", "use quick_gelu or gelu")
        where = "weights" if isinstance(weights, Mapping) else str(weights)
        state = tower_state(weights if isinstance(weights, Mapping) else read_tower(weights), where)
        self.input, self.dtype = input, dtype
        width, self.dim = state["proj"].shape
        self.patch_size = state["conv1.weight"].shape[-1]
        depth = 1 + max(int(found[1]) for key in state if (found := _BLOCK.match(key)))
        self.conv1 = nn.Conv2d(3, width, self.patch_size, self.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(state["positional_embedding"].shape))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = nn.Sequential(*(_Block(width, activation == "quick_gelu") for _ in range(depth)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.proj = nn.Parameter(torch.empty(width, self.dim))
        fit_state_dict(self, state, where)
        self.requires_grad_(False)
        self.eval().to(dtype)

    def train(self, mode: bool = True) -> CLIPTeacher:
        """Stays in evaluation mode."""
        return super().train(False)

    def preprocess(self, images: Tensor) -> Tensor:
        """What the tower is given for images in [0, 1], ``(B, 3, H, W)``."""
        if self.input == "official":
            images = ((images + 1) * 127.5).clamp(0, 255) / 255
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return (images - mean) / std

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Targets of a batch.

        Args:
            images: float ``(B, 3, H, W)`` in [0, 1]; positions are resized where they are not of the tower's size.

        Returns:
            float32 ``(B, N, D)``, patches in row-major order, each of mean 0 and variance 1.

        Raises:
            InputError: sides that are not multiples of the patch size.
        """
        if images.shape[-2] % self.patch_size or images.shape[-1] % self.patch_size:
            what = f"images of {images.shape[-2]}x{images.shape[-1]} are not divided by patches of {self.patch_size}"
            raise InputError(what, "images of the teacher", "use multiples of the patch size")
        with torch.autocast(images.device.type, enabled=False):
            patches = self.conv1(self.preprocess(images.float()).to(self.dtype))
            grid = (patches.shape[-2], patches.shape[-1])
            x = patches.flatten(2).mT
            x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), 1) + self._positions(grid)
            x = self.transformer["resblocks"](self.ln_pre(x))
            x = self.ln_post(x[:, 1:]) @ self.proj
            return F.layer_norm(x.float(), (self.dim,))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """``(1 + N, width)`` for a grid; the published resampling goes by scale factors, see :mod:`.positions`."""
        table = self.positional_embedding
        side = round((len(table) - 1) ** 0.5)
        if grid == (side, side):
            return table
        patches = resample_positions(table[None, 1:].float(), (side, side), grid, "official")
        return torch.cat((table[:1], patches[0].to(table.dtype)))


def read_tower(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a file of CLIP weights.

    Raises:
        InputError: no such file, no state dict in it, or a TorchScript archive.
    """
    if Path(path).is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if any(name.endswith("/constants.pkl") for name in file.namelist()):
                remedy = "save its state_dict() where you trust its origin, or use model.safetensors from Hugging Face"
                raise InputError("is a TorchScript archive, which holds code", str(path), remedy)
    return state_dict_in(read(path), str(path))


def tower_state(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The image tower in a CLIP state dict, under OpenAI's names without ``visual.``.

    Args:
        state: of the whole of CLIP (keys of the image tower begin with ``visual.`` or ``vision_model.``; the text
            tower is left out), or of the image tower alone.
        where: of the message.

    Raises:
        InputError: no such tower in it.
    """
    tower = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    if not tower and any(key.startswith("vision_model.") for key in state):
        tower = _from_hugging_face(state)
    tower = tower or dict(state)
    absent = [name for name in ("conv1.weight", "positional_embedding", "ln_post.weight", "proj") if name not in tower]
    if absent or not any(map(_BLOCK.match, tower)):
        what = f"holds no image tower of CLIP, a vision transformer (it has no {', '.join(absent) or 'blocks'})"
        raise InputError(what, where, "give the weights of CLIP ViT-B/16 or ViT-L/14")
    return {key: value.float() for key, value in tower.items()}


def _from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tower: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "visual_projection.weight":
            tower["proj"] = value.T
        if not key.startswith("vision_model.") or key.endswith("position_ids"):
            continue
        key = key.removeprefix("vision_model.")
        if found := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)$", key):
            parts = [state["vision_model." + key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            tower[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = torch.cat(parts)
        for pattern, name in _HF_NAMES:
            if re.search(pattern, key):
                tower[re.sub(pattern, name, key)] = value
    return tower
