"""``make demo PAPER=dqnet``: train and evaluate on generated pictures, in outputs/demo."""

from __future__ import annotations

import subprocess
import sys

OUTPUT = "outputs/demo"


def main() -> int:
    """Exit status: 0, or that of the script that failed."""
    train = [sys.executable, "-m", "dqnet.train", "+experiment=demo", f"output_dir={OUTPUT}"]
    evaluate = [sys.executable, "-m", "dqnet.eval", f"run={OUTPUT}"]
    return subprocess.run(train).returncode or subprocess.run(evaluate).returncode


if __name__ == "__main__":
    sys.exit(main())
