"""Entry points as Hydra applications whose mistakes are answered with one message and exit status 2.

Nothing heavy is imported here: ``--help`` must not wait for torch, so an entry point imports what it needs in its body.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vireo.engine.folder import require_writable
from vireo.errors import InputError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Hydra's own folders and log files: a run has its own, under output_dir
_QUIET = {
    "hydra.run.dir": ".",
    "hydra.output_subdir": "null",
    "hydra/job_logging": "none",
    "hydra/hydra_logging": "none",
}


def entry_point(config_module: str, config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make ``main(config)`` a console script that reads its configuration from a package.

    Before ``main`` runs, the overrides on the command line are checked (a misspelt key or an unknown experiment names
    the nearest valid one), every key must have a value, and ``output_dir``, if the configuration has one, must be
    writable. An ``InputError``, there or in ``main``, is printed on stderr and ends the process with status 2.
    ``--help`` shows the docstring of the module, then the keys.

    Args:
        config_module: package with the configuration files, e.g. ``"ssd_det.conf"``.
        config_name: the primary file without ``.yaml``.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(main)
        def script() -> None:
            import hydra

            @functools.wraps(main)
            def task(config: DictConfig) -> Any:
                return reporting(_checked(main), config)

            arguments = sys.argv
            if {"-h", "--help"} & set(arguments[1:]):
                print(
                    inspect.getdoc(sys.modules[main.__module__]) or "", end="\n\n"
                )  # usage, before Hydra's list of keys
            reporting(_check_command_line, config_module, config_name)
            sys.argv = [arguments[0], *_with_quiet(arguments[1:])]
            try:
                hydra.main(config_path=f"pkg://{config_module}", config_name=config_name, version_base="1.3")(task)()
            finally:
                sys.argv = arguments

        return script

    return decorate


def plain(config: Any) -> dict[str, Any]:
    """A configuration node as a plain dict, with its references resolved."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def require_own(config: Any, foreign: bool, script: str) -> None:
    """Check that an experiment was made for this script.

    Args:
        config: the run's configuration.
        foreign: whether it has what only those of another script have.
        script: that one.

    Raises:
        InputError: it was not.
    """
    if foreign:
        where = f"settings of {config.output_dir}"
        raise InputError(
            f"these are the settings of {script}", where, f"run {script}, or choose another +experiment=..."
        )


def require_own_keys(config: Any, kind: str, own_keys: Mapping[str, Sequence[str]], scripts: Mapping[str, str]) -> None:
    """Check that a configuration, with its experiment, is of one kind of runs only.

    Args:
        config: the run's configuration.
        kind: that it should be of.
        own_keys: of each kind, the keys that no other kind has.
        scripts: that make the runs of each kind.

    Raises:
        InputError: it has keys of another kind.
    """
    for other, keys in own_keys.items():
        require_own(config, other != kind and any(key in config for key in keys), scripts[other])


def reporting(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``; an ``InputError``, or a configuration key without a value, ends with status 2."""
    from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

    try:
        return function(*arguments)
    except InputError as error:
        _fail(error)
    except MissingMandatoryValue as error:
        key = getattr(error, "full_key", None) or "a configuration key"
        _fail(InputError("has no value", str(key), f"give one on the command line: {key}=..."))
    except InterpolationKeyError as error:
        key = str(getattr(error, "full_key", None) or "configuration")
        _fail(InputError(str(error).splitlines()[0].rstrip("."), key, "name an existing key in ${...}"))


def _fail(error: InputError) -> NoReturn:
    rank = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))  # Fabric's own launcher sets the second only
    process = f"[process {rank}] " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    print(f"{process}error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def _checked(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    def checked(config: DictConfig) -> Any:
        from omegaconf import OmegaConf

        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            example = " ".join(f"{key}=..." for key in missing)
            raise InputError(
                "has no value" if len(missing) == 1 else "have no value", ", ".join(missing), f"add {example}"
            )
        return _in_folder(main, config) if "output_dir" in config else main(config)

    return checked


def _in_folder(main: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """``main(config)`` with a folder that can be written; a folder made for it goes again if it is refused."""
    name = config.output_dir
    if name is None or name == "":
        raise InputError("has no value", "output_dir", "name the folder of the run")
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        raise InputError(f"{name!r} is no folder", "output_dir", "name the folder of the run")
    config.output_dir = str(name)  # a number is a name too
    folder = Path(config.output_dir)
    is_new = not folder.exists()
    require_writable(folder)
    try:
        return main(config)
    except InputError:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty: the run has begun
                folder.rmdir()
        raise


def _check_command_line(config_module: str, config_name: str) -> None:
    from vireo.engine.overrides import check_overrides

    check_overrides(sys.argv[1:], config_module, config_name)


def _with_quiet(arguments: list[str]) -> list[str]:
    """``arguments`` with the overrides that keep Hydra from writing files, less those the user gives himself.

    They stand beside the user's overrides, because the parser accepts only one row of them.
    """
    if any(argument.startswith(("-i", "--info", "--shell")) for argument in arguments):
        return arguments
    is_override = ["=" in argument and not argument.startswith("-") for argument in arguments]
    place = is_override.index(True) if any(is_override) else len(arguments)
    given = {argument.lstrip("+~").partition("=")[0] for argument in arguments}
    quiet = [f"{key}={value}" for key, value in _QUIET.items() if key not in given]
    return [*arguments[:place], *quiet, *arguments[place:]]
