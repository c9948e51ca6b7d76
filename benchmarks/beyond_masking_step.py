"""Training steps of Beyond Masking: the integrated task against mask only, both against a plain MAE, and degradations.

    python benchmarks/beyond_masking_step.py          # CPU: ViT-B/16 at 224, batch 8
    python benchmarks/beyond_masking_step.py --gpu    # also ViT-B/16, batch 256, bfloat16, on a CUDA device

A step is forward, loss, backward and AdamW on a resident batch. The alternatives are timed in turn, round by round, and
compared by the median of each round's ratio. The plain MAE below is what a reader of the paper would write: it embeds
every patch, materialises the attention, predicts every patch, and uses torch's default AdamW.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import parse_speed, ratio, speed_parser, write_speed
from timing import H100_BF16, alternate, medians
from torch import Tensor, nn

from beyond_masking import TokenPretrainModel, build_degradation, pretrain_vit_base
from beyond_masking.build import build_adamw, compile_blocks
from beyond_masking.draws import GeneratorDraws
from vireo.backbones.positions import sinusoid_table

MASK_RATIO = 0.75
TASKS = ("zoomed_in", "zoomed_out", "distorted", "blurred", "decolorized")


class PlainAttention(nn.Module):
    """Attention with its matrix written out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))


class PlainBlock(nn.Module):
    """Pre-norm block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainMAE(nn.Module):
    """Masked autoencoder as the paper describes it, of the sizes of a :class:`TokenPretrainModel`."""

    places: Tensor
    decoder_places: Tensor

    def __init__(self, ours: TokenPretrainModel) -> None:
        super().__init__()
        encoder, decoder = ours.encoder, ours.decoder
        p, dim, narrow = ours.target.patch_size, encoder.embed_dim, decoder.embed.out_features
        attentions: list[Any] = [blocks[0].attn for blocks in (encoder.blocks, decoder.blocks)]
        heads = [attention.num_heads for attention in attentions]
        self.patch_size, self.num_patches = p, ours.num_patches
        self.kept = int(self.num_patches * (1 - MASK_RATIO))
        self.patch_embed = nn.Conv2d(3, dim, p, p)
        self.encoder = nn.Sequential(*(PlainBlock(dim, heads[0]) for _ in encoder.blocks), nn.LayerNorm(dim, eps=1e-6))
        self.embed = nn.Linear(dim, narrow)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.decoder = nn.Sequential(
            *(PlainBlock(narrow, heads[1]) for _ in decoder.blocks), nn.LayerNorm(narrow, eps=1e-6)
        )
        self.head = nn.Linear(narrow, 3 * p * p)
        self.register_buffer("places", sinusoid_table(self.num_patches, dim)[None])
        self.register_buffer("decoder_places", sinusoid_table(self.num_patches, narrow)[None])

    def forward(self, images: Tensor) -> Tensor:
        batch, p = len(images), self.patch_size
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.places
        shuffled = torch.rand(batch, self.num_patches, device=x.device).argsort(1)
        restore = shuffled.argsort(1)
        kept = shuffled[:, : self.kept]
        x = self.encoder(torch.gather(x, 1, kept[:, :, None].expand(-1, -1, x.shape[2])))
        x = self.embed(x)
        x = torch.cat((x, self.mask_token.expand(batch, self.num_patches - self.kept, -1)), 1)
        x = torch.gather(x, 1, restore[:, :, None].expand(-1, -1, x.shape[2])) + self.decoder_places
        prediction = self.head(self.decoder(x))
        side = images.shape[2] // p
        target = images.reshape(batch, 3, side, p, side, p).permute(0, 2, 4, 3, 5, 1).reshape(batch, side * side, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        per_patch = F.mse_loss(prediction, target, reduction="none").mean(-1)
        removed = (restore >= self.kept).float()
        return (per_patch * removed).sum() / removed.sum()


class _Optim:
    lr, betas, weight_decay = 1.5e-4, (0.9, 0.95), 0.05


def our_step(model: TokenPretrainModel, images: Tensor, precision: torch.dtype | None = None) -> Callable[[], None]:
    """A training step of this package."""
    optimizer = build_adamw(model, _Optim, len(images))

    def step() -> None:
        with torch.autocast(images.device.type, precision, enabled=precision is not None):
            loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_step(model: PlainMAE, images: Tensor) -> Callable[[], None]:
    """A training step of the plain MAE."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=_Optim.lr, betas=_Optim.betas, weight_decay=0.05)

    def step() -> None:
        loss = model(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def by_round(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median over the rounds of ``over`` divided by ``under``."""
    return round(median(a / b for a, b in zip(times[over], times[under])), 4)


def measure_cpu(batch: int, rounds: int) -> dict[str, Any]:
    """Both comparisons of steps, and the share of each degradation, for ViT-B/16 at 224."""
    torch.manual_seed(0)
    mask_only, integrated = pretrain_vit_base("none", MASK_RATIO), pretrain_vit_base("zoomed_in", MASK_RATIO)
    compiled = pretrain_vit_base("none", MASK_RATIO)
    compile_blocks(compiled)
    small, full = torch.randn(batch, 3, 224, 224), torch.randn(batch, 3, 288, 288)
    steps: dict[str, Callable[[], object]] = {
        "mask only": our_step(mask_only, small),
        "integrated": our_step(integrated, full),
        "mask only, compiled": our_step(compiled, small),
        "plain MAE": plain_step(PlainMAE(mask_only), small),
    }
    for task in TASKS:
        degradation = build_degradation(task)
        images = torch.randn(batch, 3, degradation.crop_size, degradation.crop_size)
        steps[task] = partial(degradation, images, draws=GeneratorDraws(batch))
    times = alternate(steps, rounds)
    shares = {task: by_round(times, task, "mask only") for task in TASKS}
    worst = max(shares, key=lambda task: shares[task])
    return {
        "ratios": [
            ratio(
                "integrated step", "mask-only step, ViT-B/16", by_round(times, "integrated", "mask only"), 1.08, "max"
            ),
            ratio("mask-only step", "plain MAE, ViT-B/16", by_round(times, "plain MAE", "mask only"), 1.3, "min"),
            ratio(
                "... with compile=true", "plain MAE", by_round(times, "plain MAE", "mask only, compiled"), 1.3, "min"
            ),
            ratio(f"costliest degradation ({worst})", "mask-only step, ViT-B/16", shares[worst], 0.03, "max"),
        ],
        "batch": batch,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 4) for name, value in medians(times).items()},
        "degradation_shares": shares,
    }


def measure_gpu(batch: int, rounds: int) -> dict[str, Any]:
    """Images a second, utilisation and memory of ViT-B/16 in bfloat16, compiled blocks."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_float32_matmul_precision("high")
    found: dict[str, Any] = {}
    for name, task in (("mask only", "none"), ("integrated", "zoomed_in")):
        model = pretrain_vit_base(task, MASK_RATIO).cuda()
        images = torch.randn(batch, 3, model.crop_size, model.crop_size, device="cuda")
        with FlopCounterMode(display=False) as counter:
            model(images[:8]).loss.backward()
        flops = counter.get_total_flops() / 8
        compile_blocks(model)
        step = our_step(model, images, torch.bfloat16)
        alternate({name: step}, 5)
        torch.cuda.reset_peak_memory_stats()
        seconds = median(alternate({name: step}, rounds)[name])
        found[name] = {
            "images_per_s": round(batch / seconds, 1),
            "gflop_per_image": round(flops / 1e9, 2),
            "utilisation": round(flops * batch / seconds / H100_BF16, 4),
            "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "seconds": seconds,
        }
        del model, step
    cost = round(found["integrated"]["seconds"] / found["mask only"]["seconds"], 4)
    return {
        "ratios": [
            ratio("integrated step on a GPU", "mask-only step, ViT-B/16", cost, 1.08, "max"),
            ratio("utilisation, ViT-B/16, mask only", "989 TFLOP/s", found["mask only"]["utilisation"], 0.45, "min"),
        ],
        "batch": batch,
        "runs": found,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``results/speed_beyond_masking_step.json``, with ``--gpu`` also ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, batch=8, rounds=10), argv)
    if arguments.gpu:
        write_speed("beyond_masking_step", measure_gpu(256, 20), gpu=True)
    write_speed("beyond_masking_step", measure_cpu(arguments.batch, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
