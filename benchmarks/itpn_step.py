"""Pre-training steps of iTPN on pixels against a plain implementation of the same model with the same weights.

    python benchmarks/itpn_step.py          # CPU: iTPN-B at 224 with batch 8, and a small model
    python benchmarks/itpn_step.py --gpu    # also speed, utilisation and memory on a CUDA device, bfloat16

A step is forward, loss, backward and AdamW on a resident batch. The two sides are timed in turn, round by round, and
compared by the median of each round's ratio; before that their losses must agree to 1e-5. The plain implementation
below is what a reader of the paper would write: it embeds every unit and then picks the visible ones, materialises the
attention, puts mask tokens into each level of the pyramid and restores its order, decodes and predicts every unit, and
uses torch's default AdamW.
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
from timing import alternate, flops_of, gpu_speed, medians
from torch import Tensor, nn

from itpn.attention import MlpBlock
from itpn.features import iTPNFeatures
from itpn.hivit import HiViT
from itpn.neck import PyramidNeck
from itpn.pixel import MaskedPyramidAutoencoder
from itpn.pretraining import build_adamw
from itpn.sizes import itpn_backbone
from vireo.engine.optim import compile_blocks

SMALL = {"embed_dim": 256, "depths": (1, 1, 6), "num_heads": 4}


class PlainBlock(nn.Module):
    """Pre-norm block; attention, with its matrix written out, only where there are heads."""

    def __init__(self, dim: int, mlp_ratio: int, heads: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, mlp_ratio * dim), "fc2": nn.Linear(mlp_ratio * dim, dim)})
        if heads:
            self.norm1 = nn.LayerNorm(dim, eps=1e-6)
            self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        if self.heads:
            x = x + self.attention(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        shape = (batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = self.attn["qkv"](x).reshape(shape).permute(2, 0, 3, 1, 4)
        logits = (q * (dim // self.heads) ** -0.5) @ k.transpose(-2, -1)
        limit = torch.finfo(torch.float32)
        attention = logits.float().clamp(limit.min, limit.max).softmax(-1).to(v.dtype)
        return self.attn["proj"]((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))


class PlainMerge(nn.Module):
    """Four neighbours of a unit's inner grid to one token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim, eps=1e-6), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class PlainSplit(nn.Module):
    """One token to four."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 4 * out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, units, height, width, _ = x.shape
        x = self.reduction(self.norm(x)).reshape(batch, units, height, width, 2, 2, -1)
        return x.permute(0, 1, 2, 4, 3, 5, 6).reshape(batch, units, 2 * height, 2 * width, -1)


class PlainAutoencoder(nn.Module):
    """The pixel pre-training model of iTPN as the paper and its notes describe it, of the sizes of one of ours."""

    def __init__(self, ours: MaskedPyramidAutoencoder) -> None:
        super().__init__()
        backbone, neck = ours.backbone, ours.neck
        (fine, middle, dim), d, width = backbone.dims, neck.dim, ours.mask_token.shape[2]
        first, second, third = backbone.depths
        self.grid, self.patch_size, self.mask_ratio = backbone.grid_size[0], backbone.patch_size, ours.mask_ratio
        heads: Any = ours.decoder_blocks[0]
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, fine, self.patch_size // 4, self.patch_size // 4), "norm": nn.LayerNorm(fine, 1e-6)}
        )
        self.absolute_pos_embed = nn.Parameter(torch.empty(1, self.grid**2, dim))
        blocks: list[nn.Module] = [*(PlainBlock(fine, 3) for _ in range(first)), PlainMerge(fine)]
        blocks += [*(PlainBlock(middle, 3) for _ in range(second)), PlainMerge(middle)]
        blocks += [PlainBlock(dim, 4, backbone.num_heads) for _ in range(third)]
        self.blocks, self.depths = nn.ModuleList(blocks), backbone.depths
        self.align_dim_16tofpn = nn.Linear(dim, d) if dim != d else nn.Identity()
        self.align_dim_16to8, self.align_dim_8to4 = nn.Linear(middle, d, bias=False), nn.Linear(fine, d, bias=False)
        self.split_16to8, self.split_8to4 = PlainSplit(dim, d), PlainSplit(d, d)
        self.block_16to8 = nn.Sequential(*(PlainBlock(d, 4) for _ in range(neck.depth)))
        self.block_8to4 = nn.Sequential(*(PlainBlock(d, 4) for _ in range(neck.depth)))
        self.fpn_modules = nn.ModuleList(PlainBlock(d, 4) for _ in range(3))
        self.decoder_embed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(d, 1e-6), nn.Linear(d, width // side**2)) for side in (1, 2, 4)
        )
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, self.grid**2, width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(PlainBlock(width, 4, heads.attn.num_heads) for _ in ours.decoder_blocks)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, 3 * self.patch_size**2)
        state = ours.state_dict().items()
        self.load_state_dict({key.removeprefix("backbone.").removeprefix("neck."): value for key, value in state})

    def encode(self, images: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the three stages for the units ``kept``."""
        batch, side, count = len(images), self.grid, self.grid**2
        x = self.patch_embed["proj"](images).reshape(batch, -1, side, 4, side, 4)
        x = self.patch_embed["norm"](x.permute(0, 2, 4, 3, 5, 1).reshape(batch, count, 4, 4, -1))
        x = torch.gather(x, 1, kept[:, :, None, None, None].expand(-1, -1, *x.shape[2:]))
        outputs = []
        for block in self.blocks[: -self.depths[2]]:
            if isinstance(block, PlainMerge):
                outputs.append(x)
            x = block(x)
        table = self.absolute_pos_embed.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        table = F.interpolate(table, scale_factor=((side + 0.1) / side,) * 2, mode="bicubic")
        table = table.permute(0, 2, 3, 1).reshape(1, count, -1).expand(batch, -1, -1)
        x = x.squeeze(3).squeeze(2) + torch.gather(table, 1, kept[:, :, None].expand(-1, -1, table.shape[2]))
        for block in self.blocks[-self.depths[2] :]:
            x = block(x)
        return outputs[0], outputs[1], x[:, :, None, None]

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        batch, side, size, count = len(images), self.grid, self.patch_size, self.grid**2
        shuffled = noise.argsort(1)
        restore, visible = shuffled.argsort(1), int(count * (1 - self.mask_ratio))
        f4, f8, x16 = self.encode(images, shuffled[:, :visible])
        t8 = self.block_16to8(self.split_16to8(x16) + self.align_dim_16to8(f8))
        t4 = self.block_8to4(self.split_8to4(t8) + self.align_dim_8to4(f4))
        x: Tensor = self.decoder_pos_embed
        for module, embed, level in zip(self.fpn_modules, self.decoder_embed, (self.align_dim_16tofpn(x16), t8, t4)):
            tokens = embed(module(level)).reshape(batch, visible, -1)
            tokens = torch.cat((tokens, self.mask_token.expand(batch, count - visible, -1)), 1)
            x = x + torch.gather(tokens, 1, restore[:, :, None].expand(-1, -1, tokens.shape[2]))
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))
        target = images.reshape(batch, 3, side, size, side, size).permute(0, 2, 4, 3, 5, 1).reshape(batch, count, -1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        removed = (restore >= visible).float()
        return ((prediction - target).square().mean(-1) * removed).sum() / removed.sum()


class _Optim:
    lr, betas, weight_decay = 1.5e-4, (0.9, 0.95), 0.05


def our_model(name: str, decoder: tuple[int, int, int] = (512, 8, 16), **options: Any) -> MaskedPyramidAutoencoder:
    """A model of this package with the decoder ``(channels, blocks, heads)``."""
    backbone = itpn_backbone(name, **options)
    assert isinstance(backbone, HiViT)
    return MaskedPyramidAutoencoder(backbone, PyramidNeck(backbone.dims, depth=2), *decoder)


def our_step(
    model: MaskedPyramidAutoencoder, images: Tensor, noise: Tensor, precision: torch.dtype | None = None
) -> Callable[[], None]:
    """A training step of this package."""
    optimizer = build_adamw(model, _Optim, len(images), "pixel")

    def step() -> None:
        with torch.autocast(images.device.type, precision, enabled=precision is not None):
            loss = model(images, noise).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_step(model: PlainAutoencoder, images: Tensor, noise: Tensor) -> Callable[[], None]:
    """A training step of the plain implementation."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=_Optim.lr, betas=_Optim.betas, weight_decay=_Optim.weight_decay)

    def step() -> None:
        loss = model(images, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(model: MaskedPyramidAutoencoder, batch: int, side: int, rounds: int) -> dict[str, Any]:
    """Both sides on one batch, which start from the same weights and lose the same."""
    images, noise = torch.randn(batch, 3, side, side), torch.rand(batch, model.num_units)
    plain = PlainAutoencoder(model)
    with torch.no_grad():
        losses = model(images, noise).loss.item(), plain(images, noise).item()
    assert abs(losses[0] - losses[1]) <= 1e-5 * losses[1], f"the two lose {losses[0]} and {losses[1]}"
    steps = {"ours": our_step(model, images, noise), "plain": plain_step(plain, images, noise)}
    times = alternate(steps, rounds)
    return {
        "ratio": round(median(a / b for a, b in zip(times["plain"], times["ours"])), 4),
        "losses": losses,
        "batch": batch,
        "seconds": {name: round(value, 4) for name, value in medians(times).items()},
    }


def measure_cpu(batch: int, rounds: int) -> dict[str, Any]:
    """iTPN-B at 224, and a small model at 64."""
    torch.manual_seed(0)
    base = compare(our_model("itpn_base"), batch, 224, rounds)
    small_model = our_model("itpn_base", (256, 2, 8), img_size=64, patch_size=8, **SMALL)
    small = compare(small_model, 4 * batch, 64, rounds)
    return {
        "ratios": [
            ratio("pre-training step, iTPN-B at 224", "plain implementation", base["ratio"], 1.5, "min"),
            ratio("pre-training step, small model at 64", "plain implementation", small["ratio"], 1.5, "min"),
        ],
        "threads": torch.get_num_threads(),
        "runs": {"itpn_base": base, "small": small},
    }


def measure_gpu(batch: int, rounds: int) -> dict[str, Any]:
    """iTPN-B in bfloat16 with compiled blocks: classification, pre-training, and features of a detector's images."""
    torch.set_float32_matmul_precision("high")
    found: dict[str, Any] = {}

    @torch.no_grad()
    def infer(network: nn.Module, images: Tensor) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return network(images)

    for side in (224, 384):
        classifier = itpn_backbone("itpn_base", img_size=side, num_classes=1000, rel_pos="bias").cuda().eval()
        images = torch.randn(batch, 3, side, side, device="cuda")
        run = partial(infer, classifier, images)
        flops = flops_of(partial(infer, classifier, images[:8])) * batch / 8
        compile_blocks(classifier, MlpBlock)
        found[f"classification at {side}"] = gpu_speed(run, len(images), flops, rounds)

    backbone = itpn_backbone("itpn_base", img_size=224)
    assert isinstance(backbone, HiViT)
    features = iTPNFeatures(backbone, PyramidNeck(backbone.dims)).cuda().eval()
    images = torch.randn(4, 3, 800, 1280, device="cuda")
    run = partial(infer, features, images)
    flops = flops_of(run)
    compile_blocks(features, MlpBlock)
    found["detection features at 800x1280"] = gpu_speed(run, len(images), flops, rounds)

    model = our_model("itpn_base").cuda()
    images, noise = torch.randn(batch, 3, 224, 224, device="cuda"), torch.rand(batch, model.num_units, device="cuda")
    flops = flops_of(lambda: model(images[:8], noise[:8]).loss.backward()) * batch / 8
    compile_blocks(model, MlpBlock)
    found["pre-training"] = gpu_speed(our_step(model, images, noise, torch.bfloat16), len(images), flops, rounds)
    shares = {name: ("989 TFLOP/s", values["utilisation"], 0.3, "min") for name, values in found.items()}
    return {
        "ratios": [ratio(f"utilisation, {name}", *share) for name, share in shares.items()],
        "batch": batch,
        "runs": found,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``results/speed_itpn_step.json``, with ``--gpu`` also ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, batch=8, rounds=10), argv)
    if arguments.gpu:
        write_speed("itpn_step", measure_gpu(256, 20), gpu=True)
    write_speed("itpn_step", measure_cpu(arguments.batch, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
