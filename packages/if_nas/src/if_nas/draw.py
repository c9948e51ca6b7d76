"""``if-nas-draw``: an architecture, or a whole search space, as a picture.

if-nas-draw if_l8 --output if_l8.svg
if-nas-draw --run outputs/if_nas_search --weights --output found.png
if-nas-draw --nodes 18 20 18 --length 8 --phase 1 --output phase.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vireo.engine.cli import reporting
from vireo.errors import InputError

from .derive import find_epoch, require_search

if TYPE_CHECKING:
    from .drawing import EdgeWeights
    from .genotype import Genotype
    from .schedule import ActiveNodes, Schedule


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="if-nas-draw",
        description="Draw an architecture: a line of nodes for each stage, interleaved connections highlighted.",
    )
    what = parser.add_argument_group("what is drawn: one of")
    what.add_argument("architecture", nargs="?", metavar="NAME|FILE", help="a released architecture, or a JSON file")
    what.add_argument("--run", metavar="FOLDER", help="what a search of if-nas-search derived")
    what.add_argument("--nodes", type=int, nargs="+", metavar="N", help="the whole space of so many nodes a stage")
    how = parser.add_argument_group("how")
    how.add_argument("--epoch", type=int, metavar="N", help="of a run, as derived after epoch N")
    how.add_argument("--space", action="store_true", help="of a run, all candidate connections of its space")
    how.add_argument("--weights", action="store_true", help="of a run, strokes as wide as edges weigh")
    how.add_argument("--phase", type=int, metavar="T", help="mark the active nodes of phase T, from 0")
    how.add_argument("--length", type=int, metavar="L", help="of the space: for --nodes (default: 8), or --phase")
    how.add_argument("--period", type=int, metavar="P", help="of the phases (default: L + 1)")
    how.add_argument("--title", default="", help="stands above")
    parser.add_argument("--output", default="network.svg", metavar="PATH", help=".svg or .png (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``if-nas-draw``; exits with status 2 for input the user can mend."""
    reporting(_run, _parser().parse_args(argv))
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from .drawing import require_format, write_drawing

    _require_consistent(arguments)
    require_format(Path(arguments.output))
    genotype, schedule = _of_run(arguments) if arguments.run is not None else _of_options(arguments)
    weights = _weights(arguments) if arguments.weights else None
    active: ActiveNodes | None = None
    if arguments.phase is not None:
        if not 0 <= arguments.phase < schedule.period:
            what = f"there is no phase {arguments.phase} in a period of {schedule.period}"
            raise InputError(what, "--phase", f"give 0 to {schedule.period - 1}")
        active = schedule.active(arguments.phase, tuple(map(max, genotype.stages)))
    write_drawing(arguments.output, genotype, arguments.title, edge_weights=weights, active=active)
    print(f"written to {arguments.output}")


def _require_consistent(arguments: argparse.Namespace) -> None:
    sources = [arguments.architecture, arguments.run, arguments.nodes]
    if sum(source is not None for source in sources) != 1:
        raise InputError("one thing is drawn", "if-nas-draw", "give a name or file, --run or --nodes")
    of_runs = {"--epoch": arguments.epoch is not None, "--space": arguments.space, "--weights": arguments.weights}
    of_others = {"--length": arguments.length is not None, "--period": arguments.period is not None}
    if arguments.run is None:
        if wrong := [option for option, given in of_runs.items() if given]:
            raise InputError("needs a search", wrong[0], "give --run, or leave it out")
        if arguments.period is not None and arguments.phase is None:
            raise InputError("is that of a phase", "--period", "give --phase too, or leave it out")
        if arguments.nodes is None and (arguments.length is None) != (arguments.phase is None):
            what = "an architecture does not say the longest connection of its space, on which phases depend"
            raise InputError(what, "--phase, --length", "give both, or neither")
    elif wrong := [option for option, given in of_others.items() if given]:
        raise InputError("is that of the search", wrong[0], "leave it out")
    if arguments.epoch is not None and arguments.epoch < 1:
        raise InputError(f"{arguments.epoch} is too small", "--epoch", "epochs count from 1")
    if arguments.run is not None:
        require_search(arguments.run)


def _of_options(arguments: argparse.Namespace) -> tuple[Genotype, Schedule]:
    from .genotype import Genotype
    from .published import find_architecture
    from .schedule import InterleavingFreeSchedule
    from .space import LChainSpace

    length = 8 if arguments.length is None else arguments.length
    schedule = InterleavingFreeSchedule(length, arguments.period)
    if arguments.nodes is not None:
        return LChainSpace(tuple(arguments.nodes), length).full(), schedule
    architecture = find_architecture(arguments.architecture)
    if not isinstance(architecture, Genotype):
        raise InputError("its cells cannot be drawn", arguments.architecture, "give an architecture of stages")
    return architecture, schedule


def _of_run(arguments: argparse.Namespace) -> tuple[Genotype, Schedule]:
    from vireo.engine.finished import read_config

    from .genotype import read_genotype
    from .search_build import build_node_schedule, build_space
    from .search_load import SCRIPT
    from .space import LChainSpace

    config = read_config(arguments.run, SCRIPT, ("space", "schedule", "seed"))
    space = build_space(config.space)
    if not isinstance(space, LChainSpace):
        raise InputError("its space is no L-chain", arguments.run, "draw the architecture of another search")
    schedule = build_node_schedule(config.schedule, cast(Any, space), config.seed)  # of which it reads the length
    return space.full() if arguments.space else read_genotype(_file(arguments)), schedule


def _weights(arguments: argparse.Namespace) -> EdgeWeights:
    from .history import read_edge_weights

    return read_edge_weights(_file(arguments))


def _file(arguments: argparse.Namespace) -> Path:
    """Where the search wrote its last architecture, or that of an epoch, with the weights of its edges."""
    from .published import GENOTYPE_FILE

    folder = Path(arguments.run)
    return folder / GENOTYPE_FILE if arguments.epoch is None else find_epoch(folder, arguments.epoch)


if __name__ == "__main__":
    raise SystemExit(main())
