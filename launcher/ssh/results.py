"""What runs on hosts have to show, on its way here: outputs at the end, all of it when asked.

What each host has is written down in ``results.json``, so that what is not here is known without
asking. Why checkpoints wait to be asked for: they may be many, and larger than all else.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from launcher.errors import StoreError, SubmitError
from launcher.processes import beside
from launcher.results import TOPS, Result
from launcher.show import bytes_text
from launcher.ssh.connection import side_by_side
from launcher.ssh.ready import ready
from launcher.ssh.where import hosts_of, way
from launcher.store import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.scheduler import Open
    from launcher.ssh.channel import Channel
    from launcher.ssh.connection import Target
    from launcher.store import RunFolder

_KNOWN = "results.json"
_PARTS = ".parts"  # of files that are on their way
_BATCH = 1024  # files that one request asks for
_TRIES = 5  # for a file that changes meanwhile
_SAYS_S = 5.0
_STALE_S = 86400.0  # a part that nobody goes on with

_Told = list[tuple[str, int, int]]  # path, size, time of change in ns


def known(folder: RunFolder) -> list[Result]:
    """Return what the hosts of a run had when they were asked last."""
    return _placed(folder, _recall(folder))


def look(run: Open) -> tuple[list[Result], dict[str, SubmitError]]:
    """Return what the hosts of a run have, and why some did not tell: of these, as known.

    Of a host that has the run no more that is what was brought before.
    """
    ways = [way(run, host) for host in hosts_of(run)]
    answers = side_by_side(lambda to: ready(to).ask("results", run=run.folder.id)[0], ways)
    asked = {to.name: answer for to, answer in zip(ways, answers, strict=True)}
    before = _recall(run.folder)
    told: dict[str, _Told] = {}
    for host, answer in asked.items():
        if isinstance(answer, list):
            told[host] = answer
        elif host in before:
            told[host] = before[host]
    removed = {
        (each.host, each.path)
        for each in _placed(run.folder, told)
        if asked[each.host] is None and not each.here
    }
    told = {
        host: [each for each in files if (host, each[0]) not in removed]
        for host, files in told.items()
    }
    if told != before:
        with contextlib.suppress(OSError):  # then all is asked again
            write_atomically(run.folder.file(_KNOWN), json.dumps(told))
    errors = _errors([*asked], answers) | {host: _removed(run, host) for host, _ in removed}
    return _placed(run.folder, told), errors


def _errors(names: Sequence[str], answers: Sequence[Any]) -> dict[str, SubmitError]:
    pairs = zip(names, answers, strict=True)
    return {name: each for name, each in pairs if isinstance(each, SubmitError)}


def _removed(run: Open, host: str) -> SubmitError:
    return SubmitError(
        f"{host}: run {run.folder.id} was removed there, with what is not here of it",
        hint=f"launcher rerun {run.folder.id} runs it again.",
    )


def _recall(folder: RunFolder) -> dict[str, _Told]:
    with contextlib.suppress(OSError, ValueError), open(folder.file(_KNOWN), "rb") as file:
        told: dict[str, _Told] = json.load(file)
        return told
    return {}


def _placed(folder: RunFolder, told: Mapping[str, _Told]) -> list[Result]:
    """Return the files with where they belong here.

    Of those that several hosts have under one name the first host's is the one; the others lie in
    ``outputs.HOST`` and ``checkpoints.HOST``.
    """
    taken: set[str] = set()
    found = []
    for host, files in told.items():
        for path, size, changed in files:
            top, _, rest = path.partition("/")
            if top in TOPS and os.path.normpath(path) == path:  # else it would leave the folder
                place = folder.file(f"{top}.{host}" if path in taken else top, rest)
                made = Result(path=path, place=place, size=size, changed=changed, host=host)
                found.append(made)
        taken |= {path for path, *_ in files}
    return found


def bring(
    run: Open, results: Sequence[Result], say: Callable[[str], object]
) -> dict[str, SubmitError]:
    """Bring files that are not here, from all hosts side by side; return what went wrong, by host.

    Each comes whole or not at all; what breaks off goes on where it was. StoreError: no room.
    """
    lacks = [each for each in results if not each.here]
    if not lacks:
        return {}
    _check_room(run.folder, lacks)
    parts = run.folder.file(_PARTS)
    os.makedirs(parts, exist_ok=True)
    each_host = [
        _Way(to=to, run=run.folder.id, parts=parts, lacks=mine, say=say)
        for to in (way(run, host) for host in hosts_of(run))
        if (mine := [each for each in lacks if each.host == to.name])
    ]
    answers = side_by_side(_Way.go, each_host)
    _tidy(parts)
    return _errors([each.to.name for each in each_host], answers)


def _check_room(folder: RunFolder, lacks: Sequence[Result]) -> None:
    total, free = sum(each.size for each in lacks), shutil.disk_usage(folder.path).free
    if total > free:
        raise StoreError(
            f"{bytes_text(total)} are to be brought, and {folder.path} has {bytes_text(free)} of "
            "room",
            hint=f"launcher fetch {folder.id} PATH brings only what it names.",
        )


def _tidy(parts: str) -> None:
    """Remove what was begun long ago, of files that are others by now."""
    for each in os.scandir(parts):
        with contextlib.suppress(FileNotFoundError):
            if each.stat().st_mtime < time.time() - _STALE_S:
                os.unlink(each)


@dataclass(slots=True, kw_only=True)
class _Way:
    """Files of a run on their way from one host."""

    to: Target
    run: str
    parts: str  # a folder
    lacks: list[Result]
    say: Callable[[str], object]
    brought: int = 0
    total: int = 0
    said: float = 0.0
    wrong: SubmitError | None = None  # with a file that could not be kept here
    unkept: set[str] = field(default_factory=set)  # such files

    def go(self) -> None:
        """Bring them; raise SubmitError."""
        channel = ready(self.to)
        self.said, self.total = time.monotonic(), sum(each.size for each in self.lacks)
        for _ in range(_TRIES):
            others = self._take(channel)
            self.lacks = self._now(channel, others) if others else []
            if not self.lacks:
                if self.wrong:
                    raise self.wrong
                self.say(f"launcher: {self.to.name}: {bytes_text(self.brought)} brought")
                return
        raise SubmitError(
            f"{self.to.name}: {self.lacks[0].path} changes while it is read, or cannot be read",
            hint="Bring it once nothing writes it any more.",
        )

    def _now(self, channel: Channel, others: Sequence[Result]) -> list[Result]:
        """Return files as they are now; old checkpoints that are gone by now are left out."""
        now = {path: stamp for path, *stamp in channel.ask("results", run=self.run)[0] or ()}
        return [
            replace(each, size=now[each.path][0], changed=now[each.path][1])
            for each in others
            if each.path in now
        ]

    def _take(self, channel: Channel) -> list[Result]:
        """Bring what is lacking; return the files that are others by now."""
        left, others = self.lacks, []
        while left := [each for each in left if not (each.here or each.path in self.unkept)]:
            batch = left[:_BATCH]
            files = [(each.path, each.size, each.changed, self._have(each)) for each in batch]
            lengths, body = channel.ask("take", run=self.run, files=files)
            at, done = 0, 0
            for each, (*_, offset), length in zip(batch, files, lengths, strict=False):
                if length < 0:
                    others.append(each)
                elif not self._kept(each, offset, body[at : at + length]):
                    break
                at += max(length, 0)
                done += 1
            left = left[done:]
            self._count(len(body))
        return others

    def _part(self, result: Result) -> str:
        name = f"{result.place}\0{result.size}\0{result.changed}"
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()
        return os.path.join(self.parts, f"{result.host}.{digest}")

    def _have(self, result: Result) -> int:
        with contextlib.suppress(FileNotFoundError):
            return min(os.stat(self._part(result)).st_size, result.size)
        return 0

    def _keep(self, result: Result, offset: int, data: bytes) -> bool:
        """Keep the next bytes of a file; return whether it is whole, and where it belongs.

        Two may bring the same file: False, too, when the part is no longer what it was.
        """
        part = self._part(result)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_size < offset or not _is_at(file.fileno(), part):
                return False
            whole = offset + len(data) == result.size
            while data:
                count = os.pwrite(file.fileno(), data, offset)
                data, offset = data[count:], offset + count
            if whole:
                os.utime(file.fileno(), ns=(result.changed, result.changed))
                _move(part, result.place)
            return whole

    def _kept(self, result: Result, offset: int, data: bytes) -> bool:
        """Return whether a file is done with: it is whole, or has no place here."""
        try:
            return self._keep(result, offset, data)
        except OSError as error:
            self.wrong = SubmitError(f"{self.to.name}: {result.path} cannot be kept here: {error}")
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self.wrong from error
            self.unkept.add(result.path)
            return True

    def _count(self, size: int) -> None:
        self.brought += size
        if time.monotonic() > self.said + _SAYS_S:
            self.said = time.monotonic()
            brought, total = bytes_text(self.brought), bytes_text(self.total)
            self.say(f"launcher: {self.to.name}: {brought} of {total} brought")


def _is_at(file: int, path: str) -> bool:
    """Return whether an open file is still the one of that name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False


def _move(part: str, place: str) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    try:
        os.replace(part, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        new = beside(place)  # where outputs is a link to another disk
        shutil.copy2(part, new)
        os.replace(new, place)
        os.unlink(part)
