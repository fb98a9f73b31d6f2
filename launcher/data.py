"""Entries of ``data``: where data lie, and what stands for a path that only hosts decide.

Why a token stands for such a path until the hosts were looked at: it holds their folder and the
digest of what is sent, and goes into arguments and variables by way of ``${data:NAME}``, beside
whatever text. Two noncharacters of Unicode, which no text holds, are its ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher import params
from launcher.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.job import Facts, JobSpec

_KEYS = ("path", "upload", "digest")
_PLACES = ("script_params", "env")  # that a path of a host may stand in


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Data of this machine that hosts are to have."""

    path: str  # absolute, here
    digest: str = ""  # of the content that is meant; "": what it is now


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Data that hosts have, or will have before the run starts."""

    name: str  # of the entry
    digest: str  # of names and contents
    source: str  # path here
    path: str  # on the hosts
    files: int
    size: int  # bytes
    lacking: tuple[str, ...]  # hosts that did not have it when they were looked at


def entry(name: str, given: Any) -> dict[str, Any]:
    """Return the entry with its path made absolute; raise ConfigError on what is none."""
    if not isinstance(given, dict) or not isinstance(given.get("path"), str):
        raise ConfigError(
            f"data.{name}={given}: an entry has a path", hint=f"data.{name}.path=/where/it/lies"
        )
    for key, value in given.items():
        if key not in _KEYS:
            raise ConfigError(
                f"data.{name}.{key}={value}: there is no such key",
                hint=f"{nearest(str(key), _KEYS)}Allowed: data.{name}.path=/where/it/lies and "
                f"data.{name}.upload=true.",
            )
    upload, digest = given.get("upload", False), given.get("digest") or ""
    if not isinstance(upload, bool):
        raise ConfigError(
            f"data.{name}.upload={upload}: not true or false",
            hint="true: hosts of compute=ssh get it from here; false: it lies on each of them.",
        )
    if not isinstance(digest, str) or (digest and (len(digest) != 64 or not digest.isalnum())):
        raise ConfigError(
            f"data.{name}.digest={digest}: not the digest of data",
            hint="It is what a run's record names; null: what the path holds now.",
        )
    path = os.path.abspath(given["path"])
    if not upload:
        return {"path": path}
    return {"path": path, "upload": True, **({"digest": digest} if digest else {})}


def token(name: str) -> str:
    """Return what stands for the path of an entry that is sent."""
    return f"\ufdd0data:{name}\ufdd1"


def there(workdir: str, digest: str, path: str) -> str:
    """Return where hosts have what is sent of ``path``."""
    return f"{workdir}/data/{digest}/{os.path.basename(path)}"


def placed(value: Any, paths: Mapping[str, str]) -> Any:
    """Return ``value`` with all texts, of lists and mappings too, replaced as ``paths`` say."""
    if isinstance(value, str):
        for old, new in paths.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {placed(key, paths): placed(each, paths) for key, each in value.items()}
    return [placed(each, paths) for each in value] if isinstance(value, list) else value


def settled(values: dict[str, Any], *, sent: bool) -> dict[str, Any]:
    """Return a configuration in which a token stands only where it may: ``sent``, or nowhere."""
    entries = {name: entry(name, each) for name, each in values["data"].items()}
    paths = {token(name): each["path"] for name, each in entries.items() if each.get("upload")}
    if not paths:
        return values
    if not sent:
        return {key: placed(each, paths) for key, each in values.items()}
    for key, value in values.items():
        if key not in _PLACES and placed(value, paths) != value:
            raise ConfigError(
                f"{key}: ${{data:...}} of what is uploaded stands in {' and '.join(_PLACES)} only",
                hint="Where it lies is known once the hosts were looked at.",
            )
    return values


def uploads(entries: Mapping[str, dict[str, Any]], secrets: Mapping[str, str]) -> dict[str, Upload]:
    """Return the entries of which hosts get what is here; ConfigError where a secret names one."""
    found = {}
    for name, each in entries.items():
        if each.get("upload"):
            found[name] = Upload(path=each["path"], digest=each.get("digest", ""))
            for key, value in secrets.items():
                if token(name) in value:
                    raise ConfigError(
                        f"env.{key}: a secret that holds ${{data:{name}}}",
                        hint="A path is no secret: give it in a variable of another name.",
                    )
    return found


def located(job: JobSpec, facts: Facts) -> JobSpec:
    """Return the job with the paths that data have on its hosts."""
    if not facts.data:
        return job
    paths = {token(each.name): each.path for each in facts.data}
    digests = {each.name: each.digest for each in facts.data}
    config = {**job.config, **{key: placed(job.config[key], paths) for key in _PLACES}}
    config["data"] = {
        name: {**each, "digest": digests[name]} if name in digests else each
        for name, each in job.config["data"].items()
    }
    return replace(
        job,
        args=tuple(params.STYLES[config["params_style"]](config["script_params"])),
        env=placed(job.env, paths),
        data={name: placed(path, paths) for name, path in job.data.items()},
        config=config,
    )


def recorded(config: dict[str, Any], workdir: str, chosen: set[str]) -> dict[str, Any]:
    """Return a run's configuration to start from: tokens are back, and digests say what is meant.

    ``chosen``: keys that get new values; of other data than before any content will do.
    """
    entries, paths = {}, {}
    for name, each in config["data"].items():
        entries[name] = dict(each)
        if each.get("digest"):
            paths[there(workdir, each["digest"], each["path"])] = token(name)
            if chosen & {"data", f"data.{name}", f"data.{name}.path"}:
                del entries[name]["digest"]
    kept = {key: placed(config[key], paths) for key in _PLACES}
    return {**config, **kept, "data": entries}
