"""The Hydra entry point: overrides -> one composed configuration, and its faults in plain words.

Why our own file is not looked up as ``config``: a user's folder conf/ stands before ours on the
search path, and may hold the config.yaml of a Hydra application of theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher import schema
from launcher.errors import ConfigError, nearest
from launcher.reference import sections

if TYPE_CHECKING:
    from collections.abc import Mapping

_OVERRIDE = re.compile(r"(?P<mark>\+\+?|~)?(?P<key>[^=]+?)(?:=(?P<value>.*))?", re.DOTALL)
OmegaConf.register_new_resolver("literal", str, replace=True)
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
    groups = {key: value for key, value in request.values.items() if key in schema.GROUPS}
    chosen = [f"{key}={value}" for key, value in groups.items() if isinstance(value, str)]
    overrides = [freed(each) for each in (*request.overrides, *chosen)]
    try:
        config = _composed(request, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, request, overrides) from error
    for key, value in request.values.items():
        if f"{key}={value}" not in chosen:
            _set(config, key, value)
    return config


def freed(override: str) -> str:
    """Return ``override`` with the '++' that Hydra wants for keys whose content is free.

    A plain value of a variable stays the text that was typed: ``env.LEVEL=0.10`` is not a number.
    """
    found = _OVERRIDE.fullmatch(override)
    if found is None or found["mark"] or found["value"] is None:
        return override
    key, value = found["key"], found["value"]
    if not any(key == name or key.startswith(name + ".") for name in schema.FREE):
        return override
    if key.startswith("env.") and value != "null" and not re.search(r"['\"\[{$,\\]", value):
        value = f"'{value}'"
    return f"++{key}={value}"


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


def _composed(request: Request, overrides: list[str]) -> DictConfig:
    schema.register()
    text = (resources.files("launcher.conf") / "config.yaml").read_text("utf-8")
    primary = OmegaConf.create(text)
    if request.recorded is not None:
        primary = _restarted(request.recorded, overrides)
    ConfigStore.instance().store(name="launcher_config", node=primary)
    own = Path(request.config_dir or "conf").absolute()
    if not own.is_dir():
        if request.config_dir is not None:
            raise ConfigError(f"--config-dir {request.config_dir}: no such folder")
        with initialize_config_module("launcher.conf", version_base=_VERSION):
            return hydra_compose("launcher_config", overrides=overrides)
    with initialize_config_dir(str(own), version_base=_VERSION):
        path = "hydra.searchpath=[pkg://launcher.conf]"
        return hydra_compose("launcher_config", overrides=[path, *overrides])


def _restarted(recorded: Mapping[str, Any], overrides: list[str]) -> DictConfig:
    """Return a primary config that holds ``recorded``, less the groups chosen anew."""
    chosen = {each.partition("=")[0] for each in overrides} & set(schema.GROUPS)
    defaults: list[Any] = ["launcher_schema", *({group: "???"} for group in sorted(chosen))]
    kept = {key: escaped(value) for key, value in recorded.items() if key not in chosen}
    return OmegaConf.create({"defaults": [*defaults, "_self_"], **kept})


def _set(config: DictConfig, key: str, value: Any) -> None:
    if key not in list(config):
        raise ConfigError(
            f"{key}: there is no such key (given {value!r})",
            hint=nearest(key, map(str, config)) + f"Allowed: {', '.join(map(str, config))}.",
        )
    try:
        OmegaConf.update(config, key, escaped(value), merge=True, force_add=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value!r}: {_first_line(error)}") from error


# ------------------------------------------------------------------ faults, in plain words


def _explained(error: Exception, request: Request, overrides: list[str]) -> ConfigError:
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return ConfigError(
            f"{group}={option}: there is no such option",
            hint=nearest(option, error.options) + f"Allowed: {', '.join(sorted(error.options))}.",
        )
    if isinstance(error, OverrideParseException):
        reason = _first_line(error).replace("++", "")
        return ConfigError(
            f"{error.override.lstrip('+')}: this override cannot be read ({reason})",
            hint="Quote a value that holds spaces, commas, brackets or quotes: key='\"a, b\"'. "
            "A verb stands first: launcher runs, show, logs, plan, ... (launcher help).",
        )
    found = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    if found:
        return ConfigError(
            f"{found[1].lstrip('+')}: a value with commas is a sweep",
            hint="Quote it for one text, key='\"a,b\"', or bracket it for a list, key=[a,b].",
        )
    key = _faulty_key(error)
    for override in overrides:
        parts = _OVERRIDE.fullmatch(override)
        if parts is not None and key and parts["key"] == key:
            return _key_error(error, key, parts["value"] or "", request)
    return ConfigError(_first_line(error), hint="launcher help lists the keys.")


def _faulty_key(error: Exception) -> str:
    found = re.search(r"Could not override '([^']*)'|merging override [+~]*([^=\s]+)", str(error))
    if found:
        return found[1] or found[2]
    return str(getattr(error.__cause__, "full_key", None) or "")


def _key_error(error: Exception, key: str, value: str, request: Request) -> ConfigError:
    """Return the error for an override of ``key``: an unknown key, or a value of a wrong type."""
    if "merging override" in str(error):
        reason = _first_line(error.__cause__ or error)
        return ConfigError(f"{key}={value}: {reason}", hint="launcher help shows each key's type.")
    if key == "experiment":
        wanted = Path(request.config_dir or "conf") / key / f"{value}.yaml"
        return ConfigError(f"{key}={value}: there is no such option", hint=f"{wanted} would be it.")
    groups = [each for each in request.overrides if each.partition("=")[0] in schema.GROUPS]
    config = _composed(Request(overrides=tuple(groups), config_dir=request.config_dir), groups)
    parent, _, last = key.rpartition(".")
    here = OmegaConf.select(config, parent) if parent else config
    beside = list(map(str, here if isinstance(here, DictConfig) else config))
    known = [each for _, rows in sections() for each, *_ in rows]
    elsewhere = [each for each in known if each.rpartition(".")[2] == last]
    hint = f"Did you mean '{elsewhere[0]}'? " if elsewhere else nearest(last, beside)
    if not hint and not parent:
        hint = f"A parameter of your script? Then it is script_params.{key}. "
    return ConfigError(
        f"{key}: there is no such key (given {value})",
        hint=f"{hint}Allowed{f' in {parent}' if parent else ''}: {', '.join(beside)}.",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
