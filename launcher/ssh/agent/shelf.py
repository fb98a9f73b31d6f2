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
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.ssh.agent.manifest import FOLDER, LINK, contents, entries, extent
from launcher.ssh.agent.objects import Broken, Objects, rebuilt, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.ssh.agent.serve import Agent

_CHUNK = 1 << 20


def extend(agent: Agent) -> None:
    """Have the agent carry out what is below."""
    shelf = Shelf(agent.workdir)
    requests = (shelf.data_known, shelf.data_lacks, shelf.data_pour, shelf.data_make)
    agent.requests |= {each.__name__: each for each in requests}


class Shelf:
    """All data of a host. Each ``data_`` method carries out the request of its name."""

    def __init__(self, workdir: str) -> None:
        """Begin; nothing need be there."""
        self.objects = Objects(workdir)
        self.path = os.path.join(workdir, "data")
        self.texts: dict[str, bytes] = {}  # trees that are on their way, by digest
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
        """Return the contents of a tree that are not here, by number, and how much of each is.

        The body: the tree as it differs from that of ``base``; {} where that is gone.
        ``free``: room on the disk.
        """
        base = b""
        if head["base"]:
            try:
                with open(self._tree(head["base"]), "rb") as file:
                    base = file.read()
            except FileNotFoundError:
                return {}
        lines = body.split(b"\0") if body else []
        text = rebuilt(base, lines[: head["gone"]], lines[head["gone"] :])
        if hashlib.sha256(text).hexdigest() != head["digest"]:
            raise Broken(f"data {head['digest']} are not what was sent")
        self.texts[head["digest"]] = text
        os.makedirs(self.path, exist_ok=True)
        return {"lacks": self._lacks(text), "free": shutil.disk_usage(self.path).free}

    def _lacks(self, text: bytes) -> list[tuple[int, int]]:
        lacks = []
        for number, (key, size) in enumerate(contents(text).items()):
            try:
                if os.stat(self._file(key)).st_size == size:
                    continue
                os.unlink(self._file(key))  # of a host that lost its power
            except FileNotFoundError:
                pass
            have = 0
            with contextlib.suppress(FileNotFoundError):
                have = os.stat(self._part(key)).st_size
            lacks.append((number, min(have, size)))
        return lacks

    def _part(self, key: str) -> str:
        return os.path.join(self.path, "parts", key)

    def data_pour(self, head: dict[str, Any], body: bytes) -> bool:
        """Keep pieces of files: key, offset, length, size of the file."""
        at, view = 0, memoryview(body)
        with self.objects.in_use():
            for key, offset, length, size in head["pieces"]:
                if not key.isalnum():
                    raise Broken(f"{key!r} is no name of what data hold")
                if length == size:
                    self._put(key, view[at : at + length])
                else:
                    self._append(key, offset, view[at : at + length], size)
                at += length
        return True

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
            raise
        os.fchmod(file, _mode(key))
        target = self._file(key)
        try:
            os.rename(self._part(key), target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(self._part(key), target)

    def data_make(self, head: dict[str, Any], _: bytes) -> list[tuple[int, int]]:
        """Have a tree where runs read it, and return []; or what it still lacks, as above."""
        text = self.texts[head["digest"]]
        with self.objects.in_use():
            lacks = self._lacks(text)
            if not lacks:
                self._make(head["digest"], text)
        return lacks

    def _make(self, digest: str, text: bytes) -> None:
        new = os.path.join(self.path, f"{digest}.{os.getpid()}.new")
        try:
            self._fill(os.fsencode(new), text)
            _sync(self.path)  # a tree that is there is there after a loss of power too
            with contextlib.suppress(OSError):  # another one was quicker
                os.rename(new, os.path.join(self.path, digest))
            write_whole(self._tree(digest), text)
        finally:
            _remove(new)
        if not os.path.isdir(os.path.join(self.path, digest)):
            raise LaunchError(f"{self.path}/{digest} cannot be made")

    def _fill(self, top: bytes, text: bytes) -> None:
        links, folders = [], {top}
        os.mkdir(top)
        for mode, key, _, path in entries(text):
            full = os.path.join(top, path)
            parent = full if mode == FOLDER else os.path.dirname(full)
            if parent not in folders:
                os.makedirs(parent, exist_ok=True)
                while parent not in folders:
                    folders.add(parent)
                    parent = os.path.dirname(parent)
            if mode == LINK:
                links.append((key, full))
            elif mode != FOLDER:
                self._link(key, full)
        for key, full in links:  # last of all: nothing is made through one
            with open(self._file(key), "rb") as file:
                os.symlink(file.read(), full)
        for folder in folders:
            os.chmod(folder, 0o500)

    def _link(self, key: str, path: bytes) -> None:
        try:
            os.link(self._file(key), path)
        except FileExistsError:
            raise
        except OSError:  # a file has as many names as it may have, or the disk knows one only
            shutil.copyfile(self._file(key), path)
            os.chmod(path, _mode(key))


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


def _remove(folder: str) -> None:
    for path, _, _ in os.walk(folder):  # top down: what is in it is listed once it may be
        os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
