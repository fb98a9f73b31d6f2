"""The environments in the cache: listed, and removed by key."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from launcher.environment.answers import cache_dir
from launcher.environment.locate import MARKER, read_marker
from launcher.environment.locked import held
from launcher.errors import ConfigError, ProvisionError, StoreError, nearest
from launcher.locks import is_locked


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One environment of the cache, or what is left of one."""

    key: str
    path: str
    state: str  # ready, building, unfinished (a build was killed: removed by the next one)
    kind: str = ""  # cpu, gpu
    provision: str = ""  # venv, conda
    requirements: tuple[str, ...] = ()
    created: float = 0.0  # seconds since the epoch
    size_mb: int = 0


def list_environments() -> tuple[Listed, ...]:
    """Return the environments in the cache, oldest first; those without a date last."""
    folder = Path(cache_dir()) / "envs"
    keys = {path.name.partition(".")[0] for path in folder.glob("*") if path.name[0] != "."}
    found = [each for each in (_listed(folder / key) for key in keys) if each]
    return tuple(sorted(found, key=lambda each: (each.created or time.time(), each.key)))


def remove(key: str) -> Listed:
    """Return the environment that ``key``, or its first digits, names, after removing it.

    ConfigError: no environment, or several, have that key.
    ProvisionError: it is being built, or a process of this machine uses it.
    """
    listed = _one(key)
    folder = Path(listed.path)
    log = folder.with_name(f"{folder.name}.log")

    def refuse() -> None:
        raise ProvisionError(
            f"{folder.name} is being built (log: {log})", hint="Remove it when that has ended."
        )

    with held(log, refuse):
        if users := _processes_in(folder):
            raise ProvisionError(
                f"{folder.name} is in use by process {', '.join(users)}",
                hint="Remove it when that run has ended; launcher runs shows which.",
            )
        # The marker first: from here on nobody finds half an environment.
        (folder / MARKER).unlink(missing_ok=True)
        try:
            for each in (folder, folder.with_name(f"{folder.name}.work")):
                if each.exists():
                    shutil.rmtree(each)
            log.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} is removed in part only: {error}") from error
    return listed


def _processes_in(folder: Path) -> list[str]:
    """Return the processes of this machine that were started with a program of ``folder``."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in each.read_bytes():
                found.append(each.parent.name)
    return found


def _listed(folder: Path) -> Listed | None:
    """Return what ``folder`` is; None where only the log of a failed build is there."""
    marker = read_marker(folder)
    if marker is None:
        if is_locked(f"{folder}.log"):
            return Listed(key=folder.name, path=str(folder), state="building")
        if not folder.exists():
            return None
        return Listed(key=folder.name, path=str(folder), state="unfinished")
    content = marker.get("content", {})  # another version of the launcher may have written it
    return Listed(
        key=folder.name,
        path=str(folder),
        state="ready",
        kind=content.get("kind", ""),
        provision=content.get("provision", ""),
        requirements=(*content.get("requirements", ()), *content.get("horovod", ())[:1]),
        created=marker.get("created", 0.0),
        size_mb=marker.get("bytes", 0) >> 20,
    )


def _one(key: str) -> Listed:
    listed = list_environments()
    found = [each for each in listed if key and each.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    what = "are several environments" if found else "is no environment"
    raise ConfigError(
        f"{key!r}: there {what} with this key in {cache_dir()}",
        hint=nearest(key, [each.key for each in listed]) + "`launcher env list` shows all.",
    )
