"""What runs have to show, on a host: their outputs and checkpoints, for the other end to take."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launcher.ssh.agent.serve import Agent

_TOPS = ("outputs", "checkpoints")
_MOST = 16 << 20  # bytes that one answer brings


def extend(agent: Agent) -> None:
    """Have the agent carry out what is below."""
    shown = Results(agent.workdir)
    agent.requests |= {each.__name__: each for each in (shown.results, shown.take)}


class Results:
    """The results of all runs. Each method carries out the request of its name."""

    def __init__(self, workdir: str) -> None:
        """Begin; nothing need be there."""
        self.runs = os.path.join(workdir, "runs")

    def results(self, head: dict[str, Any], _: bytes) -> list[tuple[str, int, int]] | None:
        """Return the files that a run has to show: path in its folder, size, time of change.

        None: there is no such run here; it may have been removed.
        """
        folder = os.path.join(self.runs, os.path.basename(head["run"]))
        if not os.path.isdir(folder):
            return None
        found = []
        for top in _TOPS:
            for path, folders, names in os.walk(os.path.join(folder, top)):
                folders.sort()
                for name in sorted(names):
                    with contextlib.suppress(OSError):
                        about = os.stat(os.path.join(path, name))
                        if stat.S_ISREG(about.st_mode):
                            inside = os.path.relpath(os.path.join(path, name), folder)
                            found.append((inside, about.st_size, about.st_mtime_ns))
        return found

    def take(self, head: dict[str, Any], _: bytes) -> tuple[list[int], bytes]:
        """Return the next bytes of files, one after another, and how many of each; -1: it changed.

        ``files``: path, size, time of change, offset. Those for which there is no room are left
        out, and the last one may not be whole.
        """
        lengths, body, left = [], [], _MOST
        for path, *stamp, offset in head["files"]:
            if not left:
                break
            full = os.path.join(self.runs, os.path.basename(head["run"]), path)
            data = _read(full, stamp, offset, left)
            lengths.append(-1 if data is None else len(data))
            body.append(data or b"")
            left -= len(data or b"")
        return lengths, b"".join(body)


def _read(path: str, stamp: list[int], offset: int, most: int) -> bytes | None:
    """Return a part of a file; None when it is not, or no longer, the one of the stamp."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        wanted = min(stamp[0] - offset, most)
        data = os.pread(file, wanted, offset)
        about = os.fstat(file)
        same = [about.st_size, about.st_mtime_ns] == stamp and len(data) == wanted
        return data if same else None
    finally:
        os.close(file)
