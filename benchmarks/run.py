"""Run the speed comparisons of one paper, one after another, and print their ratios against the targets.

    python benchmarks/run.py --paper ssd_det [--gpu]

Each comparison is a script of its own that measures both sides in one process run and writes its result file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tables import load, markdown, ratio_rows

HERE = Path(__file__).resolve().parent
COMPARISONS = {
    "beyond_masking": ("beyond_masking_step", "beyond_masking_loader"),
    "dqnet": ("dqnet_metrics", "dqnet_rbq", "dqnet_step"),
    "fgc": ("fgc_losses", "fgc_latency"),
    "g2sd": ("g2sd_step",),
    "if_nas": ("if_nas_step", "if_nas_loss"),
    "itpn": ("itpn_step",),
    "p2p_loc": ("p2p_loc_eval", "p2p_loc_memory", "p2p_loc_step", "p2p_loc_refine"),
    "ssd_det": ("coco_eval", "loader", "ssd_det_step"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 when every script ran, whatever the ratios; 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", choices=sorted(COMPARISONS), required=True)
    parser.add_argument("--gpu", action="store_true", help="measure the GPU parts as well")
    arguments = parser.parse_args(argv)
    rows, failed = [], []
    for name in COMPARISONS[arguments.paper]:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), *(["--gpu"] if arguments.gpu else [])]
        if subprocess.run(command).returncode == 0:
            rows += ratio_rows(load(f"speed_{name}"))
        else:
            failed.append(name)
    print("\n" + markdown(["what", "against", "ratio", "target", "commit", "machine"], rows))
    for name in failed:
        print(f"{name}: did not finish, see its output above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
