"""Data that were sent to this host: kept once by content, read-only, for all runs of its user.

    WORKDIR/data/files/ab/cdef...   a file by the sha256 of what it holds; one ends in x: executable
                 parts/abcdef...    one of which the rest is still to come
                 DIGEST/NAME        what runs read: files are second names of those above
                 trees/DIGEST       what is in it: see manifest.py; its time is that of the last use

Why a tree is written last: its being there says that all of DIGEST/ is. Why no lock is held between
two pieces of a file: a sender that is cut off would keep others waiting for ever. Two that send the
same file at once help one another: a piece is kept where it is the next one, and else is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import LaunchError
from launcher.ssh.agent.manifest import FOLDER, entries, extent
from launcher.ssh.agent.objects import Broken, Objects, beside, rebuilt, write_whole
from launcher.ssh.agent.trees import Laying, remove

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.ssh.agent.serve import Agent

_CHUNK = 1 << 20


def extend(agent: Agent) -> None:
    """Have the agent carry out what is below."""
    shelf = Shelf(agent.workdir)
    requests = (shelf.data_known, shelf.data_lacks, shelf.data_pour, shelf.data_make)
    agent.requests |= {each.__name__: each for each in requests}


class Coming(NamedTuple):
    """A tree that is on its way, as what ``come`` makes of the tree ``base``, if of one."""

    text: bytes
    base: str
    come: list[bytes]


class Shelf:
    """All data of a host. Each ``data_`` method carries out the request of its name."""

    def __init__(self, workdir: str) -> None:
        """Begin; nothing need be there."""
        self.objects = Objects(workdir)
        self.path = os.path.join(workdir, "data")
        self.coming: dict[str, Coming] = {}  # trees that are on their way, by digest
        self.copied: set[str] = set()  # files with parts of others that are here
        self.sums: dict[str, tuple[Any, int]] = {}  # of parts: the sum so far, and of how much

    def _tree(self, digest: str) -> str:
        return os.path.join(self.path, "trees", digest)

    def _file(self, key: str) -> str:
        return os.path.join(self.path, "files", key[:2], key[2:])

    def data_known(self, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Return whether data of a digest are ``here``, and the ``latest`` digests that are.

        ``use``: they are about to be used; ``extent``: files and bytes are to be counted.
        """
        digest, latest = head["digest"], self._latest()
        told: dict[str, Any] = {"here": False, "latest": latest}
        with self.objects.in_use(), contextlib.suppress(FileNotFoundError):
            os.stat(os.path.join(self.path, digest))
            if head["use"]:
                os.utime(self._tree(digest))
            if head["extent"]:
                with open(self._tree(digest), "rb") as file:
                    told["extent"] = extent(file.read())
            told["here"] = digest in latest
        return told

    def _latest(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            there = [each for each in os.scandir(self._tree("")) if each.name.isalnum()]
            there.sort(key=lambda each: each.stat().st_mtime, reverse=True)
            return [each.name for each in there]
        return []

    def data_lacks(self, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Return which entries of a tree are not here, by number, and how much of each is.

        The body: the tree as it differs from that of ``base``, of which all is here; numbers are of
        entries that come. {}: there is no such ``base`` any more. ``free``: room on the disk.
        """
        base = b""
        if head["base"]:
            try:
                os.stat(os.path.join(self.path, head["base"]))
                with open(self._tree(head["base"]), "rb") as file:
                    base = file.read()
            except FileNotFoundError:
                return {}
        lines = body.split(b"\0") if body else []
        gone, come = lines[: head["gone"]], lines[head["gone"] :]
        text = rebuilt(base, gone, come)
        if hashlib.sha256(text).hexdigest() != head["digest"]:
            raise Broken(f"data {head['digest']} are not what was sent")
        self.coming[head["digest"]] = Coming(text, head["base"], come)
        os.makedirs(self.path, exist_ok=True)
        return {"lacks": self._lacks(come), "free": shutil.disk_usage(self.path).free}

    def _lacks(self, come: Sequence[bytes]) -> list[tuple[int, int]]:
        lacks, seen, begun = [], set(), self._begun()
        for number, (mode, key, size, _) in enumerate(entries(b"\0".join(come))):
            if mode == FOLDER or key in seen:
                continue
            seen.add(key)
            try:
                if os.stat(self._file(key)).st_size == size:
                    continue
                os.unlink(self._file(key))  # of a host that lost its power
            except FileNotFoundError:
                pass
            lacks.append((number, min(begun.get(key, 0), size)))
        return lacks

    def _begun(self) -> dict[str, int]:
        """Return how much is here of each file of which the rest is still to come."""
        with contextlib.suppress(FileNotFoundError):
            return {each.name: each.stat().st_size for each in os.scandir(self._part(""))}
        return {}

    def _part(self, key: str) -> str:
        return os.path.join(self.path, "parts", key)

    def data_pour(self, head: dict[str, Any], body: bytes) -> bool:
        """Keep pieces of files: key, offset, length, size of the file, where they come from.

        That is the body, or, by its key, a file here that holds the same at that offset.
        """
        at, view = 0, memoryview(body)
        with self.objects.in_use():
            for key, offset, length, size, source in head["pieces"]:
                if not (key + source).isalnum():
                    raise Broken(f"{key + source!r} is no name of what data hold")
                if source:
                    self.copied.add(key)
                    self._append(key, offset, self._piece(source, offset, length), size)
                    continue
                if length == size:
                    self._put(key, view[at : at + length])
                else:
                    self._append(key, offset, view[at : at + length], size)
                at += length
        return True

    def _piece(self, key: str, offset: int, length: int) -> memoryview:
        """Return a part of a file; nothing of one that is gone: what follows is then not kept."""
        with contextlib.suppress(OSError), open(self._file(key), "rb", buffering=0) as file:
            return memoryview(os.pread(file.fileno(), length, offset))
        return memoryview(b"")

    def _put(self, key: str, data: memoryview) -> None:
        """Keep a whole file."""
        _check(key, hashlib.sha256(data))
        write_whole(self._file(key), data, _mode(key))

    def _append(self, key: str, offset: int, piece: memoryview, size: int) -> None:
        """Keep a piece where it is the next one of its file."""
        with _opened(self._part(key)) as file:
            if os.path.exists(self._file(key)):  # another one has finished it meanwhile
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._part(key))
                return
            have = os.fstat(file).st_size
            if have > size:
                os.ftruncate(file, have := 0)
            if have == offset and have + len(piece) <= size:
                self._write(key, file, offset, piece)
                have += len(piece)
            if have == size:
                self._finish(key, file)

    def _write(self, key: str, file: int, offset: int, piece: memoryview) -> None:
        kept, summed = self.sums.pop(key, None) or (hashlib.sha256(), 0)
        if summed > offset:  # of a part that somebody has removed
            kept, summed = hashlib.sha256(), 0
        if summed == offset:
            kept.update(piece)
            summed += len(piece)
        while piece:
            piece = piece[os.write(file, piece) :]
        self.sums[key] = kept, summed

    def _finish(self, key: str, file: int) -> None:
        """Put a file that is whole where it belongs; raise Broken when it is not its name."""
        kept, summed = self.sums.pop(key, None) or (hashlib.sha256(), 0)
        while data := os.pread(file, _CHUNK, summed):
            kept.update(data)
            summed += len(data)
        try:
            _check(key, kept)
        except Broken:
            os.unlink(self._part(key))
            if key not in self.copied:
                raise
            self.copied.remove(key)  # a file here is not what it should be: it is still lacking
            return
        os.fchmod(file, _mode(key))
        target = self._file(key)
        try:
            os.rename(self._part(key), target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(self._part(key), target)

    def data_make(self, head: dict[str, Any], _: bytes) -> list[tuple[int, int]] | None:
        """Have a tree where runs read it, and return []; or what it still lacks, as above.

        None: it cannot be made of what its base should have; all is to be looked for.
        """
        coming = self.coming[head["digest"]]
        with self.objects.in_use():
            try:
                self._make(head["digest"], coming)
            except FileNotFoundError:
                lacks = self._lacks(coming.come)
                return lacks if lacks or not coming.base else None
        return []

    def _make(self, digest: str, coming: Coming) -> None:
        new = beside(os.path.join(self.path, digest))
        before = os.path.join(self.path, coming.base) if coming.base else ""
        try:
            Laying(new, self._file, before).lay(coming.text, set(coming.come))
            _sync(self.path)  # a tree that is there is there after a loss of power too
            with contextlib.suppress(OSError):  # another one was quicker
                os.rename(new, os.path.join(self.path, digest))
            write_whole(self._tree(digest), coming.text)
        finally:
            if os.path.isdir(new):
                remove(new)
        if not os.path.isdir(os.path.join(self.path, digest)):
            raise LaunchError(f"{self.path}/{digest} cannot be made")


def _mode(key: str) -> int:
    return 0o500 if key.endswith("x") else 0o400


def _check(key: str, found: Any) -> None:
    if found.hexdigest() != key[:64]:
        raise Broken(f"a file came otherwise than it was read, as {found.hexdigest()}")


@contextlib.contextmanager
def _opened(part: str) -> Iterator[int]:
    """Yield a file that nobody else appends to meanwhile."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        file = os.open(part, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(part), exist_ok=True)
        file = os.open(part, flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _sync(path: str) -> None:
    """Have on the disk what was written to the file system of ``path``. Source: syncfs(2)."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(folder):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(folder)
