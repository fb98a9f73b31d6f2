"""A composed point: what its ranks must compose too, and what tells it from other points.

Why a rank composes again, and compares: its script does so by itself, so that a run can be run by
hand, and again with another override. What it finds must be what was launched: a file that git
ignores is in no snapshot, and a run with another configuration is worse than none.

Why ``${now:...}`` travels: it would be another instant in each rank.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

if TYPE_CHECKING:
    from omegaconf import DictConfig

_NOW = re.compile(r"\$\{now:([^{}]*)\}")
_VARIABLE = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)")


def composed_text(point: DictConfig, cwd: str) -> str:
    """Return the text of application.json: what callback.py reads in a rank.

    ``cwd``: where the application was started, as a rank sees it; "": nowhere.
    """
    job = point.hydra.job
    values = {
        "config": _unresolved(point),
        "now": _instants(point),
        "cwd": cwd,
        "num": OmegaConf.select(job, "num", throw_on_missing=False),
        "id": OmegaConf.select(job, "id", throw_on_missing=False),
    }
    return json.dumps(values, indent=1, default=str) + "\n"


def identity(point: DictConfig) -> str:
    """Return the digest of the configuration that decides a point's outcome.

    Instants and folders are left as they are written; a variable counts by its value, of which only
    this digest is kept.
    """
    config = _unresolved(point)
    text = json.dumps(config, sort_keys=True, default=str)
    used = {name: os.environ.get(name) for name in _VARIABLE.findall(text)}
    job = point.hydra.job
    of_hydra = {"chdir": job.chdir, "env_set": OmegaConf.to_container(job.env_set, resolve=False)}
    whole = json.dumps([config, used, of_hydra], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()


def _unresolved(point: DictConfig) -> dict[str, Any]:
    values = OmegaConf.to_container(point, resolve=False, enum_to_str=True)
    assert isinstance(values, dict)  # noqa: S101 - a configuration is one
    return {str(key): value for key, value in values.items() if key != "hydra"}


def _instants(point: DictConfig) -> list[list[str]]:
    """Return (format, text) of each ``${now:...}`` of the configuration, as Hydra has it here."""
    text = json.dumps(OmegaConf.to_container(point, resolve=False, enum_to_str=True), default=str)
    formats = dict.fromkeys(json.loads(f'"{each}"') for each in _NOW.findall(text))
    found = []
    for each in formats:
        probe = OmegaConf.create({"now": f"${{now:{each}}}"})
        OmegaConf.copy_cache(from_config=point, to_config=probe)
        found.append([each, str(probe.now)])
        OmegaConf.copy_cache(from_config=probe, to_config=point)
    return found
