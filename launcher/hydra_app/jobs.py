"""A composed point of a Hydra application -> its job.

Why each point's own hydra.launcher is read: it may say ``nodes: ${nodes}``, or stand in a file
that the point chooses, so that each point has its own resources.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher import config as configuration
from launcher.environment import requirement
from launcher.errors import ConfigError
from launcher.hydra_app.composed import composed_text, identity
from launcher.hydra_app.entry import typed, words
from launcher.job import Application

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from omegaconf import DictConfig

    from launcher.hydra_app.entry import Entry
    from launcher.job import JobSpec

_NOT_A_JOB = ("_target_", "_recursive_", "rerun_policy", "plan", "defaults")


def job_of(point: DictConfig, overrides: Sequence[str], entry: Entry, outputs: str) -> JobSpec:
    """Return the job of a composed point; raise ConfigError where there is none.

    ``overrides``: of the point alone. ``outputs``: the folder that Hydra would run it in.
    """
    values = node(point)
    for name in _NOT_A_JOB:
        values.pop(name, None)
    if entry.source_directory is not None:
        values["source_directory"] = entry.source_directory
    elsewhere = isinstance(values["compute"], dict) and "hosts" in values["compute"]
    given = {"": list(_words(entry, values["source_directory"]))} if entry.words else {}
    values |= {"entry_script": _relative(entry.entry_script, values["source_directory"])}
    values |= {"script_params": {**given, **words(point, overrides)}, "params_style": "overrides"}
    _require_hydra(values["environment"])
    job, secrets = configuration.job_of(values, (*typed(point, "hydra"), *overrides))
    for name in secrets:
        raise ConfigError(
            f"hydra.launcher.env.{name}: Hydra writes its configuration into files, and this is a "
            "secret",
            hint=f"export {name}=..., and name it: hydra.launcher.secrets=[{name}]",
        )
    application = Application(
        outputs="" if elsewhere else outputs,
        composed=composed_text(point, "" if elsewhere else os.getcwd()),
        identity=identity(point),
    )
    return replace(job, application=application)


def node(point: DictConfig) -> dict[str, Any]:
    """Return hydra.launcher as plain values; ConfigError where it cannot be resolved."""
    with _current(point):
        try:
            values = OmegaConf.to_container(
                point.hydra.launcher, resolve=True, throw_on_missing=True, enum_to_str=True
            )
        except OmegaConfBaseException as error:
            first = str(error).partition("\n")[0]
            raise ConfigError(f"{error.full_key or 'hydra.launcher'}: {first}") from error
    return {str(key): value for key, value in dict(values).items()}  # type: ignore[arg-type]


def directory(point: DictConfig) -> str:
    """Return the folder that Hydra gives a point of a sweep, absolute."""
    with _current(point):
        sweep = point.hydra.sweep
        return os.path.abspath(os.path.join(str(sweep.dir), str(sweep.subdir)))


@contextlib.contextmanager
def _current(point: DictConfig) -> Iterator[None]:
    """Let ``${hydra:...}`` mean this point."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(point)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def _relative(script: str, source: str) -> str:
    return os.path.relpath(script, source) if os.path.isabs(script) else script


def _words(entry: Entry, source: str) -> Iterator[str]:
    """Yield the words of an entry, with a folder of configurations as a rank finds it."""
    before = ""
    for word in entry.words:
        if before == "--config-dir":
            inside = os.path.relpath(word, source)
            outside = inside.partition("/")[0] == ".."
            yield os.path.abspath(word) if outside else inside
        else:
            yield word
        before = word


def _require_hydra(environment: Any) -> None:
    """Have Hydra in an environment that is built: its script needs it."""
    if isinstance(environment, dict) and environment.get("provision") != "current":
        packages = environment["pip_packages"]
        if not any(requirement.name(each) == "hydra-core" for each in packages):
            packages.append(f"hydra-core=={hydra.__version__}")
