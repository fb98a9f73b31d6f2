"""DictConfig -> JobSpec. Behind this module nothing knows OmegaConf."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from omegaconf import MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher import data, params, variables
from launcher import overrides as overrides_of
from launcher.errors import ConfigError, LaunchError, nearest
from launcher.job import JobSpec, Resources
from launcher.reference import titles

if TYPE_CHECKING:
    from omegaconf import DictConfig


def resolve(config: DictConfig, overrides: tuple[str, ...] = ()) -> tuple[JobSpec, dict[str, str]]:
    """Return the job, and the values of the secrets that the configuration itself holds.

    Raise ConfigError, with the key, the value and what is allowed, on anything that cannot be
    launched. Nothing is written.
    """
    return job_of(plain(config), overrides)


def job_of(values: dict[str, Any], overrides: tuple[str, ...]) -> tuple[JobSpec, dict[str, str]]:
    """Return the job that plain ``values`` describe; as ``resolve``."""
    sent = _built(values, "compute").kind == "ssh"
    values = data.settled(values, sent=sent)
    env, secrets, given = variables.environment(values)
    record = _record(values, env, secrets, given)
    uploads = data.uploads(record["data"], given) if sent else {}
    entry = _entry(values)
    compute, environment, dist = (_built(values, group) for group in overrides_of.GROUPS)
    job = JobSpec(
        name=_name(values, entry),
        entry=entry,
        args=tuple(params.STYLES[values["params_style"]](values["script_params"])),
        source_directory=os.path.abspath(values["source_directory"]),
        runs_dir=_runs_dir(values),
        resources=_resources(values, compute),
        env=env,
        secrets=secrets,
        data={
            name: data.token(name) if name in uploads else each["path"]
            for name, each in record["data"].items()
        },
        uploads=uploads,
        compute=compute,
        environment=environment,
        dist=dist,
        grace_s=float(values["compute"].get("grace_s", 10.0)),
        wait=_waits(values, compute.kind),
        overrides=tuple(variables.masked(each, secrets) for each in overrides),
        config=record,
        hydra=values["params_style"] != "argparse",
    )
    return job, given


def _record(
    values: dict[str, Any], env: dict[str, str], secrets: tuple[str, ...], given: dict[str, str]
) -> dict[str, Any]:
    """Return the configuration to be recorded: no secret in it, and no path relative to here."""
    entries = {name: data.entry(name, each) for name, each in values["data"].items()}
    kept = {key: each for key, each in values.items() if key != "sweep"}
    record = {**kept, "env": env, "secrets": list(secrets), "data": entries}
    known = {each: os.environ[each] for each in secrets if each in os.environ}
    if known or given:
        variables.no_secret_within(record, {**known, **given})
    return record


def _waits(values: dict[str, Any], place: str) -> bool:
    """Return whether a submit follows the run to its end: on this machine, if nobody says."""
    wait, detach = values["wait"], values["detach"]
    if detach is not None and wait is detach:
        raise ConfigError(
            f"wait={wait} detach={detach}: they say the opposite".lower(),
            hint="Give one of them.",
        )
    if wait is not None:
        return bool(wait)
    return place == "local" if detach is None else not detach


def _name(values: dict[str, Any], entry: tuple[str, ...]) -> str:
    name = str(values["name"] or _stem(entry))
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ConfigError(
            f"name={name}: not a name",
            hint="Letters, digits, '.', '_' and '-'; at most 64 of them.",
        )
    return name


def plain(config: DictConfig) -> dict[str, Any]:
    """Return ``config`` as plain values, every interpolation resolved."""
    if not OmegaConf.has_resolver("data"):
        OmegaConf.register_new_resolver("data", _data_path)
    try:
        return container(config)
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        hint = "For example: entry_script=train.py" if key == "entry_script" else f"Give {key}=..."
        raise ConfigError(f"{key}: a value is needed", hint=hint) from error
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, LaunchError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise cause from error
        message = str(error).partition("\n")[0]
        raise ConfigError(
            f"{error.full_key}: {message}",
            hint="'${' begins an interpolation; '\\${' is that text itself.",
        ) from error


def container(config: DictConfig) -> dict[str, Any]:
    """Return ``config`` as plain values, enums by name; raise what OmegaConf raises."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    return {str(key): value for key, value in dict(values).items()}  # type: ignore[arg-type]


def _data_path(name: str, *, _root_: DictConfig) -> str:
    if name not in _root_.data:
        known = [str(each) for each in _root_.data]
        raise ConfigError(
            f"${{data:{name}}}: there is no data entry '{name}'",
            hint=nearest(name, known)
            + f"Add data.{name}.path=..., known: {', '.join(known) or 'none'}.",
        )
    given = _root_.data[name]
    entry = data.entry(name, dict(given) if isinstance(given, Mapping) else given)
    return data.token(name) if "upload" in entry else str(entry["path"])


def _entry(values: dict[str, Any]) -> tuple[str, ...]:
    """Return the words that name what is run: a file's path, or "-m" and a module."""
    given = str(values["entry_script"])
    if given == "-m" or given.startswith("-m "):
        module = given[2:].strip()
        if not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(
                f"entry_script={given}: '{module}' is no module",
                hint='For example entry_script="-m package.module".',
            )
        return "-m", module
    source = os.path.abspath(values["source_directory"])
    inside = os.path.relpath(os.path.join(source, given), source)
    if not given or inside.partition("/")[0] in ("..", "."):
        raise ConfigError(
            f"entry_script={given}: not a file inside source_directory, {source}",
            hint="Give its path from there; source_directory=... names another folder.",
        )
    return (inside,)


def _stem(entry: tuple[str, ...]) -> str:
    stem = entry[1].rpartition(".")[2] if entry[0] == "-m" else PurePosixPath(entry[0]).stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip(".-_")[:64] or "run"


def _runs_dir(values: dict[str, Any]) -> str:
    given = os.environ.get("LAUNCHER_RUNS") or values["runs_dir"]
    folder, source = os.path.abspath(given), os.path.abspath(values["source_directory"])
    if not given or folder == source:
        raise ConfigError(
            f"runs_dir={given}: is the source directory itself, {source}",
            hint="Runs have a folder of their own, such as runs_dir=runs.",
        )
    return folder


def _resources(values: dict[str, Any], compute: Any) -> Resources:
    for key in ("nodes", "procs_per_node"):
        if values[key] < 1:
            raise ConfigError(f"{key}={values[key]}: must be 1 or more")
    if compute.cpus_per_proc is not None and compute.cpus_per_proc < 1:
        raise ConfigError(f"compute.cpus_per_proc={compute.cpus_per_proc}: must be 1 or more")
    return Resources(
        nodes=values["nodes"],
        procs_per_node=values["procs_per_node"],
        cpus_per_proc=compute.cpus_per_proc,
        gpus_per_proc=values["environment"].get("gpus_per_proc", 0),
        time_s=params.seconds("compute.time", compute.time),
    )


def _built(values: dict[str, Any], group: str) -> Any:
    """Return the object that the group's ``_target_`` names, made from its other keys."""
    if not isinstance(values[group], dict):
        hint = overrides_of.OPTIONS[group]
        raise ConfigError(f"{group}={values[group]}: an option is needed", hint=hint)
    # Points of a sweep have mostly the same, and to make one takes as long as to compose it.
    return _made(group, json.dumps(values[group], default=str))


@functools.lru_cache(maxsize=4096)
def _made(group: str, text: str) -> Any:
    node = json.loads(text)
    target = str(node.pop("_target_", None))
    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
        unknown = [key for key in node if key not in inspect.signature(made).parameters]
        if unknown:
            owner = dict(titles()).get(f"{group}.{unknown[0]}", "").partition(" ")[0]
            raise ConfigError(
                f"{group}.{unknown[0]}: there is no such key in {target}",
                hint=f"It belongs to {owner}." if owner else f"Allowed: {', '.join(node)}.",
            )
        return made(**_tuples(node))
    except LaunchError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{group}._target_={target}: cannot be made from {', '.join(node)}: {reason}",
            hint="It must name a class that takes the group's other keys.",
        ) from error


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
