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
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from launcher.errors import SubmitError
from launcher.job import RunState
from launcher.observe import index, read
from launcher.outcome import record_told
from launcher.processes import beside
from launcher.record import record_outcome
from launcher.ssh import results
from launcher.ssh.connection import side_by_side
from launcher.ssh.ready import ready
from launcher.ssh.where import asked_of, hosts_of, waits, way

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.hosts import Host
    from launcher.scheduler import Open
    from launcher.ssh.connection import Target
    from launcher.store import RunFolder

_EVENTS = "events.jsonl"
_WAITS_S = 600.0  # for a host that is away when a run has ended, unless it is why


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a host tells of a run: whether it was begun, and is supervised.

    ``coming``: who is to start it lives; ``away``: why others of its hosts are not heard of.
    """

    claimed: bool
    alive: bool
    restarted: bool  # the host itself, since then
    coming: bool
    away: str = ""


class UnkeptError(SubmitError):
    """What a run writes cannot be kept here; it is asked for again."""


_Answer: TypeAlias = "tuple[Seen, list[tuple[int, bytes]]]"  # with pieces of its events
_Told: TypeAlias = "dict[str, _Answer | SubmitError]"  # by run


def bring(runs: Sequence[Open]) -> dict[str, Seen | SubmitError]:
    """Bring what runs have written; return what the first host of each tells, by id.

    Of a run that waits that is its pool's host; of one that was cancelled meanwhile there is
    nothing. One request a host for all its runs, the hosts side by side; a SubmitError where that
    host was not reached.
    """
    found: dict[str, Seen | SubmitError] = {}
    left = [run for run in runs if asked_of(run)]
    while left:
        asked = _asked(left)
        told = dict(zip(asked, _all(asked), strict=True))
        now = [(run, _written(run, told)) for run in left]
        left = []
        for old, new in now:
            known = new if isinstance(new, SubmitError) else _seen(old, told)
            found[old.folder.id] = known
            # What waited may have begun on hosts that were not asked.
            if not isinstance(new, SubmitError) and {*asked_of(new)} - {*asked_of(old)}:
                left.append(new)
    return found


def _all(asked: Mapping[Target, Sequence[Open]]) -> list[_Told | SubmitError]:
    return side_by_side(lambda to: _bring(to, asked[to]), [*asked])


def _asked(runs: Sequence[Open]) -> dict[Target, list[Open]]:
    """Return what each host is asked of."""
    asked: dict[Target, list[Open]] = {}
    for run in runs:
        for host in asked_of(run):
            asked.setdefault(way(run, host), []).append(run)
    return asked


def _answers(run: Open, told: Mapping[Target, _Told | SubmitError]) -> list[_Answer | SubmitError]:
    """Return what is told by those hosts that know of the run's beginning and end.

    While it waits, or has just been started elsewhere, that is its pool's host, too.
    """
    knows = dict.fromkeys((*asked_of(run)[:1], *hosts_of(run)[:1]))
    found = [told[way(run, host)] for host in knows]
    return [each if isinstance(each, SubmitError) else each[run.folder.id] for each in found]


def _written(run: Open, told: Mapping[Target, _Told | SubmitError]) -> Open | SubmitError:
    """Return the run with its new events, which are written here: those of several begin alike.

    A SubmitError: it has ended, and what a host has of it is still to be brought.
    """
    known = [each for each in _answers(run, told) if not isinstance(each, SubmitError)]
    try:
        return _write_events(run, max((events for _, events in known), key=_length, default=[]))
    except SubmitError as error:
        return error


def _seen(run: Open, told: Mapping[Target, _Told | SubmitError]) -> Seen | SubmitError:
    """Return what is told of how it is."""
    answers = _answers(run, told)
    known = [each[0] for each in answers if not isinstance(each, SubmitError)]
    alive, coming = any(each.alive for each in known), any(each.coming for each in known)
    error = next((each for each in answers if isinstance(each, SubmitError)), None)
    if error is not None and not (alive or (coming and waits(run))):
        return error
    restarted = any(each.restarted for each in known)  # the pool's host knows nothing of that
    others = [told[way(run, host)] for host in hosts_of(run)[1:]]
    away = "; ".join(each.message for each in others if isinstance(each, SubmitError))
    return replace(known[0], alive=alive, coming=coming, restarted=restarted, away=away)


def _length(pieces: Sequence[tuple[int, bytes]]) -> int:
    return sum(len(data) for _, data in pieces)


def _bring(to: Target, runs: Sequence[Open]) -> _Told:
    """Return what a host tells of its runs, with their events, which are not written yet.

    Of one that cannot be kept here that is why, and what the others wrote is brought all the same.
    """
    channel = ready(to)
    found: _Told = {}
    more = True
    while more:
        runs = [run for run in runs if not isinstance(found.get(run.folder.id), SubmitError)]
        have = [
            {
                "run": run.folder.id,
                "have": _have(run.folder, found),
                # Its supervisor hears of all ranks.
                "ranks": to in [way(run, host) for host in hosts_of(run)[:1]],
                "group": run.told("group") or "",
            }
            for run in runs
        ]
        told, body = channel.ask("pull", runs=have)
        more, at = told["more"], 0
        folders = {run.folder.id: run.folder for run in runs}
        for run_id, values in told["runs"].items():
            pieces, events = values.pop("pieces"), _known(found, run_id)
            found[run_id] = Seen(**values), events
            for path, offset, size, changed in pieces:
                data = body[at : at + size]
                at += size
                if path == _EVENTS:
                    events.append((offset, data))
                    continue
                try:
                    _write(folders[run_id], path, offset, data, changed)
                except UnkeptError as error:
                    found[run_id] = error
    return found


def _known(found: _Told, run_id: str) -> list[tuple[int, bytes]]:
    """Return the pieces of a run's events that have come so far."""
    answer = found.get(run_id)
    return [] if answer is None or isinstance(answer, SubmitError) else answer[1]


def _have(folder: RunFolder, found: _Told) -> dict[str, tuple[int, int]]:
    """Return size and time of change of what was brought already."""
    have = {}
    for name in ("", "logs", "ranks"):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder.file(name)) as there:
            for each in there:
                if name or each.name in (_EVENTS, "metrics.jsonl"):
                    about = each.stat()
                    path = os.path.join(name, each.name)
                    have[path] = about.st_size, about.st_mtime_ns
    for offset, data in _known(found, folder.id):
        have[_EVENTS] = offset + len(data), 0
    return have


def _write(folder: RunFolder, path: str, offset: int, data: bytes, changed: int) -> None:
    """Write what has come of a file."""
    target_path = os.path.normpath(folder.file(path))
    if not target_path.startswith(f"{folder.path}{os.sep}"):
        return  # a host does not say where else in our file system it writes
    try:
        _write_to(target_path, path, offset, data, changed)
    except OSError as error:
        what = f"what the run writes cannot be kept here, in {folder.path}: {error.strerror}"
        raise UnkeptError(what) from error


def _write_to(target_path: str, path: str, offset: int, data: bytes, changed: int) -> None:
    os.makedirs(os.path.dirname(target_path), exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    if path.startswith("ranks/"):
        new = beside(target_path)
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


def _write_events(run: Open, pieces: Sequence[tuple[int, bytes]]) -> Open:
    """Write what the run's events have become; before its end is told, all else is brought."""
    offset, text = (pieces[0][0] if pieces else 0), b"".join(data for _, data in pieces)
    text = text[: text.rfind(b"\n") + 1]  # a line that is being written comes whole the next time
    new = _read(text)
    if new:
        run = replace(run, events=[*read(run.folder).events, *new])
    final = bool(new) and RunState(new[-1]["state"]).final
    if final:
        _finish(run)
        _commit(run)
    if text:
        _write(run.folder, _EVENTS, offset, text, 0)
    if final:
        with contextlib.suppress(Exception):  # without its line in the index, a list is slower
            index(run.folder)
    return run


def _read(text: bytes) -> list[dict[str, Any]]:
    """Return the events of these lines."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [each for each in found if "state" in each]


def bring_logs(run: Open) -> dict[str, SubmitError]:
    """Bring the logs of a run that its hosts have; return why not, by host."""
    hosts = hosts_of(run)
    answers = side_by_side(lambda host: _bring(way(run, host), [run])[run.folder.id], hosts)
    pairs = zip(hosts, answers, strict=True)
    return {host.name: each for host, each in pairs if isinstance(each, SubmitError)}


def _finish(run: Open) -> None:
    """Bring the last of a run that has ended: logs, and outputs, from each host that is reached.

    SubmitError: a host that may come back is away, or there is no room here; the next command
    goes on.
    """
    hosts, away = hosts_of(run), bring_logs(run)
    with contextlib.suppress(OSError):  # there is no room: `launcher show` names what is left
        found, unasked = results.look(run)
        away |= unasked
        outputs = [each for each in found if each.path.startswith("outputs/")]
        away |= results.bring(run, outputs, lambda _: None)
    for host in hosts:
        error = away.get(host.name)
        away_now = error is not None and error.transient and _comes_back(run.last, host)
        if error is not None and (away_now or isinstance(error, UnkeptError)):
            raise error


def _comes_back(end: dict[str, Any], host: Host) -> bool:
    """Return whether to wait for a host that is away when a run has ended."""
    words = re.split(r"[^\w.@:-]+", end.get("reason", ""))
    named = any(each.rstrip(".:") in (host.name, host.hostname) for each in words)
    return not named and time.time() < end["time"] + _WAITS_S


def _commit(run: Open) -> None:
    """Commit the outcome that the supervisor told; to do so again changes nothing."""
    last = run.events[-1]
    begun = (each["time"] for each in run.events if each["state"] == RunState.RUNNING.value)
    values = {name: each for name, each in last.items() if name != "time"}
    values |= {"started": next(begun, None), "ended": last["time"]}
    record_told(run.folder, run.record, values, record_outcome)
