"""The losses of FGC: batch shaping against scipy's Beta, the coupling loss against the matrix products it cannot avoid.

    python benchmarks/fgc_losses.py [--gpu] [--repeat 15]

Batch shaping: all gates of a ResNet-20 (336) at batch 256, forward and backward, against what the authors' code does
for each block: scipy's distribution function and density on the host, a sort, and a loop over channels to undo it.
Coupling: B 256, N 50,000, C 64, k 200; search, loss, gradient and both bank updates, against the products of features
and gate logits with their banks alone. The sides alternate; ratios are of medians. Memory: one step with banks for all
of ImageNet, in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from common import parse_speed, ratio, speed_parser, write_speed
from scipy import stats
from timing import alternate, medians
from torch import Tensor

from fgc.coupling import FeatureGateCoupling
from fgc.shaping import ALPHA, BETA, batch_shaping_loss

WIDTHS = [16] * 3 + [32] * 3 + [64] * 3  # gates of the blocks of a ResNet-20
BATCH, SAMPLES, DIM, NEIGHBORS = 256, 50_000, 64, 200
IMAGENET = 1_281_167, 512  # images, and channels of the last blocks of ResNet-18 and 34
MEMORY_GB = 6.0


def scipy_round_trip(probs: Tensor) -> Tensor:
    """Gradient of one block's batch-shaping loss by its probabilities ``(B, C)``, on the host."""
    p = probs.detach().cpu().numpy()
    order = np.argsort(p, axis=0)
    ascending = np.take_along_axis(p, order, 0)
    target = (np.arange(1, len(p) + 1) / (len(p) + 1))[:, None]
    difference = target - stats.beta.cdf(ascending, ALPHA, BETA)
    slope = stats.beta.pdf(ascending, ALPHA, BETA)
    slope[np.isinf(slope)] = 0
    by_rank = -2 / len(p) * difference * slope
    gradient = np.empty_like(by_rank)
    for channel in range(p.shape[1]):
        gradient[order[:, channel], channel] = by_rank[:, channel]
    return torch.from_numpy(gradient.astype(np.float32)).to(probs.device)


def shaping_sides(device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Ours and scipy's, on the same logits, checked to give the same gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(BATCH, sum(WIDTHS), generator=generator)).to(device).requires_grad_()

    def ours() -> None:
        logits.grad = None
        batch_shaping_loss(logits).backward()

    def scipy() -> None:
        logits.grad = None
        probs = logits.sigmoid()
        for block in probs.split(WIDTHS, 1):
            block.backward(scipy_round_trip(block), retain_graph=True)

    ours()
    expected = logits.grad.clone() if logits.grad is not None else None
    scipy()
    torch.testing.assert_close(logits.grad, expected, rtol=1e-3, atol=1e-6)
    return ours, scipy


def coupling_sides(device: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Ours and the two matrix products, on unit rows and queries like those in training."""
    generator = torch.Generator().manual_seed(0)
    coupling = FeatureGateCoupling(SAMPLES, DIM, NEIGHBORS)
    centres = torch.randn(10, DIM, generator=generator)  # classes, so that neighbourhoods are not uniform
    rows = centres[torch.randint(10, (SAMPLES,), generator=generator)]
    for bank in (coupling.feature_bank, coupling.gate_bank):
        vectors = rows + torch.randn(SAMPLES, DIM, generator=generator)
        bank.memory.copy_(torch.nn.functional.normalize(vectors.relu() if bank is coupling.feature_bank else vectors))
    coupling.to(device)
    batches = torch.randperm(SAMPLES, generator=generator)[: BATCH * 8].view(8, BATCH).to(device)
    features = coupling.feature_bank.memory[batches] * 1.5
    logits = (coupling.gate_bank.memory[batches] * 3).requires_grad_()
    turn = 0

    def ours() -> None:
        nonlocal turn
        turn = (turn + 1) % len(batches)
        logits.grad = None
        coupling(features[turn], logits[turn], batches[turn], 21).backward()

    def products() -> None:
        with torch.no_grad():
            torch.mm(features[turn], coupling.feature_bank.memory.t())
            torch.mm(logits[turn], coupling.gate_bank.memory.t())

    return ours, products


def peak_memory(device: str) -> float:
    """Peak GB of a process that takes one step with the banks of ImageNet: its resident memory, or the GPU's."""
    coupling = FeatureGateCoupling(*IMAGENET, 1000, bank_dtype=torch.bfloat16).to(device)
    generator = torch.Generator().manual_seed(0)
    features, logits = (torch.randn(BATCH, IMAGENET[1], generator=generator).to(device) for _ in range(2))
    indices = torch.randperm(IMAGENET[0], generator=generator)[:BATCH].to(device)
    coupling(features.relu(), logits.requires_grad_(), indices, 21).backward()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_fgc_losses.json``."""
    parser = speed_parser(__doc__, repeat=15)
    parser.add_argument("--memory", action="store_true", help="print peak GB of a step with ImageNet's banks, no more")
    arguments = parse_speed(parser, argv)
    device = "cuda" if arguments.gpu else "cpu"
    if arguments.memory:
        print(peak_memory(device))
        return 0
    # a process of its own, so that nothing else is counted
    child = [sys.executable, __file__, "--memory", *(["--gpu"] if arguments.gpu else [])]
    peak = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    shaping = dict(zip(("batch shaping", "scipy"), shaping_sides(device)))
    seconds = alternate(shaping, arguments.repeat, warm_up=3)
    coupling = dict(zip(("coupling", "two products"), coupling_sides(device)))
    seconds |= alternate(coupling, arguments.repeat, warm_up=3)
    middle = medians(seconds)
    for name, value in middle.items():
        print(f"{name}: {1e3 * value:.2f} ms")
    gain, cost = middle["scipy"] / middle["batch shaping"], middle["coupling"] / middle["two products"]
    what = "peak memory of a step with two bfloat16 banks of 1,281,167 x 512"
    ratios = [
        ratio("batch-shaping loss", "scipy CDF and PDF", gain, 10.0, "min"),
        ratio("FGC loss (B 256, N 50,000, C 64)", "its two matrix products", cost, 1.5, "max"),
        ratio(what, f"{MEMORY_GB:g} GB", peak / MEMORY_GB, 1.0, "max"),
    ]
    content = {"ratios": ratios, "seconds": seconds, "threads": torch.get_num_threads()}
    write_speed("fgc_losses", content, arguments.gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
