"""A verb on a terminal of its own. Fixture: see the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Project


class Terminal:
    """A verb on a terminal of its own, and all that it wrote there."""

    def __init__(self, project: Project, words: tuple[str, ...], **env: str) -> None:
        self.text = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 50, 0, 0))
        # The first terminal that the leader of a session opens is the one that Ctrl-C works on.
        on = ("sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs))
        self.process = subprocess.Popen(
            [*on, sys.executable, "-m", "launcher", *words],
            cwd=project.path,
            env={**os.environ, "TERM": "xterm-256color", **env},
            start_new_session=True,
        )
        self._theirs = theirs  # open until the program has it too

    def close(self) -> None:
        """Leave the terminal to the program alone: its end is then told."""
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1

    def read(self) -> bool:
        """Read what has come; return False at the end."""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            data = os.read(self._ours, 1 << 16)
            self.text += data.decode("utf-8", "replace")
            self.close()
            return bool(data)
        return False

    def until(self, words: str) -> None:
        while words not in self.text:
            assert self.read(), self.text

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def end(self) -> int:
        while self.read():
            pass
        os.close(self._ours)
        return self.process.wait(60)


@pytest.fixture
def terminal(project: Project) -> Iterator[Callable[..., Terminal]]:
    """Open terminals, whose programs do not outlive the test."""
    opened: list[Terminal] = []

    def start(*words: str, **env: str) -> Terminal:
        opened.append(Terminal(project, words, **env))
        return opened[-1]

    yield start
    for each in opened:
        each.process.kill()
        each.process.wait()
