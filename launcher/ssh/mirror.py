"""A run's folder here as a mirror of those on its hosts: what was written there, as it was written.

Why to write at an offset, and not to append: files there only grow, so that two commands that
bring the same bytes at the same time do no harm, and what is here says what is still wanted. Why
the event of the end comes last of all: who reads it finds the logs and the results here, and the
outcome committed; if we die before, the next command begins where we were.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import SubmitError
from launcher.job import RunState
from launcher.observe import index
from launcher.outcome import record_told
from launcher.record import record_outcome
from launcher.ssh.connection import side_by_side
from launcher.ssh.ready import ready, target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.hosts import Host
    from launcher.job import RunRecord
    from launcher.scheduler import Open
    from launcher.ssh.channel import Channel
    from launcher.ssh.connection import Target
    from launcher.store import RunFolder

_EVENTS = "events.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the first host tells of a run: whether it is there, was begun, and is supervised."""

    there: bool
    claimed: bool
    alive: bool
    restarted: bool  # the host itself, since then


def bring(runs: Sequence[Open]) -> dict[str, Seen | SubmitError]:
    """Bring what runs have written; return what the first host of each tells, by id.

    One request a host for all its runs, the hosts side by side; a SubmitError where the first host
    of a run was not reached.
    """
    asked: dict[Target, list[Open]] = {}
    for run in runs:
        for host in _hosts(run):
            asked.setdefault(_way(run, host), []).append(run)
    ways = list(asked)
    answers = side_by_side(lambda way: _bring(way, asked[way]), ways)
    told = dict(zip(ways, answers, strict=True))
    found: dict[str, Seen | SubmitError] = {}
    for run in runs:
        answer = told[_way(run, _hosts(run)[0])]
        if isinstance(answer, SubmitError):
            found[run.folder.id] = answer
        else:
            seen, events = answer[run.folder.id]
            found[run.folder.id] = seen
            _write_events(run, events)
    return found


def _hosts(run: Open) -> tuple[Host, ...]:
    assert run.record.hosts is not None  # noqa: S101 - a run of compute=ssh has them
    return run.record.hosts.hosts


def _way(run: Open, host: Host) -> Target:
    assert run.record.hosts is not None  # noqa: S101
    return target(run.record.hosts, host.name)


def _bring(way: Target, runs: Sequence[Open]) -> dict[str, tuple[Seen, list[tuple[int, bytes]]]]:
    """Return what a host tells of its runs, with their events, which are not written yet."""
    channel = ready(way)
    found: dict[str, tuple[Seen, list[tuple[int, bytes]]]] = {}
    more = True
    while more:
        have = [
            {
                "run": run.folder.id,
                "have": _have(run.folder, found),
                "ranks": _way(run, _hosts(run)[0]) == way,  # its supervisor hears of all ranks
            }
            for run in runs
        ]
        told, body = channel.ask("pull", runs=have)
        more, at = told["more"], 0
        for run_id, values in told["runs"].items():
            folder = next(run.folder for run in runs if run.folder.id == run_id)
            pieces = values.pop("pieces")
            events = found[run_id][1] if run_id in found else []
            found[run_id] = Seen(**values), events
            for path, offset, size, changed in pieces:
                data = body[at : at + size]
                at += size
                if path == _EVENTS:
                    events.append((offset, data))
                else:
                    _write(folder, path, offset, data, changed)
    return found


def _have(
    folder: RunFolder, found: dict[str, tuple[Seen, list[tuple[int, bytes]]]]
) -> dict[str, tuple[int, int]]:
    """Return size and time of change of what was brought already."""
    have = {}
    for name in ("", "logs", "ranks"):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder.file(name)) as there:
            for each in there:
                if name or each.name in (_EVENTS, "metrics.jsonl"):
                    about = each.stat()
                    path = os.path.join(name, each.name)
                    have[path] = about.st_size, about.st_mtime_ns
    for offset, data in found[folder.id][1] if folder.id in found else []:
        have[_EVENTS] = offset + len(data), 0
    return have


def _write(folder: RunFolder, path: str, offset: int, data: bytes, changed: int) -> None:
    target_path = os.path.normpath(folder.file(path))
    if not target_path.startswith(f"{folder.path}{os.sep}"):
        return  # a host does not say where else in our file system it writes
    os.makedirs(os.path.dirname(target_path), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    if path.startswith("ranks/"):
        new = f"{target_path}.{os.getpid()}.new"
        with open(new, "wb") as whole:
            whole.write(data)
        os.utime(new, ns=(changed, changed))
        os.replace(new, target_path)
        return
    file = os.open(target_path, flags, 0o644)
    try:
        while data:
            count = os.pwrite(file, data, offset)
            data, offset = data[count:], offset + count
    finally:
        os.close(file)


def _write_events(run: Open, pieces: Sequence[tuple[int, bytes]]) -> None:
    """Write what the run's events have become; before its end is told, all else is brought."""
    if not pieces:
        return
    last = _last(b"".join(data for _, data in pieces))
    final = last is not None and RunState(last["state"]).final
    if last is not None and final:
        _finish(run)
        _commit(run.folder, run.record, last, _started(run, pieces))
    for offset, data in pieces:
        _write(run.folder, _EVENTS, offset, data, 0)
    if final:
        with contextlib.suppress(Exception):  # without its line in the index, a list is slower
            index(run.folder)


def _last(events: bytes) -> dict[str, Any] | None:
    """Return the last whole event of these lines."""
    for line in reversed(events.split(b"\n")[:-1]):
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(line)
            if "state" in found:
                return found
    return None


def _started(run: Open, pieces: Sequence[tuple[int, bytes]]) -> float | None:
    lines = b"".join(data for _, data in pieces).split(b"\n")
    events = [*run.events, *(json.loads(line) for line in lines if b'"RUNNING"' in line)]
    return next((each["time"] for each in events if each["state"] == "RUNNING"), None)


def _finish(run: Open) -> None:
    """Bring the last of a run that has ended: logs, and results, from each host that is reached.

    Of files that several hosts have under one name the first host's is the one; the others lie in
    ``outputs.HOST``.
    """
    ways = [_way(run, host) for host in _hosts(run)]
    side_by_side(lambda way: _bring(way, [run]), ways)
    taken: set[str] = set()
    for way in ways:
        with contextlib.suppress(SubmitError):
            channel = ready(way)
            there = channel.ask("outputs", run=run.folder.id)[0]
            for path, size, changed in there:
                top = f"outputs.{way.name}" if path in taken else "outputs"
                _fetch(channel, run.folder, (path, top), (size, changed))
            taken |= {path for path, *_ in there}


def _fetch(
    channel: Channel, folder: RunFolder, where: tuple[str, str], stamp: tuple[int, int]
) -> None:
    """Bring a file that does not grow any more, unless it is here; whole or not at all.

    ``where``: its path below the host's ``outputs``, and the folder that it goes to.
    """
    path, top = where
    place = os.path.normpath(folder.file(top, path))
    if not place.startswith(folder.file(top) + os.sep):
        return
    with contextlib.suppress(OSError):
        about = os.stat(place)
        if (about.st_size, about.st_mtime_ns) == stamp:
            return
    os.makedirs(os.path.dirname(place), exist_ok=True)
    part, offset = f"{place}.{os.getpid()}.part", 0
    with open(part, "wb") as file:
        while data := channel.ask("fetch", run=folder.id, path=f"outputs/{path}", offset=offset)[1]:
            file.write(data)
            offset += len(data)
    os.utime(part, ns=(stamp[1], stamp[1]))
    os.replace(part, place)


def _commit(
    folder: RunFolder, record: RunRecord, last: dict[str, Any], started: float | None
) -> None:
    """Commit the outcome that the supervisor told; to do so again changes nothing."""
    values = {name: each for name, each in last.items() if name != "time"}
    values |= {"started": started, "ended": last["time"]}
    record_told(folder, record, values, record_outcome)
