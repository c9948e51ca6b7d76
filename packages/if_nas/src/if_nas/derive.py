"""``if-nas-derive``: the architecture of a search, its cost, and the width that fits a budget.

if-nas-derive --run outputs/if_nas_search --keep 2 --output found.json
if-nas-derive --genotype if_l8 --max-macs 600M
if-nas-derive --random 5 --nodes 18 20 18 --length 8 --seed 1 --output random/
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import reporting
from vireo.errors import InputError

if TYPE_CHECKING:
    from .build import Architecture
    from .cost import Cost

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_RULE = ("threshold", "keep", "op_threshold")
_SPACE: dict[str, Any] = {"nodes": [18, 20, 18], "length": 8, "ops": ["skip", "conv3"]}


@dataclass(frozen=True)
class Target:
    """The network whose cost counts.

    Attributes:
        variant: ``"imagenet"`` or ``"cifar"``.
        image_size: height and width in pixels.
        num_classes: K.
        width: C, unless ``max_macs`` says which.
        max_macs: budget of multiply-adds, or None.
        cells: of a network of cells; None for what is usual.
    """

    variant: str
    image_size: tuple[int, int]
    num_classes: int
    width: int
    max_macs: float | None = None
    cells: int | None = None


def measure(architecture: Architecture, target: Target) -> tuple[int, Cost]:
    """Width and cost of the network of an architecture.

    Raises:
        InputError: no width fits the budget, or the architecture cannot be built.
    """
    from omegaconf import OmegaConf

    from .build import network_cost, network_width
    from .genotype import Genotype

    cells = None if isinstance(architecture, Genotype) else target.cells
    model = {"variant": target.variant, "cells": cells, "auxiliary": False, "drop_path": 0.0, "channels_last": False}
    model |= {"width": target.width if target.max_macs is None else None, "max_macs": target.max_macs}
    config = OmegaConf.create(model)
    width = network_width(config, architecture, target.num_classes, target.image_size)
    return width, network_cost(config, architecture, target.num_classes, width, target.image_size)


def parse_macs(text: str) -> float:
    """A number of multiply-adds, such as ``600M``, ``0.6G`` or ``6e8``.

    Raises:
        InputError: it is none, or not positive.
    """
    found = re.fullmatch(r"(\d+\.?\d*(?:e\d+)?)([KMG]?)", text.strip(), re.IGNORECASE)
    value = float(found[1]) * _UNITS[found[2].upper()] if found else 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"{text!r} is no number of multiply-adds", "--max-macs", "write e.g. 600M")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="if-nas-derive",
        description="Derive the architecture of a search, or draw random ones, and say what its network costs.",
    )
    source = parser.add_argument_group("architecture")
    source.add_argument("--run", metavar="FOLDER", help="of if-nas-search")
    source.add_argument("--genotype", metavar="NAME|FILE", help="a released architecture, or a JSON file")
    source.add_argument("--random", type=int, metavar="N", help="draw N from the space of the run, or from --nodes")
    rule = parser.add_argument_group("rule", "for a run; without any, its architecture as the search derived it")
    rule.add_argument("--threshold", type=float, metavar="T", help="keep edges and operators that weigh more")
    rule.add_argument("--keep", type=int, metavar="K", help="keep the K strongest edges of each node")
    rule.add_argument("--op-threshold", type=float, metavar="T", help="of operators, if another than of edges")
    rule.add_argument("--epoch", type=int, metavar="N", help="as the search derived it after epoch N")
    drawn = parser.add_argument_group("random architectures")
    drawn.add_argument("--seed", type=int, help="default: 0")
    drawn.add_argument("--max-inputs", type=int, metavar="K", help="of a node (default: 3)")
    drawn.add_argument("--nodes", type=int, nargs="+", metavar="N", help="of each stage (default: 18 20 18)")
    drawn.add_argument("--length", type=int, metavar="L", help="of the longest connection (default: 8)")
    drawn.add_argument("--ops", nargs="+", metavar="OP", help="default: skip conv3")
    network = parser.add_argument_group("network", "for a run: as in the search, unless given")
    network.add_argument("--variant", choices=("imagenet", "cifar"), help="default: imagenet")
    network.add_argument("--image-size", type=int, nargs="+", metavar="SIDE", help="in pixels (default: 224, or 32)")
    network.add_argument("--num-classes", type=int, metavar="K", help="default: 1000, or 10")
    size = network.add_mutually_exclusive_group()
    size.add_argument("--width", type=int, metavar="C", help="default: 64, or 36")
    size.add_argument("--max-macs", metavar="MACS", help="the widest network within so many, e.g. 600M")
    parser.add_argument("--output", metavar="PATH", help="JSON file to write; for --random a folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``if-nas-derive``; exits with status 2 for input the user can mend."""
    reporting(_run, _parser().parse_args(argv))
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from vireo.engine.text import two_columns

    _require_consistent(arguments)
    target = _target(arguments)
    found = _architectures(arguments)
    for name, architecture in found.items():
        width, cost = measure(architecture, target)
        nodes, depths = (" + ".join(map(str, values)) for values in (architecture.num_nodes, architecture.depths))
        rows = {"architecture": name, "nodes": nodes, "longest_paths": f"{depths} = {architecture.depth}"}
        rows |= {"width": str(width), "parameters": f"{cost.params / 1e6:.3f} M", "macs": f"{cost.macs / 1e6:.1f} M"}
        print(two_columns(rows))
        if arguments.output is not None:
            about = {**asdict(target), "width": width, "params": cost.params, "macs": cost.macs}
            path = Path(arguments.output) / f"{name}.json" if arguments.random is not None else Path(arguments.output)
            _write(path, {**architecture.to_dict(), "derived_from": name, "network": about})


def _require_consistent(arguments: argparse.Namespace) -> None:
    """Raise InputError unless the options say one architecture, or one space."""
    given = {name for name, value in vars(arguments).items() if value is not None}
    sources = sorted(given & {"genotype", "random"}) or sorted(given & {"run"})
    if len(sources) != 1 or {"genotype", "run"} <= given:
        raise InputError("one architecture is needed", "if-nas-derive", "give --run, --genotype or --random")
    rule = [name for name in (*_RULE, "epoch") if name in given]
    if rule and sources != ["run"]:
        option = "--" + rule[0].replace("_", "-")
        raise InputError("a rule needs the weights of a search", option, "give --run alone, or leave it out")
    if "epoch" in given and len(rule) > 1:
        what = "of an epoch the architecture is kept, not the weights for another rule"
        raise InputError(what, "--epoch", "give it alone")
    if {"threshold", "keep"} <= given:
        raise InputError("they exclude each other", "--threshold, --keep", "give one; --op-threshold is for operators")
    drawn = [name for name in ("seed", "max_inputs") if name in given]
    if drawn and sources != ["random"]:
        option = "--" + drawn[0].replace("_", "-")
        raise InputError("nothing is drawn at random", option, "give --random, or leave it out")
    space = [name for name in _SPACE if name in given]
    if space and (sources != ["random"] or "run" in given):
        raise InputError("only a random architecture has a space to be given", f"--{space[0]}", "leave it out")
    if "nodes" in given and len(arguments.nodes) != len(_SPACE["nodes"]):
        what = f"networks have {len(_SPACE['nodes'])} stages, not {len(arguments.nodes)}"
        raise InputError(what, "--nodes", "give the nodes of each, such as 6 6 6")
    if "ops" in given and set(arguments.ops) == {"none"}:
        raise InputError("none alone computes nothing", "--ops", "add another operator, such as conv3")
    for name, least in (("random", 1), ("epoch", 1), ("num_classes", 2), ("width", 1)):
        if name in given and getattr(arguments, name) < least:
            option = "--" + name.replace("_", "-")
            raise InputError(f"{getattr(arguments, name)} is too small", option, f"give {least} or more")
    if "run" in given:
        require_search(arguments.run)


def require_search(folder: str) -> None:
    """Check that ``--run`` names the folder of a search.

    Raises:
        InputError: it does not.
    """
    if not folder or not (Path(folder) / "config.yaml").is_file():
        raise InputError("holds no config.yaml", folder or "--run", "give the folder of a search with --run")


def find_epoch(folder: Path, epoch: int) -> Path:
    """Where a search in ``folder`` wrote the architecture after ``epoch``, from 1.

    Raises:
        InputError: there is none; the epochs that there are, are named.
    """
    from .history import epoch_file

    path = epoch_file(folder, epoch - 1)
    if not path.is_file():
        found = sorted(int(file.stem[6:]) for file in path.parent.glob("epoch_*.json") if file.stem[6:].isdigit())
        remedy = f"give {found[0]} to {found[-1]}" if found else "leave it out: no epoch of the search has ended"
        raise InputError(f"{folder} holds no architecture of epoch {epoch}", "--epoch", remedy)
    return path


def _target(arguments: argparse.Namespace) -> Target:
    sides = arguments.image_size
    if sides is not None and (len(sides) > 2 or min(sides) < 1):
        raise InputError(f"{sides} is no size", "--image-size", "give one side, or height and width, in pixels")
    cifar = arguments.variant == "cifar"
    known: dict[str, Any] = {"variant": "cifar" if cifar else "imagenet", "width": 36 if cifar else 64}
    known |= {"image_size": (32, 32) if cifar else (224, 224), "num_classes": 10 if cifar else 1000}
    if arguments.run is not None:
        known = _target_of(arguments.run)
    own = {name: getattr(arguments, name) for name in ("variant", "num_classes", "width")}
    own["image_size"] = None if sides is None else (sides[0], sides[-1])
    own["max_macs"] = None if arguments.max_macs is None else parse_macs(arguments.max_macs)
    return Target(**{**known, **{name: value for name, value in own.items() if value is not None}})


def _target_of(folder: str) -> dict[str, Any]:
    """The network of a search's own data and width."""
    from vireo.engine.finished import class_name, read_classes, read_config

    from .search_load import SCRIPT

    config = read_config(folder, SCRIPT, ("space", "model", "data"))
    size = tuple(config.data.image_size)
    known = {"variant": config.model.stem, "width": config.model.width, "cells": config.model.get("cells")}
    return {**known, "image_size": size, "num_classes": len(read_classes(folder, SCRIPT, class_name))}


def _architectures(arguments: argparse.Namespace) -> dict[str, Architecture]:
    from .published import find_architecture

    if arguments.random is not None:
        return _random(arguments)
    if arguments.genotype is not None:
        return {arguments.genotype: find_architecture(arguments.genotype)}
    folder = Path(arguments.run)
    if arguments.epoch is not None:
        path = find_epoch(folder, arguments.epoch)
        return {f"{folder.name}, epoch {arguments.epoch}": find_architecture(path)}
    rule = {name: getattr(arguments, name) for name in _RULE if getattr(arguments, name) is not None}
    if not rule:
        return {folder.name: find_architecture(str(folder))}
    from .search_load import load_search

    search = load_search(folder)
    configured = {name: search.config.derive[name] for name in _RULE}
    if "threshold" in rule:
        configured["keep"] = None  # the command line's threshold comes before the configuration's number of edges
    named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in rule.items())
    return {f"{folder.name}, {named}": search.network.derive(**{**configured, **rule})}


def _random(arguments: argparse.Namespace) -> dict[str, Architecture]:
    """As many architectures as asked for; each depends on the space, the seed and its number alone."""
    import numpy as np

    from .operators import OPERATORS
    from .space import LChainSpace

    seed = 0 if arguments.seed is None else arguments.seed
    max_inputs = 3 if arguments.max_inputs is None else arguments.max_inputs
    if seed < 0:
        raise InputError(f"{seed} is negative", "--seed", "give 0 or more")
    if arguments.run is not None:
        from vireo.engine.finished import read_config

        from .search_build import build_space
        from .search_load import SCRIPT

        space = build_space(read_config(arguments.run, SCRIPT, ("space",)).space)
        if not isinstance(space, LChainSpace):
            raise InputError("its space is no L-chain", arguments.run, "draw from the space of another search")
    else:
        named = {name: getattr(arguments, name) for name in _SPACE}
        given = _SPACE | {name: value for name, value in named.items() if value is not None}
        space = LChainSpace(tuple(given["nodes"]), given["length"], tuple(given["ops"]))
    found: dict[str, Architecture] = {}
    for number in range(arguments.random):
        genotype = space.random(np.random.default_rng((seed, number)), max_inputs)
        genotype.require_operators(OPERATORS, "--ops")
        found[f"random_{seed}_{number:02d}"] = genotype
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import write_json

    if path.suffix != ".json" or path.is_dir():
        raise InputError("is no name of a JSON file", str(path), "give --output a name that ends in .json")
    require_writable(path.parent, "--output")
    write_json(path, content)
    print(f"written to {path}")


if __name__ == "__main__":
    raise SystemExit(main())
