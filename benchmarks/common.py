"""What every benchmark shares: the record of where and how a number was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def hardware() -> str:
    """Processor, usable cores, GPU if there is one, versions of torch and python; nothing that names the host."""
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
