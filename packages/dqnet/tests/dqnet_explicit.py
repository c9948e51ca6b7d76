"""The query as its definition reads (section 3.3 of the notes): padded maps, every logit and bias formed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dqnet import RelationBasedQuery


def attend(query: RelationBasedQuery, query_map: Tensor, detail_map: Tensor) -> Tensor:
    """The answer ``(B, D, h, w)`` with the parameters of ``query``."""
    (batch, dim, height, width), s, heads = query_map.shape, query.window, query.heads
    down, right = -height % s, -width % s
    rows, columns = (height + down) // s, (width + right) // s

    def windows(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, right, 0, down)).view(batch, -1, rows, s, columns, s)
        return padded.permute(0, 2, 4, 3, 5, 1).reshape(batch * rows * columns, s * s, -1)

    split = (-1, s * s, heads, dim // heads)
    q = query.q(windows(query_map)).view(split).transpose(1, 2) * (dim // heads) ** -0.5
    k, v = (part.reshape(split).transpose(1, 2) for part in query.kv(windows(detail_map)).chunk(2, -1))
    side = torch.arange(s, device=q.device)
    offsets = side[:, None] - side + s - 1
    grid = q.unflatten(2, (s, s))
    by_row = torch.einsum("nhyxc,yjc->nhyxj", grid, query.rel_pos_h[offsets])
    by_column = torch.einsum("nhyxc,xjc->nhyxj", grid, query.rel_pos_w[offsets])
    logits = (q @ k.mT).view(-1, heads, s, s, s, s) + by_row[..., :, None] + by_column[..., None, :]
    if query.mask_padding:
        real = windows(torch.ones_like(detail_map[:, :1])).view(-1, 1, 1, 1, s, s)
        logits = logits.masked_fill(real == 0, float("-inf"))
    answers = logits.view(-1, heads, s * s, s * s).softmax(-1) @ v
    answers = query.proj(answers.transpose(1, 2).reshape(-1, s * s, dim))
    merged = answers.view(batch, rows, columns, s, s, dim).permute(0, 5, 1, 3, 2, 4)
    return merged.reshape(batch, dim, rows * s, columns * s)[..., :height, :width]


def fuse(query: RelationBasedQuery, query_map: Tensor, detail_map: Tensor) -> Tensor:
    """The answer, fused with both maps."""
    answer = attend(query, query_map, detail_map)
    return answer + query_map + detail_map if query.fusion == "sum" else answer * query_map + detail_map
