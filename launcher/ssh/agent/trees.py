"""Trees of data as runs read them: folders, links, and second names of files that are kept.

Why what did not change gets its name from the tree before, and relative to open folders: ten
thousand names are to be made for one file that is new, and a long path costs more than its file.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from launcher.ssh.agent.manifest import FOLDER, LINK, entries, key_of

if TYPE_CHECKING:
    from collections.abc import Callable

_READS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Laying:
    """A tree that is being made in the folder ``top``, of what ``files`` holds.

    ``before``: another tree, of which all is there that ``come`` does not name.
    """

    def __init__(self, top: str, files: Callable[[str], str], before: str) -> None:
        self.top, self.files, self.before = os.fsencode(top), files, os.fsencode(before)
        self.folders = {b""}
        self.inside: bytes | None = None  # the folder that is open, here and in the tree before
        self.to = self.source = -1

    def lay(self, text: bytes, come: set[bytes]) -> None:
        """Make the tree, read-only; FileNotFoundError: something is not here any more."""
        os.mkdir(self.top)
        links = []
        try:
            for line in filter(None, text.split(b"\0")):
                mode, _, path = line.split(b" ", 2)
                if mode == FOLDER:
                    self._folder(path)
                    continue
                folder, _, name = path.rpartition(b"/")
                if folder != self.inside:
                    self._enter(folder)
                if mode == LINK:
                    links.append(line)
                elif line in come or not self._again(name):
                    self._link(key_of(line), name)
        finally:
            self._leave()
        for _, key, _, path in entries(b"\0".join(links)):  # last: nothing is made through one
            with open(self.files(key), "rb") as file:
                os.symlink(file.read(), os.path.join(self.top, path))
        for folder in self.folders:
            os.chmod(os.path.join(self.top, folder), 0o500)

    def _folder(self, path: bytes) -> None:
        if path not in self.folders:
            os.makedirs(os.path.join(self.top, path), exist_ok=True)
            while path not in self.folders:
                self.folders.add(path)
                path = path.rpartition(b"/")[0]

    def _enter(self, folder: bytes) -> None:
        self._leave()
        self._folder(folder)
        self.to = os.open(os.path.join(self.top, folder), _READS)
        self.inside = folder
        if self.before:
            try:
                self.source = os.open(os.path.join(self.before, folder), _READS)
            except OSError:  # it is new
                self.source = -1

    def _leave(self) -> None:
        for each in (self.to, self.source):
            if each >= 0:
                os.close(each)
        self.to = self.source = -1
        self.inside = None

    def _again(self, name: bytes) -> bool:
        """Return whether a file got the name that it has in the tree before."""
        if self.source < 0:
            return False
        try:
            os.link(name, name, src_dir_fd=self.source, dst_dir_fd=self.to)
        except FileExistsError:
            raise
        except OSError:
            return False
        return True

    def _link(self, key: str, name: bytes) -> None:
        try:
            os.link(self.files(key), name, dst_dir_fd=self.to)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError:  # a file has as many names as it may have, or the disk knows one only
            full = os.path.join(self.top, self.inside or b"", name)
            shutil.copy(os.fsencode(self.files(key)), full)  # with its mode


def remove(folder: str) -> None:
    """Remove a tree, whatever it lacks."""
    for path, _, _ in os.walk(folder):  # top down: what is in it is listed once it may be
        os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
