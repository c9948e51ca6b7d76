"""Values from the command line, checked before anything is done with them: each mistake is one message."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import Any

from omegaconf import DictConfig

from vireo.errors import InputError


class Settings:
    """The values of one group of a configuration.

    Args:
        config: the group, such as ``config.optim``, or the whole configuration.
        group: its name, which messages put before the key; empty for the whole configuration.

    Raises:
        InputError: it is no group of settings.
    """

    def __init__(self, config: Any, group: str = "") -> None:
        if not isinstance(config, DictConfig):
            raise InputError(f"{config!r} is no group of settings", group or "configuration", "set its keys one by one")
        self.config, self.group = config, group

    def where(self, name: str) -> str:
        """The key as it is given on the command line."""
        return f"{self.group}.{name}" if self.group else name

    def number(
        self,
        name: str,
        low: float = 0,
        high: float = inf,
        *,
        above: bool = False,
        below: bool = False,
        optional: bool = False,
    ) -> None:
        """A number from ``low`` to ``high``.

        Args:
            name: of the key.
            low, high: its limits.
            above, below: it must be greater than ``low``, less than ``high``.
            optional: it may be null.
        """
        value = self.config.get(name)
        fits = type(value) in (int, float) and isfinite(value) and low <= value <= high
        fits = fits and not (above and value == low) and not (below and value == high)
        if not fits and not (optional and value is None):
            start = f"above {low:g}" if above else f"from {low:g}"
            limits = start if high == inf else f"{start} to {high:g}" + ", not included" * below
            raise InputError(f"{value!r} is no number {limits}", self.where(name), _remedy("one", optional))

    def whole(self, name: str, least: int = 0, *, optional: bool = False) -> None:
        """A whole number of at least ``least``; ``optional``: or null."""
        value = self.config.get(name)
        if not (type(value) is int and value >= least) and not (optional and value is None):
            raise InputError(f"{value!r} is no whole number from {least}", self.where(name), _remedy("one", optional))

    def flag(self, *names: str) -> None:
        """True or false each."""
        for name in names:
            value = self.config.get(name)
            if not isinstance(value, bool):
                raise InputError(f"{value!r} is neither true nor false", self.where(name), "give one of the two")

    def choice(self, name: str, known: Sequence[str]) -> None:
        """One of ``known``."""
        value = self.config.get(name)
        if value not in known:
            raise InputError(f"unknown value {value!r}", self.where(name), f"use one of {', '.join(known)}")

    def text(self, name: str, example: str, *, optional: bool = False) -> None:
        """A text that is not empty; ``optional``: or null."""
        value = self.config.get(name)
        if not (isinstance(value, str) and value) and not (optional and value is None):
            raise InputError(f"{value!r} is no text", self.where(name), f"give one, such as {example}")

    def mapping(self, name: str) -> None:
        """Names with a finite number each, or none at all."""
        value = self.config.get(name)
        numbers = list(value.values()) if isinstance(value, DictConfig) else ["none"]
        if not all(isinstance(number, int | float) and isfinite(number) for number in numbers):
            what = f"{_shown(value)} is no list of numbers with names"
            raise InputError(what, self.where(name), f"leave it out, or write +{self.where(name)}.top1=74.1")

    def numbers(
        self, name: str, count: int | None = None, low: float = -inf, *, whole: bool = False, example: float = 32
    ) -> None:
        """A list of ``count`` numbers (None: one or more) of at least ``low``, such as ``example``."""
        value = self.config.get(name)
        entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
        kinds = (int,) if whole else (int, float)
        fits = all(type(entry) in kinds and isfinite(entry) and entry >= low for entry in entries)
        if not entries or not fits or (count is not None and len(entries) != count):
            size = "" if count is None else f"{count} "
            kind = "whole numbers" if whole else "numbers"
            limit = "" if low == -inf else f" from {low:g}"
            remedy = f"write [{','.join([str(example)] * (count or 3))}]"
            raise InputError(f"{_shown(value)} is no list of {size}{kind}{limit}", self.where(name), remedy)


def _remedy(what: str, optional: bool) -> str:
    return f"give {what}, or null" if optional else f"give {what}"


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, Sequence) and not isinstance(value, str) else repr(value)
