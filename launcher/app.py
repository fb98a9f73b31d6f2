"""The Hydra entry point: overrides -> one composed configuration, and its faults in plain words.

Why our own file is not looked up as ``config``: a user's folder conf/ stands before ours on the
search path, and may hold the config.yaml of a Hydra application of theirs.
"""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from launcher import overrides, schema
from launcher.errors import ConfigError, nearest
from launcher.reference import rows, titles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hydra.core.object_type import ObjectType

OmegaConf.register_new_resolver("literal", str, replace=True)
_ONE_AT_A_TIME = threading.Lock()  # Hydra's state is global; notebooks have threads
_VERSION = "1.3"  # of Hydra's behaviour, not of its code


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: overrides in Hydra's grammar, and values taken as they are."""

    overrides: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)  # literal: no interpolation, no grammar
    config_dir: str | None = None  # your own config groups; None: conf/ in the current folder
    recorded: Mapping[str, Any] | None = None  # a run's configuration, to start from


def compose(request: Request) -> DictConfig:
    """Return the composed configuration; raise ConfigError on what cannot be composed."""
    groups = {key: value for key, value in request.values.items() if key in overrides.GROUPS}
    chosen = [f"{key}={value}" for key, value in groups.items() if isinstance(value, str)]
    words = [overrides.readable(each) for each in (*request.overrides, *chosen)]
    for word in words:
        check(word, request)
    try:
        config = _composed(request, words)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise _explained(error, request, words) from error
    for key, value in request.values.items():
        if f"{key}={value}" not in chosen:
            _set(config, key, value)
    return config


def check(word: str, request: Request) -> None:
    """Refuse an override that Hydra would take, and we would then ignore or trip over."""
    mark, key, value = overrides.parts(word)
    if mark == "~" and (not overrides.is_free(key) or key in overrides.FREE):
        raise ConfigError(f"{word}: this key cannot be taken away")
    if key in overrides.GROUPS and value in ("", "null"):
        raise ConfigError(f"{word}: an option is needed", hint=overrides.OPTIONS[key])
    if key.startswith("hydra.") or (mark and not overrides.is_free(key)):
        raise _unknown_key(key, value or "", request)
    if key == "sweep.params" or key.startswith("sweep.params."):
        raise ConfigError(
            f"{word}: sweep.params belongs into a file of conf/experiment/",
            hint="At the prompt a sweep is typed: -m nodes=1,2",
        )
    if key == "experiment" and request.recorded is not None:
        raise ConfigError(
            f"{word}: a rerun starts from the recorded configuration",
            hint="Name the values that change, or submit anew with experiment=...",
        )


def escaped(value: Any) -> Any:
    """Return ``value`` such that OmegaConf reads every text in it literally."""
    if value == "???":
        return "${literal:'???'}"  # that text alone means a value that is still to be given
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {str(key): escaped(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def _composed(request: Request, words: list[str]) -> DictConfig:
    """Return what Hydra composes; a value that its grammar cannot read is taken as text."""
    try:
        return by_hydra(request, words)
    except OverrideParseException as error:
        text = overrides.as_text(error.override)
        if text is None or text == error.override:
            raise
        return _composed(request, [text if each == error.override else each for each in words])


def by_hydra(request: Request, words: list[str]) -> DictConfig:
    """Return what Hydra composes of overrides in its own grammar; raise what it raises."""
    with _ONE_AT_A_TIME, _initialized(request, words) as path:
        return hydra_compose("launcher_config", overrides=[*path, *words])


def group_options(request: Request, key: str, kind: ObjectType | None = None) -> list[str]:
    """Return the options, or the groups below, or (None) both, of a config group; [] for none."""
    with _ONE_AT_A_TIME, _initialized(request, []) as path:
        loader = GlobalHydra.instance().config_loader()
        return loader.get_group_options(key, kind, "launcher_config", path)


@contextlib.contextmanager
def _initialized(request: Request, words: list[str]) -> Iterator[list[str]]:
    """Have Hydra know our configuration, and yield the override that it needs to find it all."""
    schema.register()
    text = (resources.files("launcher.conf") / "config.yaml").read_text("utf-8")
    primary = OmegaConf.create(text)
    if request.recorded is not None:
        primary = _restarted(request.recorded, words)
    ConfigStore.instance().store(name="launcher_config", node=primary)
    own = Path(request.config_dir or "conf").absolute()
    if not own.is_dir():
        if request.config_dir is not None:
            raise ConfigError(f"--config-dir {request.config_dir}: no such folder")
        with initialize_config_module("launcher.conf", version_base=_VERSION):
            yield []
    else:
        with initialize_config_dir(str(own), version_base=_VERSION):
            yield ["hydra.searchpath=[pkg://launcher.conf]"]


def _restarted(recorded: Mapping[str, Any], words: list[str]) -> DictConfig:
    """Return a primary config that holds ``recorded``, less the groups chosen anew."""
    chosen = {each.partition("=")[0] for each in words} & set(overrides.GROUPS)
    defaults: list[Any] = ["launcher_schema", *({group: "???"} for group in sorted(chosen))]
    kept = {key: escaped(value) for key, value in recorded.items() if key not in chosen}
    return OmegaConf.create({"defaults": [*defaults, "_self_"], **kept})


def _set(config: DictConfig, key: str, value: Any) -> None:
    if key not in list(config):
        raise _unknown_key(key, repr(value), Request())
    try:
        OmegaConf.update(config, key, escaped(value), merge=True, force_add=True)
    except OmegaConfBaseException as error:
        raise _wrong_value(key, repr(value), error) from error


# ------------------------------------------------------------------ faults, in plain words


def _explained(error: Exception, request: Request, words: list[str]) -> ConfigError:
    """Return the error of a composition that failed."""
    return _of_grammar(error) or _of_a_key(error, request, words)


def _of_grammar(error: Exception) -> ConfigError | None:
    """Return the error for what could not even be read."""
    found = re.match(r"Sweep parameters '\+*(.*)' requires --multirun", str(error))
    if found:
        return ConfigError(f"{found[1]}: is a sweep", hint="-m launches one.")
    if isinstance(error, YAMLError):
        told = re.sub(r"\s+", " ", str(error))
        return ConfigError(f"a configuration file is no YAML: {told}", hint="Mend that file.")
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"{error.override.lstrip('+')}: this override cannot be read",
            hint="It is key=value; a text with brackets or quotes goes between quotes of its own: "
            "key='\"a [b\"'.",
        )
    found = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    if found:
        return ConfigError(
            f"{found[1].lstrip('+')}: a value with commas is a sweep",
            hint="-m launches one. Quote it for one text, key='\"a,b\"', or bracket it for a list, "
            "key=[a,b].",
        )
    return None


def _of_a_key(error: Exception, request: Request, words: list[str]) -> ConfigError:
    """Return the error for a key, an option or a value."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(
            f"{group}={option}: there is no such option",
            hint=nearest(option, error.options) + f"Allowed: {', '.join(sorted(error.options))}.",
        )
    key = _faulty_key(error)
    for word in words:
        _, name, value = overrides.parts(word)
        if key and name == key:
            if "merging override" in str(error):
                return _wrong_value(key, value or "", error.__cause__ or error)
            return _unknown_key(key, value or "", request)
    first, second = (*str(error).strip().split("\n"), "")[:2]
    within = f"{first} {second.strip()}" if first.startswith("In '") else first
    return ConfigError(within, hint="launcher help lists the keys.")


def _faulty_key(error: Exception) -> str:
    found = re.search(
        r"Could not (?:override|delete from config[^']*) '([^']*)'|merging override [+~]*([^=\s]+)",
        str(error),
    )
    if found:
        return found[1] or found[2]
    return str(getattr(error.__cause__, "full_key", None) or "")


def _wrong_value(key: str, value: str, error: BaseException) -> ConfigError:
    kind = next((kind for name, kind, *_ in rows() if name == key), "")
    reason, hint = _first_line(error), f"Its type is {kind}." if kind else ""
    if "ListConfig" in reason:
        reason, hint = "a list is wanted", f"Write {key}=[{value},...]."
    elif kind.startswith("Dict"):
        reason, hint = "a mapping is wanted", f"Write {key}.name=value."
    return ConfigError(f"{key}={value}: {reason}", hint=hint)


def _unknown_key(key: str, value: str, request: Request) -> ConfigError:
    """Return the error for a key that is not there: the nearest one, or the option it is of."""
    if key == "experiment":
        wanted = Path(request.config_dir or "conf") / key / f"{value}.yaml"
        return ConfigError(f"{key}={value}: there is no such option", hint=f"{wanted} would be it.")
    groups = [each for each in request.overrides if each.partition("=")[0] in overrides.GROUPS]
    config = by_hydra(Request(config_dir=request.config_dir), groups)
    parent, _, last = key.rpartition(".")
    here = OmegaConf.select(config, parent) if parent else config
    beside = list(map(str, here if isinstance(here, DictConfig) else config))
    names = [name for name, *_ in rows()]
    known = [name for name in names if "." in name and name.rpartition(".")[2] == last]
    known += [f"sweep.{key}" for name in names if key.startswith(f"{name.partition('.')[2]}.")]
    owner = next(
        (title for name, title in titles() if key == name or key.startswith(f"{name}.")), ""
    )
    if owner:
        hint = f"It belongs to {owner.partition(' ')[0]}. "
    elif known:
        hint = f"Did you mean '{known[0]}'? "
        hint += "" if parent else f"A parameter of your script is script_params.{key}. "
    elif parent and not isinstance(here, DictConfig):
        hint = nearest(parent, map(str, config))
    else:
        hint = nearest(last, beside)
    if not hint and not parent:
        hint = f"A parameter of your script? Then it is script_params.{key}. "
    shown = f" in {parent}" if isinstance(here, DictConfig) and parent else ""
    return ConfigError(
        f"{key}: there is no such key (given {value})",
        hint=f"{hint}Allowed{shown}: {', '.join(beside)}.",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
