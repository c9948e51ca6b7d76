"""Write the result tables of the READMEs from ``benchmarks/results/*.json``; nobody types a number.

    python benchmarks/tables.py            # rewrite every block <!-- table:NAME --> ... <!-- /table -->
    python benchmarks/tables.py --check    # change nothing, exit 1 if a block is out of date

A new table is a function below, decorated with ``@table`` and named as its block; ``benchmarks/README.md`` has the
formats of the result files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TABLES: dict[str, Callable[[], str]] = {}
NOT_MEASURED = "*Not measured yet.*"
BLOCK = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def table(function: Callable[[], str]) -> Callable[[], str]:
    """Register a function that returns Markdown as the content of the blocks of its name."""
    TABLES[function.__name__] = function
    return function


@table
def speed() -> str:
    """Every speed ratio against its target."""
    return speed_of("speed_*.json")


def speed_of(*patterns: str) -> str:
    """The speed ratios of the result files that fit one of ``patterns``."""
    paths = [path for pattern in patterns for path in sorted(RESULTS.glob(pattern))]
    parts = [ratio_rows(load(path.stem)) for path in paths]
    rows = [row for part in parts for row in part]
    return markdown(["what", "against", "ratio", "target", "commit", "machine"], rows) if rows else NOT_MEASURED


@table
def ssd_det() -> str:
    """SSD-Det against the plain detector on the demo's generated shapes and on the blood cells."""
    return claims("ssd_det_")


@table
def beyond_masking() -> str:
    """Frozen features of encoders pre-trained by different tasks, on generated pictures and on CIFAR-10."""
    return claims("beyond_masking_")


@table
def beyond_masking_speed() -> str:
    """Ratios of pre-training steps and degradations against their targets."""
    return speed_of("speed_beyond_masking_*.json")


@table
def dqnet() -> str:
    """Claims of DQnet."""
    return claims("dqnet_")


@table
def dqnet_speed() -> str:
    """Ratios of metrics, query and training step against their targets."""
    return speed_of("speed_dqnet*.json")


@table
def p2p_loc() -> str:
    """Claims of P2P-Loc."""
    return claims("p2p_loc_")


@table
def p2p_loc_speed() -> str:
    """Ratios of metric, refinement, prediction and training step against their targets."""
    return speed_of("speed_p2p_loc*.json")


@table
def if_nas() -> str:
    """Claims of IF-NAS."""
    return claims("if_nas_")


@table
def if_nas_speed() -> str:
    """Ratios of search step and discretisation loss against their targets."""
    return speed_of("speed_if_nas*.json")


@table
def g2sd() -> str:
    """Claims of G2SD."""
    return claims("g2sd_")


@table
def g2sd_speed() -> str:
    """Speed of G2SD."""
    return speed_of("speed_g2sd*.json")


@table
def itpn() -> str:
    """Segmenters and detectors after the three starts, on generated shapes and on real sets."""
    return claims("itpn_")


@table
def itpn_speed() -> str:
    """Speed ratios of iTPN."""
    return speed_of("speed_itpn*.json")


@table
def fgc() -> str:
    """BAS, FGC and controls on generated pictures and on CIFAR-10."""
    return claims("fgc_")


@table
def fgc_latency() -> str:
    """Milliseconds of one image, dense, masked and gathered, at several on-rates."""
    if not (RESULTS / "speed_fgc_latency.json").exists():
        return NOT_MEASURED
    result = load("speed_fgc_latency")
    rows = [
        [
            f"{row['network']}, {100 * row['on_rate']:.0f} % on",
            *(f"{row[column]:.2f}" for column in ("dense_ms", "masked_ms", "gather_ms", "gain", "ideal")),
        ]
        for row in result["table"]
    ]
    head = ["", "dense, ms", "masked, ms", "gathered, ms", "times faster than dense", "ideal"]
    origin = f"Commit {commit(result)}, {result['hardware']}, `{result['command']}`."
    return markdown(head, rows) + "\n\n" + origin


@table
def fgc_speed() -> str:
    """Ratios of the losses of FGC against their targets."""
    return speed_of("speed_fgc_losses*.json")


@table
def ssd_det_speed() -> str:
    """Ratios of SSD-Det, and of what it uses of the shared library, against their targets."""
    return speed_of("speed_coco_eval*.json", "speed_loader*.json", "speed_ssd_det_*.json")


def claims(prefix: str) -> str:
    """One table per claim file ``<prefix>*.json``: arms down, metrics across, mean ± deviation over the seeds."""
    parts = []
    for path in sorted(RESULTS.glob(f"{prefix}*.json")):
        result = load(path.stem)
        columns = list(result["columns"])
        rows = [[arm["name"], *(spread(arm["metrics"].get(name, [])) for name in columns)] for arm in result["arms"]]
        head = f"**{result['title']}**\n\n"
        parts.append(head + markdown(["", *result["columns"].values()], rows) + "\n\n" + provenance(result))
    return "\n\n".join(parts) or NOT_MEASURED


def ratio_rows(result: dict[str, Any]) -> list[list[str]]:
    """Rows of the speed table, one per ratio of a result."""
    rows = []
    for ratio in result["ratios"]:
        sign = {"min": "≥", "max": "≤"}[ratio["bound"]]
        value, target = f"{ratio['value']:.2f}", f"{sign} {ratio['target']:g}"
        rows.append([ratio["name"], ratio["against"], value, target, commit(result), result["hardware"]])
    return rows


def spread(values: Sequence[float]) -> str:
    """``mean ± standard deviation`` over the seeds, one value as it is."""
    if not values:
        return ""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def provenance(result: dict[str, Any]) -> str:
    """The line under a table that says how to get it again."""
    seeds = ", ".join(map(str, result["seeds"]))
    return f"Commit {commit(result)}, {result['hardware']}, seeds {seeds}, `{result['command']}`."


def commit(result: dict[str, Any]) -> str:
    """Short name of the commit a result was measured at, with a plus if sources had been changed since."""
    return result["commit"][:9] + ("+" if result["changed_since_commit"] else "")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def load(name: str) -> dict[str, Any]:
    """The result ``name`` from its JSON file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def render(text: str, where: str = "text") -> str:
    """``text`` with the content of every table block written anew.

    Raises:
        ValueError: a block that names no table, or is not closed.
    """
    opened, blocks = re.findall(r"<!-- table:(\w+) -->", text), BLOCK.findall(text)
    unknown = sorted(set(opened) - set(TABLES))
    if unknown:
        raise ValueError(f"{where}: no table is called {unknown}; there are {sorted(TABLES)}")
    if [name for _, name, _ in blocks] != opened:
        raise ValueError(f"{where}: a table block is not closed by <!-- /table -->")
    return BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}\n{block[3]}", text)


def documents() -> list[Path]:
    """The READMEs that can hold tables."""
    return sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("packages/*/README.md")])


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite or check every document; the exit status is 1 when ``--check`` finds one out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, report what is out of date")
    check = parser.parse_args(argv).check
    stale = []
    for path in documents():
        before = path.read_text()
        after = render(before, str(path.relative_to(ROOT)))
        if after != before:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(after)
    for name in stale:
        print(f"{name}: {'table out of date, run make docs' if check else 'tables written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
