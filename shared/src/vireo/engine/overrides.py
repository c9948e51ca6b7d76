"""Command-line overrides checked before a run, with the nearest valid key for a misspelt one."""

from __future__ import annotations

import difflib
from typing import Any

from vireo.errors import InputError


def check_overrides(arguments: list[str], config_module: str, config_name: str) -> None:
    """Compose the configuration with the overrides among ``arguments``; nothing for ``--help`` and the like.

    Raises:
        InputError: a key or option that does not exist, with the nearest that does; an override of the wrong form.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException, OverrideParseException

    options, unknown = get_args_parser().parse_known_args(arguments)
    informs = options.help or options.hydra_help or options.info or options.shell_completion
    if informs or unknown or options.config_path:
        return  # nothing is run, or Hydra's own parser has something to say
    overrides: list[Any] = []
    for text in options.overrides:
        try:
            overrides += OverridesParser.create().parse_overrides([text])
        except OverrideParseException as error:
            reason = str(error).splitlines()[0].rstrip(".")
            remedy = "write key=value, quoted where the shell asks for it"
            raise InputError(f"not an override ({reason})", text, remedy) from error
    for override in overrides:
        if override.is_sweep_override() and not options.multirun:
            remedy = "add --multirun for one run each, or write [a,b] for a list"
            raise InputError("several values for one run", str(override.input_line), remedy)
    composer = _Composer(config_module, options.config_name or config_name, options.config_dir)
    texts = [_first_choice(override) for override in overrides]
    try:
        config = composer.compose(texts)
    except HydraException as error:
        raise composer.explain(overrides, texts, error) from error
    _refuse_near_misses(overrides, composer, config)


def _first_choice(override: Any) -> str:
    """The override itself, or for a sweep (``lr=0.1,0.2``) its first value."""
    if not override.is_sweep_override():
        return str(override.input_line)
    first = next(iter(override.sweep_string_iterator()))
    return f"{override.input_line.partition('=')[0]}={first}"


class _Composer:
    def __init__(self, module: str, name: str, extra_dir: str | None) -> None:
        self.module, self.name = module, name
        self.extra = [f"hydra.searchpath=[file://{extra_dir}]"] if extra_dir else []

    def compose(self, overrides: list[str]) -> Any:
        from hydra import compose, initialize_config_module

        with initialize_config_module(self.module, version_base="1.3"):
            return compose(self.name, overrides=[*self.extra, *overrides], return_hydra_config=False)

    def groups(self) -> list[str]:
        """Names of the configuration groups, ``a/b`` for nested ones."""
        from hydra import initialize_config_module
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.object_type import ObjectType

        with initialize_config_module(self.module, version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            found, waiting = [], [""]
            while waiting:
                parent = waiting.pop()
                for child in loader.get_group_options(parent, results_filter=ObjectType.GROUP):
                    path = f"{parent}/{child}" if parent else child
                    if child not in ("hydra", "__pycache__"):
                        found.append(path)
                        waiting.append(path)
        return found

    def explain(self, overrides: list[Any], texts: list[str], error: Exception) -> InputError:
        """The message for ``error``: finds the first override that cannot be accepted beside all acceptable ones.

        Choices of groups come first, as they decide which keys there are; then keys that do not exist, which needs no
        further composition; then whatever else Hydra refuses.
        """
        from hydra.errors import HydraException

        groups = set(self.groups())
        items = list(zip(overrides, texts))
        choices = [item for item in items if str(item[0].key_or_group) in groups]
        accepted, pending = self._acceptable(choices)
        if not pending:
            config = self.compose(accepted)
            values = [item for item in items if item not in choices]
            keys = {*config_keys(config), *(str(item[0].key_or_group) for item in values if item[0].is_add())}
            unknown = [item for item in values if str(item[0].key_or_group) not in keys]
            if unknown:
                return self._explain_one(*unknown[0], error, config)
            accepted, pending = self._acceptable(items)
        if not pending:
            return InputError(_headline(error), f"configuration {self.module}/{self.name}", "see --help")
        override, text = pending[0]
        try:
            self.compose([*accepted, text])
        except HydraException as problem:
            error = problem
        return self._explain_one(override, text, error, self.compose(accepted))

    def _acceptable(self, items: list[tuple[Any, str]]) -> tuple[list[str], list[tuple[Any, str]]]:
        """The texts that can be composed beside each other, and the items that cannot join them."""
        from hydra.errors import HydraException

        accepted: list[str] = []
        pending = list(items)
        progress = True
        while progress:
            progress = False
            for item in list(pending):
                try:
                    self.compose([*accepted, item[1]])
                except HydraException:
                    continue
                accepted.append(item[1])
                pending.remove(item)
                progress = True
        return accepted, pending

    def _explain_one(self, override: Any, text: str, error: Exception, config: Any) -> InputError:
        key = str(override.key_or_group)
        choices = getattr(error, "options", None)  # of a group whose file is not found
        if choices:
            group, value = key, str(override.value())
            close = nearest(value, list(choices))
            nearest_one = f"the nearest is {text.partition('=')[0]}={close}, all are: " if close else "there are: "
            return InputError(f"no such option in '{group}'", text, nearest_one + ", ".join(choices))
        groups = self.groups()
        if key in groups and not override.is_add():
            return InputError(f"'{key}' is not set by default", text, f"write +{text}")
        if override.is_add() and key in groups and "Could not override" in _headline(error):
            what = f"is made for the configuration of another script ({_headline(error)})"
            return InputError(what, text, "run the script that its file names")
        if override.is_add():
            return InputError(_headline(error), text, f"write {text.lstrip('+')}")
        keys = config_keys(config)
        if key in keys:
            return InputError(_headline(error), text, "give a value of the key's type")
        close = nearest(key, [*keys, *groups])
        remedy = f"the nearest key is '{close}'" if close else "see --help for the keys"
        return InputError(f"no key '{key}' in the configuration", text, remedy)


def _headline(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")


def _refuse_near_misses(overrides: list[Any], composer: _Composer, config: Any) -> None:
    """``+experimnt=x`` would silently add a key; a key that is almost a group's name is taken for a slip."""
    added = [str(override.key_or_group) for override in overrides if override.is_add() and not override.is_force_add()]
    if not added:
        return
    groups = composer.groups()
    for key in added:
        if key not in groups and "." not in key:
            close = difflib.get_close_matches(key, groups, n=1, cutoff=0.8)
            if close:
                remedy = f"write +{close[0]}=..., or ++{key}=... to add a key of this name"
                raise InputError(f"'{key}' is almost the group '{close[0]}'", f"+{key}", remedy)


def config_keys(config: Any) -> list[str]:
    """All keys of a composed configuration, inner ones too: ``optim``, ``optim.lr``, ..."""
    from omegaconf import DictConfig, OmegaConf

    keys: list[str] = []
    for key in config:
        keys.append(str(key))
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        if isinstance(config[key], DictConfig):
            keys += [f"{key}.{inner}" for inner in config_keys(config[key])]
    return keys


def nearest(word: str, candidates: list[str]) -> str | None:
    """The candidate most like ``word``, by its whole path or, failing that, by its last part; None if none is near."""
    whole = difflib.get_close_matches(word, candidates, n=1, cutoff=0.7)
    if whole:
        return whole[0]
    last_parts = {candidate.rpartition(".")[2]: candidate for candidate in reversed(candidates)}
    part = difflib.get_close_matches(word.rpartition(".")[2], list(last_parts), n=1, cutoff=0.7)
    return last_parts[part[0]] if part else None
