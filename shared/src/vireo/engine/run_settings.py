"""Settings of a run as a user gives them, checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any

from vireo.engine.cli import plain
from vireo.errors import InputError

_TOP = ("seed", "epochs", "resume")  # the others stand in a group of the configuration


def is_whole(value: Any, least: float = float("-inf")) -> bool:
    """Whether ``value`` is an integer (no bool) from ``least``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_optional(value: Any, below: float) -> bool:
    """Whether ``value`` is None, or a number between 0 and ``below``, equal to neither."""
    return value is None or (isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < below)


# of each setting: which values fit, what the others are, what to do
_RULES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "seed": (is_whole, "is no whole number", "give one, such as 0"),
    "epochs": (partial(is_whole, least=0), "is no whole number from 0", "give the length of the run"),
    "resume": (lambda value: value in ("auto", "never"), "is not a choice", "use auto or never"),
    "checkpoint_every": (
        partial(is_whole, least=0),
        "is no whole number from 0",
        "give the steps between checkpoints, or 0 for one at the end of an epoch",
    ),
    "keep_last": (partial(is_whole, least=1), "is no whole number from 1", "give the checkpoints to keep"),
    "log_every": (partial(is_whole, least=1), "is no whole number from 1", "give the steps between lines of the log"),
    "accumulate": (partial(is_whole, least=1), "is no whole number from 1", "give the batches of a step"),
    "grad_clip": (
        partial(_is_optional, below=float("inf")),
        "is no positive number",
        "give the greatest norm of the gradient, or null for no limit",
    ),
    "ema_decay": (
        partial(_is_optional, below=1.0),
        "is no number between 0 and 1",
        "give one, such as 0.999, or null for no moving average",
    ),
}


def check_settings(config: Mapping[str, Any], **settings: Any) -> None:
    """Check values that a user may have given.

    Args:
        config: the run's configuration, where a message says that the value stands.
        **settings: arguments of :class:`vireo.engine.Run`.

    Raises:
        InputError: a value is of another type or out of range.
    """
    for name, value in settings.items():
        fits, fault, remedy = _RULES[name]
        if not fits(value):
            raise InputError(f"{value!r} {fault}", _key(name, config), remedy)


def settings_group(config: Any, name: str) -> dict[str, Any]:
    """A group of a configuration as a plain dict.

    Raises:
        InputError: ``name`` is a single value instead.
    """
    from omegaconf import OmegaConf

    if not OmegaConf.is_dict(config[name]):
        raise InputError(f"{config[name]!r} is no group of settings", name, f"change single ones with {name}.KEY=...")
    return plain(config[name])


def _key(name: str, config: Mapping[str, Any]) -> str:
    """Where a setting stands in ``config``; some papers have the clipping beside the optimizer's settings."""
    if name in _TOP:
        return name
    groups = (group for group in ("run", "optim") if isinstance(config.get(group), Mapping) and name in config[group])
    return f"{next(groups, 'run')}.{name}"
