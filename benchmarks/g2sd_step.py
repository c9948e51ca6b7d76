"""Steps of generic distillation, MAE ViT-B to ViT-S and ViT-Ti, against a plain implementation with the same weights.

    python benchmarks/g2sd_step.py          # CPU: batch 8 at 224, and the teacher's share of the step
    python benchmarks/g2sd_step.py --gpu    # also speed, utilisation and memory on a CUDA device, bfloat16

A step is the teacher's targets, forward, loss, backward and AdamW on a resident batch. The two sides are timed in turn,
round by round, and compared by the median of each round's ratio; before that their losses must agree to 1e-5. The plain
implementation below is what a reader of the paper would write: both networks embed every patch and then drop three
quarters of them, attention is written out with its softmax in float32, the teacher runs all of its decoder and its
pixel head, of which the target needs half, and AdamW is torch's default. ``plain, needed blocks`` is the same with the
teacher stopped behind the target block.

On a GPU blocks are compiled. ``generic`` is the step above at batch 256, ``specific`` that of a distilled classifier,
ViT-S with the hard labels of a ViT-B, at batch 128.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate, flops_of, gpu_speed, medians
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from g2sd.classifier import Classifier, DistilledVisionTransformer
from g2sd.generic import GenericStudent
from g2sd.layouts import to_authors
from g2sd.losses import hard_distillation_loss
from g2sd.mae import MaskedAutoencoder, random_mask, visible_patches
from g2sd.pretraining import build_adamw, compile_transformer
from g2sd.sizes import ENCODERS, mae_model, model_options
from g2sd.teacher import FrozenTeacher, MAETeacher
from vireo.engine.optim import compile_blocks

MASK_RATIO = 0.75
CPU_TEACHER: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 5, "num_heads": 4}
CPU_TEACHER |= {"decoder_dim": 64, "decoder_depth": 3, "decoder_heads": 4}
CPU_STUDENT: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3}
CPU_STUDENT |= {"decoder_dim": 48, "decoder_depth": 2, "decoder_heads": 3}
Step = Callable[[], object]


class PlainBlock(nn.Module):
    """Pre-norm block with its attention written out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        shape = (batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = self.attn["qkv"](x).reshape(shape).permute(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(-2, -1)) * (dim // self.heads) ** -0.5
        limit = torch.finfo(torch.float32)
        attention = logits.float().clamp(limit.min, limit.max).softmax(-1).to(v.dtype)
        return self.attn["proj"]((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))


class PlainAutoencoder(nn.Module):
    """Encoder and decoder as the paper and its notes describe them, under the authors' names, of the sizes of ours."""

    def __init__(self, ours: MaskedAutoencoder | GenericStudent) -> None:
        super().__init__()
        encoder, decoder = ours.encoder, ours.decoder
        assert decoder is not None
        dim, width, patch = encoder.embed_dim, decoder.pos_embed.shape[2], encoder.patch_embed.patch_size[0]
        (block, *_), (decoder_block, *_) = cast("list[Any]", encoder.blocks), cast("list[Any]", decoder.blocks)
        heads, decoder_heads = block.attn.num_heads, decoder_block.attn.num_heads
        count = encoder.grid_size[0] * encoder.grid_size[1]
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + count, dim), requires_grad=False)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.blocks = nn.ModuleList(PlainBlock(dim, heads) for _ in encoder.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.empty(1, 1 + count, width), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(PlainBlock(width, decoder_heads) for _ in decoder.blocks)
        if isinstance(ours, GenericStudent):
            target = cast("Any", ours.decoder_head).fc2.out_features
            parts = {"fc1": nn.Linear(width, target), "act": nn.GELU(), "fc2": nn.Linear(target, target)}
            self.decoderfeature_pred = nn.Sequential()
            for name, part in parts.items():
                self.decoderfeature_pred.add_module(name, part)
        else:
            self.decoder_norm, self.decoder_pred = nn.LayerNorm(width, 1e-6), nn.Linear(width, 3 * patch**2)
        self.load_state_dict(to_authors(ours.state_dict(), "ours"))

    def hidden(self, images: Tensor, noise: Tensor) -> list[Tensor]:
        """The decoder's residual stream behind each of its blocks."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        batch, count, dim = x.shape
        shuffled = noise.argsort(1)
        restore, visible = shuffled.argsort(1), int(count * (1 - MASK_RATIO))
        x = torch.gather(x, 1, shuffled[:, :visible, None].expand(-1, -1, dim))
        x = torch.cat(((self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1), x), 1)
        for block in self.blocks:
            x = block(x)
        x = self.decoder_embed(self.norm(x))
        patches = torch.cat((x[:, 1:], self.mask_token.expand(batch, count - visible, -1)), 1)
        patches = torch.gather(patches, 1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat((x[:, :1], patches), 1) + self.decoder_pos_embed
        outputs = []
        for block in self.decoder_blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, images: Tensor, noise: Tensor) -> list[Tensor]:
        """The same, and as a teacher also the pixels, which nobody asked for."""
        outputs = self.hidden(images, noise)
        if hasattr(self, "decoder_pred"):
            outputs.append(self.decoder_pred(self.decoder_norm(outputs[-1])))
        return outputs


def plain_loss(
    teacher: PlainAutoencoder, student: PlainAutoencoder, images: Tensor, noise: Tensor, target_block: int = 4
) -> Tensor:
    """The loss of generic distillation."""
    with torch.no_grad():
        target = teacher(images, noise)[target_block - 1]
        target = F.layer_norm(target, target.shape[-1:], eps=1e-6)
    prediction = student.decoderfeature_pred(student(images, noise)[-1])
    return F.smooth_l1_loss(prediction, target, beta=2.0)


class _Optim:
    lr, betas, weight_decay = 1.5e-4, (0.9, 0.95), 0.05


def our_loss(teacher: FrozenTeacher, student: GenericStudent, images: Tensor, noise: Tensor) -> Tensor:
    """The same loss of this package."""
    mask = random_mask(student.encoder, len(images), noise, MASK_RATIO)
    patches = visible_patches(student.encoder, images, mask)
    loss: Tensor = student(patches, mask, teacher(patches, mask)).loss
    return loss


def step_of(
    loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer, precision: torch.dtype | None = None
) -> Step:
    """A training step."""
    device = optimizer.param_groups[0]["params"][0].device.type

    def step() -> None:
        with torch.autocast(device, precision, enabled=precision is not None):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(
    whole: MaskedAutoencoder, student: GenericStudent, batch: int, rounds: int, target_block: int = 4
) -> dict[str, Any]:
    """All sides on one batch, which start from the same weights and lose the same."""
    side = whole.encoder.patch_embed.img_size[0]
    images, noise = torch.randn(batch, 3, side, side), torch.rand(batch, whole.num_patches)
    teacher = FrozenTeacher(MAETeacher.of(whole, target_block), "32")
    plain_teacher, needed, plain_student = PlainAutoencoder(whole), PlainAutoencoder(whole), PlainAutoencoder(student)
    needed.decoder_blocks = needed.decoder_blocks[:target_block]
    del needed.decoder_pred
    ours = partial(our_loss, teacher, student, images, noise)
    plain, stopped = (
        partial(plain_loss, one, plain_student, images, noise, target_block) for one in (plain_teacher, needed)
    )
    with torch.no_grad():
        losses = [loss().item() for loss in (ours, plain, stopped)]
    assert max(losses) - min(losses) <= 1e-5 * losses[0], f"they lose {losses}"

    trained = [parameter for parameter in plain_student.parameters() if parameter.requires_grad]
    plain_adamw = torch.optim.AdamW(trained, lr=_Optim.lr, betas=_Optim.betas, weight_decay=_Optim.weight_decay)
    mask = random_mask(student.encoder, batch, noise, MASK_RATIO)
    patches = visible_patches(student.encoder, images, mask)
    times = alternate(
        {
            "ours": step_of(ours, build_adamw(student, _Optim, batch)),
            "plain": step_of(plain, plain_adamw),
            "plain, needed blocks": step_of(stopped, plain_adamw),
            "our teacher alone": lambda: teacher(patches, mask),
        },
        rounds,
    )
    quotients = {name: median(a / b for a, b in zip(times[name], times["ours"])) for name in times}
    return {
        "ratio": round(quotients["plain"], 4),
        "ratio to plain, needed blocks": round(quotients["plain, needed blocks"], 4),
        "teacher_share": round(quotients["our teacher alone"], 4),
        "losses": losses,
        "batch": batch,
        "seconds": {key: round(value, 4) for key, value in medians(times).items()},
    }


def measure_cpu(batch: int, rounds: int) -> dict[str, Any]:
    """MAE ViT-B to both of the paper's students at 224, and the small networks of 64 patches that suit a CPU."""
    torch.manual_seed(0)
    whole = mae_model("mae_vit_base_patch16")
    runs = {
        name: compare(whole, GenericStudent(**model_options(f"mae_vit_{name}_patch16")), batch, rounds)
        for name in ("small", "tiny")
    }
    teacher, student = MaskedAutoencoder(**CPU_TEACHER), GenericStudent(**CPU_STUDENT, teacher_dim=64)
    runs["demo"] = compare(teacher, student, 16 * batch, 2 * rounds, 2)
    words = {"small": "ViT-B to ViT-S", "tiny": "ViT-B to ViT-Ti", "demo": "small networks, 64 patches"}
    rows = [
        ratio(f"generic distillation, {words[name]}", "plain implementation", run["ratio"], 1.5, "min")
        for name, run in runs.items()
    ]
    share = ratio("the teacher's share, ViT-B to ViT-S", "the whole step", runs["small"]["teacher_share"], 0.6, "max")
    return {"ratios": [*rows, share], "threads": torch.get_num_threads(), "runs": runs}


def measure_gpu(rounds: int) -> dict[str, Any]:
    """Both stages in bfloat16 with compiled blocks, and the plain implementation of the first."""
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    whole = mae_model("mae_vit_base_patch16").cuda()
    student = GenericStudent(**model_options("mae_vit_small_patch16")).cuda()
    images, noise = torch.randn(256, 3, 224, 224, device="cuda"), torch.rand(256, 196, device="cuda")
    plain = partial(plain_loss, PlainAutoencoder(whole).cuda(), PlainAutoencoder(student).cuda(), images, noise)
    teacher = FrozenTeacher(MAETeacher.of(whole))
    flops = flops_of(lambda: our_loss(teacher, student, images[:8], noise[:8]).backward()) * 32
    trained = [value for value in plain.args[1].parameters() if value.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=_Optim.lr, betas=_Optim.betas, weight_decay=_Optim.weight_decay)
    found["generic, plain"] = gpu_speed(step_of(plain, adamw, torch.bfloat16), 256, flops, rounds)
    del plain, trained, adamw
    compile_transformer(student, teacher.network)
    ours = step_of(
        partial(our_loss, teacher, student, images, noise), build_adamw(student, _Optim, 256), torch.bfloat16
    )
    found["generic"] = gpu_speed(ours, 256, flops, rounds)
    mask = random_mask(student.encoder, 256, noise, MASK_RATIO)
    patches = visible_patches(student.encoder, images, mask)
    alone = partial(teacher, patches, mask)
    found["generic, teacher alone"] = gpu_speed(
        alone, 256, flops_of(partial(teacher, patches[:8], _head(mask))) * 32, rounds
    )

    small = DistilledVisionTransformer(**ENCODERS["vit_small"]).cuda()
    base = FrozenTeacher(Classifier(**ENCODERS["vit_base"], readout="mean").cuda())
    images, labels = images[:128], torch.randint(1000, (128,), device="cuda")

    def specific(pictures: Tensor, numbers: Tensor) -> Tensor:
        cls_logits, dist_logits = small(pictures)
        return hard_distillation_loss(cls_logits.float(), dist_logits.float(), numbers, base(pictures))

    flops = flops_of(lambda: specific(images[:8], labels[:8]).backward()) * 16
    compile_blocks(small, Block)
    compile_blocks(base, Block)
    step = step_of(partial(specific, images, labels), build_adamw(small, _Optim, 128), torch.bfloat16)
    found["specific"] = gpu_speed(step, 128, flops, rounds)
    speed = found["generic"]["images_per_s"] / found["generic, plain"]["images_per_s"]
    share = found["generic, teacher alone"]["ms"] / found["generic"]["ms"]
    return {
        "ratios": [
            ratio("generic distillation, bf16", "plain implementation", round(speed, 4), 1.5, "min"),
            ratio("the teacher's share of the step, bf16", "the whole step", round(share, 4), 0.6, "max"),
            ratio("utilisation, generic", "989 TFLOP/s", found["generic"]["utilisation"], 0.3, "min"),
            ratio("utilisation, specific", "989 TFLOP/s", found["specific"]["utilisation"], 0.3, "min"),
        ],
        "runs": found,
    }


def _head(mask: Any) -> Any:
    """The masks of the first eight images."""
    return type(mask)(*(part[:8] for part in mask))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``results/speed_g2sd_step.json``, with ``--gpu`` also ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, batch=8, rounds=6), argv)
    if arguments.gpu:
        write_speed("g2sd_step", measure_gpu(20), gpu=True)
    write_speed("g2sd_step", measure_cpu(arguments.batch, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
