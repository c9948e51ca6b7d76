"""What every benchmark shares: its command line, and the record of where and how a number was measured."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def hardware() -> str:
    """Processor, usable cores, GPU if there is one, versions of torch and python; nothing that names the host."""
    import torch  # here, so that --help does not wait for it

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = " ".join(names[0].split()) if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [model, f"{cores} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}", f"python {platform.python_version()}"])


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Commit, whether its Python sources were changed since, hardware, command, seed and date (UTC)."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "changed_since_commit": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "*.py")),
        "hardware": hardware(),
        "command": " ".join(["python", shown, *sys.argv[1:]]),
        "seed": seed,
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_result(name: str, content: dict[str, Any], seed: int | None = None) -> Path:
    """Write ``results/<name>.json``: :func:`provenance`, then ``content`` as ``benchmarks/README.md`` has it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, **provenance(seed), **content}, indent=2) + "\n")
    print(f"wrote {path.relative_to(ROOT)}")
    return path


def ratio(name: str, against: str, value: float, target: float, bound: str) -> dict[str, Any]:
    """A row of the speed tables; ``bound`` says whether the value should be at least ("min") or at most ("max") it."""
    return {"name": name, "against": against, "value": value, "target": target, "bound": bound}


def write_speed(name: str, content: dict[str, Any], gpu: bool = False) -> None:
    """Print ``content["ratios"]`` beside their targets; write ``results/speed_<name>.json`` or ``..._gpu.json``."""
    for row in content["ratios"]:
        bound = "at least" if row["bound"] == "min" else "at most"
        print(f"{row['name']} against {row['against']}: {row['value']:.3f} ({bound} {row['target']:g})")
    write_result(f"speed_{name}{'_gpu' if gpu else ''}", content, seed=0)


def speed_parser(description: str | None, **numbers: int) -> argparse.ArgumentParser:
    """The command line of a speed comparison: ``--gpu``, and whole numbers by name with their defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="measure on a CUDA device, or the GPU parts as well")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    return parser


def parse_speed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; without a CUDA device, ``--gpu`` ends the program."""
    import torch

    arguments = parser.parse_args(argv)
    if arguments.gpu and not torch.cuda.is_available():
        parser.error("--gpu: no CUDA device")
    return arguments
