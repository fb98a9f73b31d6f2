"""Files by content, on a host: objects named by git's hash of them, and trees that list them.

    WORKDIR/objects/ab/cdef...   what a file holds, or where a symbolic link leads
            trees/NAME           "MODE HASH PATH", each ended by a NUL, in the order of the paths

Standard library only, for it is sent to the host before anything else is there, and is copied into
each run's folder, whose ranks make their code with it.

Why a tree is written last: its being there says that all its objects are, so that of a tree that
is known nothing is asked again, and what a broken transfer leaves is whole objects.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_EMPTY = {
    "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
}
_LINK, _FOLDER, _PROGRAM = b"120000", b"160000", b"100755"
_MODES = (b"100644", _PROGRAM, _LINK, _FOLDER)
_CHUNK = 1 << 20


class Broken(OSError):  # noqa: N818 - what was sent, or lies here, is not what it says it is
    """An object or a tree that is not what its name says, or a path that leads out of the tree."""


def name_of(data: bytes, digits: int = 40) -> str:
    """Return git's name of a file that holds ``data``, in a repository of such names."""
    kind = hashlib.sha1 if digits == 40 else hashlib.sha256
    return kind(b"blob %d\0" % len(data) + data).hexdigest()


def entries(tree: bytes) -> Iterator[tuple[bytes, str, bytes]]:
    """Yield mode, name and path of each file; raise Broken on one that must not be made."""
    for line in filter(None, tree.split(b"\0")):
        mode, name, path = line.split(b" ", 2)
        if mode not in _MODES or not name.isalnum():
            raise Broken(f"a tree has the entry {line[:200]!r}")
        if any(part in (b"", b".", b"..", b".git") for part in path.split(b"/")):
            raise Broken(f"a tree has the path {path[:200]!r}")
        yield mode, name.decode(), path


def changed(tree: bytes, base: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return what makes ``tree`` of ``base``: entries that go, and entries that come."""
    new, old = set(tree.split(b"\0")), set(base.split(b"\0"))
    return sorted((old - new) - {b""}), sorted((new - old) - {b""})


def rebuilt(base: bytes, gone: Iterable[bytes], come: Iterable[bytes]) -> bytes:
    """Return the tree that these changes make of ``base``."""
    out = {*gone, b""}
    return tree_of([*(line for line in base.split(b"\0") if line not in out), *come])


def tree_of(lines: Iterable[bytes]) -> bytes:
    """Return the tree that has these entries."""
    return b"".join(line + b"\0" for line in sorted(lines, key=lambda each: each.split(b" ", 2)[2]))


class Objects:
    """All objects and trees below one folder."""

    def __init__(self, workdir: str) -> None:
        self.workdir = workdir
        self.path = os.path.join(workdir, "objects")
        self.trees = os.path.join(workdir, "trees")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let nothing be removed from the folder meanwhile: see launcher.ssh.agent.leftovers."""
        folder = os.open(self.workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_SH)
            yield
        finally:
            os.close(folder)

    def lacks(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that no object here has."""
        return [name for name in dict.fromkeys(names) if not os.path.exists(self._object(name))]

    def _object(self, name: str) -> str:
        return os.path.join(self.path, name[:2], name[2:])

    def put(self, name: str, data: bytes) -> None:
        """Keep ``data`` under its name; raise Broken when it is not its name."""
        if name_of(data, len(name)) != name:
            raise Broken(f"object {name} came as {name_of(data, len(name))}")
        write_whole(self._object(name), data)

    def known(self, wanted: str = "") -> list[str]:
        """Return the names of all trees, the latest first; ``wanted`` is about to be used."""
        with contextlib.suppress(FileNotFoundError), self.in_use():
            if wanted:
                self._touch(wanted)
            there = [each for each in os.scandir(self.trees) if each.name.isalnum()]
            there.sort(key=lambda each: each.stat().st_mtime, reverse=True)
            return [each.name for each in there]
        return []

    def tree(self, name: str) -> bytes:
        """Return a tree; FileNotFoundError when it is not known."""
        with open(os.path.join(self.trees, name), "rb") as file:
            return file.read()

    def add(
        self, name: str, base: str, gone: Iterable[bytes], come: Sequence[bytes], digest: str
    ) -> list[str]:
        """Keep a tree, and return []; or return the objects that it still lacks.

        It is given as the tree ``base``, or as none, with entries that go and others that come.
        """
        with self.in_use():
            tree = rebuilt(self.tree(base) if base else b"", gone, come)
            if hashlib.sha256(tree).hexdigest() != digest:
                raise Broken(f"tree {name} is not what was sent")
            added = entries(b"\0".join(come))
            lacks = self.lacks(each for mode, each, _ in added if mode != _FOLDER)
            if not lacks:
                write_whole(os.path.join(self.trees, name), tree)
            return lacks

    def make(self, name: str, folder: str) -> None:
        """Make the files of a tree in ``folder``, which is empty or not there."""
        tree = self.tree(name)
        self._touch(name)
        os.makedirs(folder, exist_ok=True)
        made = {b""}
        links = []
        top = os.fsencode(folder)
        for mode, each, path in entries(tree):
            parent = path if mode == _FOLDER else path.rpartition(b"/")[0]
            if parent not in made:
                os.makedirs(os.path.join(top, parent), exist_ok=True)
                made.add(parent)
            if mode == _LINK:
                links.append((each, os.path.join(top, path)))
            elif mode != _FOLDER:
                self._copy(each, os.path.join(top, path), 0o777 if mode == _PROGRAM else 0o666)
        for each, link in links:  # last of all: no file is written through one
            with open(self._object(each), "rb") as file:
                os.symlink(file.read(), link)

    def _touch(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(os.path.join(self.trees, name))

    def _copy(self, name: str, path: bytes, mode: int) -> None:
        try:
            source = os.open(self._object(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._gone(name) from None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(path, flags, mode)
            try:
                if not _poured(source, target) and name not in _EMPTY:
                    os.unlink(self._object(name))  # of a host that lost its power
                    raise self._gone(name)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _gone(self, name: str) -> Broken:
        """Return what is wrong where an object is not whole; no tree counts as whole any more."""
        shutil.rmtree(self.trees, ignore_errors=True)
        return Broken(f"object {name} is gone from this host: submit again")


def _poured(source: int, target: int) -> int:
    """Copy a file, as a second name of the same blocks where the disk can; return its size."""
    total = 0
    with contextlib.suppress(OSError):
        while count := os.copy_file_range(source, target, 1 << 30):
            total += count
        return total
    while data := os.read(source, _CHUNK):
        total += len(data)
        while data:
            data = data[os.write(target, data) :]
    return total


def beside(path: str) -> str:
    """Return what to call ``path`` until it is whole; see launcher.processes, which is not here."""
    return f"{path}.{os.uname().nodename}.{os.getpid()}.new"


def write_whole(path: str, data: bytes | memoryview, mode: int = 0o644) -> None:
    """Write a file, whole or not at all."""
    new = beside(path)
    try:
        try:
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(file, rest) :]
        finally:
            os.close(file)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


class Code:
    """The code of one run on this host: made by the first rank, tidied up by the last."""

    def __init__(self, run: str) -> None:
        self.path = os.path.join(run, "code")
        self.made = os.path.join(run, "code.made")
        self.tree = os.path.join(run, "code.tree")
        with open(self.tree, encoding="utf-8") as file:
            self.name = file.read()
        self.objects = Objects(os.path.dirname(os.path.dirname(run)))
        # Its shared lock says that it is in use: that of a rank that is killed is gone with it.
        self.user = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Make the code unless another rank of this host has; raise OSError."""
        with self._alone():
            if not os.path.exists(self.made):
                for each in os.scandir(self.path):  # what a killed one left
                    if each.is_dir(follow_symlinks=False):
                        shutil.rmtree(each.path)
                    else:
                        os.unlink(each.path)
                self.objects.make(self.name, self.path)
                _mark(self.made)
            fcntl.flock(self.user, fcntl.LOCK_SH)

    def leave(self) -> None:
        """Remove the files that the run did not change, if no other rank is here any more."""
        with contextlib.suppress(OSError), self._alone():
            fcntl.flock(self.user, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = os.stat(self.made).st_ctime_ns
            folders = set()
            top = os.fsencode(self.path)
            for mode, _, path in entries(self.objects.tree(self.name)):
                folders.add(path if mode == _FOLDER else path.rpartition(b"/")[0])
                if mode != _FOLDER:
                    _remove_older(os.path.join(top, path), made)
            _remove_empty(top, folders)
            os.unlink(self.made)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other rank of this host come or go meanwhile."""
        with open(self.tree, "r+b") as file:  # on NFS only what may be written can be locked
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _mark(path: str) -> None:
    """Make a file that is younger than all that is there: changes from here on are told by it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    first = os.fstat(file).st_ctime_ns
    while os.fstat(file).st_ctime_ns == first:  # a tick of the kernel's clock, some milliseconds
        os.utime(file)
    os.close(file)


def _remove_older(path: bytes, than: int) -> None:
    with contextlib.suppress(OSError):
        about = os.lstat(path)
        if about.st_ctime_ns < than and not stat.S_ISDIR(about.st_mode):
            os.unlink(path)


def _remove_empty(top: bytes, folders: Iterable[bytes]) -> None:
    every = set()
    for folder in folders:
        while folder:
            every.add(folder)
            folder = folder.rpartition(b"/")[0]  # noqa: PLW2901 - up to the root
    for folder in sorted(every, reverse=True):
        with contextlib.suppress(OSError):  # it is not empty
            os.rmdir(os.path.join(top, folder))
