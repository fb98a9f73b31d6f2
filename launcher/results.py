"""What a run has to show: the files of its outputs and checkpoints, here or on its hosts only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from launcher.errors import StoreError
from launcher.job import RunState
from launcher.observe import read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.errors import SubmitError
    from launcher.store import RunFolder

TOPS = ("outputs", "checkpoints")
_SOME = 5  # names that an error tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One file."""

    path: str  # in the run's folder, as its script knows it
    place: str  # here
    size: int
    changed: int = 0  # time of change in ns
    host: str = ""  # that has it; "": it was made here

    @property
    def here(self) -> bool:
        """Return whether it is here as the host has it."""
        try:
            about = os.stat(self.place)
        except OSError:
            return False
        return not self.host or (about.st_size, about.st_mtime_ns) == (self.size, self.changed)


def listed(folder: RunFolder) -> list[Result]:
    """Return all that a run has; its hosts are asked where that can be new, if they are reached."""
    run = read(folder)
    if run.record.hosts is None:
        return _made_here(folder)
    from launcher.ssh import results  # noqa: PLC0415 - most runs are here

    # Of one that was ended from here, for one whose host was away, nothing may be known yet.
    return _known(folder) or results.look(run)[0]


def elsewhere(folder: RunFolder) -> list[tuple[str, int, int]]:
    """Return of each host how many files, and bytes, of a run only it has."""
    found: dict[str, tuple[int, int]] = {}
    for each in _known(folder):
        if not each.here:
            files, size = found.get(each.host, (0, 0))
            found[each.host] = files + 1, size + each.size
    return [(host, *extent) for host, extent in found.items()]


def _known(folder: RunFolder) -> list[Result]:
    """Return what is known of a run's hosts; those of one that goes on are asked."""
    run = read(folder)
    if run.record.hosts is None:
        return []
    from launcher.ssh import results  # noqa: PLC0415 - most runs are here

    final = RunState(run.last["state"]).final
    return results.known(folder) if final else results.look(run)[0]


def fetch(folder: RunFolder, paths: Sequence[str], say: Callable[[str], object]) -> list[Result]:
    """Return what ``paths`` name, files, folders or patterns, or all; what is not here is brought.

    SubmitError: a host is not reached, after all else was brought. StoreError: there is no such
    file, or no room for it.
    """
    run = read(folder)
    errors: dict[str, SubmitError] = {}
    if run.record.hosts is None:
        found = _made_here(folder)
    else:
        from launcher.ssh import mirror, results  # noqa: PLC0415 - most runs are here

        found = results.known(folder)
        if not (paths and RunState(run.last["state"]).final and _are_here(found, paths)):
            found, errors = results.look(run)
            errors |= results.bring(run, _named(found, paths), say)
            if not paths:  # those of a host that was lost, and is back
                errors |= mirror.bring_logs(run)
    for error in errors.values():
        raise error
    for each in paths:
        if not _named(found, (each,)):
            some = ", ".join(one.path for one in found[:_SOME]) + (", ..." if found[_SOME:] else "")
            raise StoreError(
                f"run {folder.id} has no {each}",
                hint=f"It has: {some}" if found else "It has no outputs and no checkpoints.",
            )
    return [each for each in _named(found, paths) if os.path.isfile(each.place)]


def _are_here(found: Sequence[Result], paths: Sequence[str]) -> bool:
    named = [_named(found, (each,)) for each in paths]
    return all(each and all(one.here for one in each) for each in named)


def _named(found: Sequence[Result], paths: Sequence[str]) -> list[Result]:
    wanted = [os.path.normpath(each) for each in paths]
    return [each for each in found if not wanted or any(_is(each.path, one) for one in wanted)]


def _is(path: str, wanted: str) -> bool:
    return path == wanted or path.startswith(f"{wanted}/") or fnmatchcase(path, wanted)


def _made_here(folder: RunFolder) -> list[Result]:
    found = []
    for top in TOPS:
        for where, folders, names in os.walk(folder.file(top)):
            folders.sort()
            for name in sorted(names):
                place = os.path.join(where, name)
                if os.path.isfile(place):
                    path = os.path.relpath(place, folder.path)
                    found.append(Result(path=path, place=place, size=os.path.getsize(place)))
    return found
