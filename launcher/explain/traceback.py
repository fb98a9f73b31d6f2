"""Tracebacks in the lines of a log -> what was raised, and where in the user's own code.

Why not the last line alone: farewells of libraries and threads follow it. A log's beginning may be
cut off, so that the frames count, not the word "Traceback".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_FRAME = re.compile(r' +File "(?P<path>.+?)", line (?P<line>\d+)(?:, in .+)?')
_KIND = re.compile(r"(?P<kind>(?:\w+\.)*[A-Z]\w*)(?:: ?(?P<message>.*))?")
_AFTER = re.compile(r"Traceback |During handling of |The above exception |\s*$")
_OURS = re.compile(r"<|.*(?:/(?:site|dist)-packages/|/lib/python3[.\d]*/|/support/bootstrap\.py$)")
_MESSAGE_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """One exception: its class, its message (lines of it), and the frames' files and lines."""

    kind: str
    message: str
    frames: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """Return what Python prints last: ``ValueError: bad lr``."""
        return f"{self.kind}: {self.message}" if self.message else self.kind

    @property
    def name(self) -> str:
        """Return the class's name without its module."""
        return self.kind.rpartition(".")[2]

    def place(self, run_id: str, prefix: str = "") -> str:
        """Return ``train.py, line 12``: the deepest frame of the user's own; "" without one."""
        own = [frame for frame in self.frames if not _OURS.match(frame[0])]
        if not own:
            return ""
        path, line = own[-1]
        # the run's copy of the code, in its folder or on a node's scratch: a person knows the rest
        below = (
            re.search(rf"/{re.escape(run_id)}(?:-\d+)?/(?:code/)?(.+)", path) if run_id else None
        )
        shown = below[1] if below else path
        return f"{shown.removeprefix(f'{prefix}/') if prefix else shown}, line {line}"


def raised(lines: Iterable[str]) -> list[Raised]:
    """Return the exceptions whose tracebacks stand in ``lines``, in their order."""
    found: list[Raised] = []
    frames: list[tuple[str, int]] = []
    message: list[str] | None = None  # of the exception that is being read
    kind, ignored = "", False

    def done() -> None:
        nonlocal message, frames, ignored
        if message is not None and not ignored:
            text = "\n".join(message).strip()
            found.append(Raised(kind=kind, message=text, frames=tuple(frames)))
        if message is not None:
            frames, ignored, message = [], False, None

    for line in lines:
        frame = _FRAME.fullmatch(line)
        if line.startswith("Exception ignored in"):
            done()
            ignored = True  # an object's farewell: it ended nothing
        elif frame:
            done()
            frames.append((frame["path"], int(frame["line"])))
        elif message is not None:
            if _AFTER.match(line) or len(message) >= _MESSAGE_LINES:
                done()
            else:
                message.append(line)
        elif frames and (begun := _KIND.fullmatch(line)):
            kind, message = begun["kind"], [begun["message"] or ""]
    done()
    return found
