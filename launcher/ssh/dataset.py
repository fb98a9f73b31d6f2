"""Data of this machine that hosts are to have: which files there are, and what each of them holds.

Why digests are remembered by path, size, times and inode: to read again what has not changed may
take minutes. Why folders are walked twice where something was read: what changed meanwhile would
be taken half old, half new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launcher.environment import answers
from launcher.errors import ConfigError
from launcher.processes import beside
from launcher.show import bytes_text
from launcher.ssh.agent.manifest import FILE, FOLDER, LINK, PROGRAM
from launcher.ssh.agent.objects import tree_of
from launcher.ssh.blocks import Sums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

_CHUNK = 1 << 20
_YOUNG_NS = 100_000_000  # so long after a change there may be another that no time tells from it
_SAYS_S = 5.0
_TREES = 20  # that are remembered


class Stamp(NamedTuple):
    """What tells a file from the one that it was; times of change in ns."""

    size: int
    content: int
    inode: int
    number: int

    @classmethod
    def of(cls, about: os.stat_result) -> Stamp:
        """Return the stamp of a file that was looked at."""
        return cls(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)


class Found(NamedTuple):
    """What lies at a path: a file, where a link leads, or a folder that holds nothing."""

    mode: bytes
    stamp: Stamp = Stamp(0, 0, 0, 0)
    target: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Data as they are here."""

    place: Place
    found: Mapping[bytes, Found]  # by path in the tree
    names: Mapping[bytes, str]  # digests of what files hold
    text: bytes  # the tree, as launcher.ssh.agent.manifest describes it

    @property
    def digest(self) -> str:
        """Return the digest of names and contents."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def extent(self) -> tuple[int, int]:
        """Return how many files and links there are, and how many bytes they hold."""
        held = [each for each in self.found.values() if each.mode != FOLDER]
        return len(held), sum(each.stamp.size + len(each.target) for each in held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where data lie here."""

    key: str  # data.NAME.path=PATH, for errors
    real: bytes  # a file or a folder
    own: bytes  # what hosts call it; of a link its own name: the script knows that one

    def at(self, path: bytes) -> bytes:
        """Return where a path of the tree is here."""
        return self.real + path[len(self.own) :]

    def changing(self, path: bytes = b"") -> ConfigError:
        """Return the error for what is written while it is read."""
        which = f": {os.fsdecode(path)!r}" if path else ""
        return ConfigError(
            f"{self.key}: it changes while it is read{which}",
            hint="Submit again once nothing writes there any more.",
        )

    def refused(self, path: bytes, why: str) -> ConfigError:
        """Return the error for what cannot be sent."""
        return ConfigError(
            f"{self.key}: {os.fsdecode(path)!r} {why}",
            hint="Files, folders, and links that lead from one to another of these can be sent.",
        )

    def walk(self) -> dict[bytes, Found]:
        """Return all that is there, by path in the tree; raise ConfigError and OSError."""
        about = os.stat(self.real)
        if stat.S_ISREG(about.st_mode):
            return {self.own: _file(about)}
        return dict(self._below(self.own))

    def _below(self, folder: bytes) -> Iterator[tuple[bytes, Found]]:
        with os.scandir(self.at(folder)) as inside:
            entries = list(inside)
        if not entries:
            yield folder, Found(FOLDER)
        for each in entries:
            path = folder + b"/" + each.name
            if each.is_file(follow_symlinks=False):
                yield path, _file(each.stat(follow_symlinks=False))
            elif each.is_symlink():
                yield path, Found(LINK, target=self._target(path))
            elif each.is_dir(follow_symlinks=False):
                yield from self._below(path)
            else:
                raise self.refused(path, "is no file")

    def _target(self, path: bytes) -> bytes:
        """Return where a link leads, which is to be in the tree on hosts too."""
        target = os.readlink(self.at(path))
        as_said = os.path.normpath(os.path.join(os.path.dirname(path), target))
        real = os.path.realpath(self.at(path))
        inside = real == self.real or real.startswith(self.real + b"/")
        if not inside or os.path.isabs(target) or as_said.split(b"/")[0] != self.own:
            raise self.refused(path, f"leads out of it, to {os.fsdecode(target)!r}")
        return target


def _file(about: os.stat_result) -> Found:
    return Found(PROGRAM if about.st_mode & stat.S_IXUSR else FILE, Stamp.of(about))


def listing(name: str, path: str, say: Callable[[str], None]) -> Listing:
    """Return what lies at ``path``; raise ConfigError on what cannot be sent.

    What is not remembered is read; ``say`` is told of it where that takes long.
    """
    place = Place(
        key=f"data.{name}.path={path}",
        real=os.fsencode(os.path.realpath(path)),
        own=os.fsencode(os.path.basename(path)),
    )
    if not place.own or not os.path.exists(place.real):
        raise ConfigError(
            f"{place.key}: there is no such file or folder here",
            hint=f"upload=true: it is read from the current folder, {os.getcwd()}.",
        )
    began = time.time_ns()
    try:
        found, known = place.walk(), _recall(place)
        names = {p: known[p, each.stamp] for p, each in found.items() if (p, each.stamp) in known}
        fresh = [p for p, each in found.items() if each.stamp.number and p not in names]
        names |= _digests(place, fresh, found, say)
        if fresh and (now := place.walk()) != found:
            raise place.changing(min(path for path, _ in found.items() ^ now.items()))
    except OSError as error:
        raise ConfigError(f"{place.key}: cannot be read: {error}") from error
    made = Listing(place=place, found=found, names=names, text=_tree(found, names))
    if fresh or not remembered((made.digest,))[0]:
        _keep(made, began)
    return made


def _tree(found: Mapping[bytes, Found], names: Mapping[bytes, str]) -> bytes:
    lines = []
    for path, (mode, stamp, target) in found.items():
        name, size = names.get(path, "0"), stamp.size
        if mode == LINK:
            name, size = hashlib.sha256(target).hexdigest(), len(target)
        lines.append(b"%b %b:%d %b" % (mode, name.encode(), size, path))
    return tree_of(lines)


def _digests(
    place: Place,
    paths: Sequence[bytes],
    found: Mapping[bytes, Found],
    say: Callable[[str], None],
) -> dict[bytes, str]:
    """Return the digests of what these files hold; raise ConfigError on one that changes."""
    total, done, said = sum(found[path].stamp.size for path in paths), 0, time.monotonic()
    digests = {}
    for path in paths:
        sums = Sums(found[path].stamp.size)
        for piece in pieces(place, path, found[path].stamp, _CHUNK):
            sums.update(piece)
            done += len(piece)
            if time.monotonic() > said + _SAYS_S:
                said = time.monotonic()
                say(f"launcher: {place.key}: {bytes_text(done)} of {bytes_text(total)} read")
        digests[path] = sums.end()
    return digests


def pieces(
    place: Place,
    path: bytes,
    stamp: Stamp,
    most: int,
    offset: int = 0,
    but: AbstractSet[int] = frozenset(),
) -> Iterator[bytes]:
    """Yield what a file holds from ``offset`` on, in pieces that end where ``most`` divides.

    Pieces whose numbers are in ``but`` are not read: b"" stands for each.
    ConfigError: it is not the one of the stamp. OSError: it cannot be read.
    """
    file = os.open(place.at(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if Stamp.of(os.fstat(file)) != stamp:
            raise place.changing(path)
        while offset < stamp.size:
            length = piece_length(offset, stamp.size, most)
            data = b"" if offset // most in but else os.pread(file, length, offset)
            if len(data) < length and offset // most not in but:
                raise place.changing(path)
            offset += length
            yield data
        if Stamp.of(os.fstat(file)) != stamp:
            raise place.changing(path)
    finally:
        os.close(file)


def piece_length(offset: int, size: int, most: int) -> int:
    """Return how long the piece is that begins at ``offset`` of a file."""
    return min(most - offset % most, size - offset)


# ------------------------------------------------------------------ what is remembered


def _folder() -> Path:
    return Path(answers.cache_dir()) / "data"


def _memory(place: Place) -> Path:
    return _folder() / f"{answers.digest(os.fsdecode(place.real))}.json"


def _recall(place: Place) -> dict[tuple[bytes, Stamp], str]:
    """Return the digests of files that were read before, by their paths and stamps."""
    try:
        kept = json.loads(_memory(place).read_text("ascii"))
        return {(os.fsencode(path), Stamp(*stamp)): each for path, each, *stamp in kept}
    except (OSError, ValueError, TypeError):
        return {}


def _keep(made: Listing, began: int) -> None:
    """Remember what was read, but for files that were just written; and the tree, for changes."""
    kept = [
        [os.fsdecode(path), digest, *made.found[path].stamp]
        for path, digest in made.names.items()
        if max(made.found[path].stamp[1:3]) < began - _YOUNG_NS
    ]
    trees = _folder() / "trees"
    with contextlib.suppress(OSError):  # what cannot be remembered is read again
        trees.mkdir(parents=True, exist_ok=True)
        answers.write(_memory(made.place), json.dumps(kept))
        part = Path(beside(str(trees / made.digest)))
        part.write_bytes(made.text)
        part.replace(trees / made.digest)
        latest = sorted(trees.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for each in latest[_TREES:]:
            each.unlink()


def remembered(digests: Sequence[str]) -> tuple[str, bytes]:
    """Return the first of these trees that was seen here, with its text; "" and nothing if none."""
    for digest in digests[:_TREES]:
        with contextlib.suppress(OSError):
            text = (_folder() / "trees" / digest).read_bytes()
            if hashlib.sha256(text).hexdigest() == digest:
                return digest, text
    return "", b""
