"""A machine's own word for a pool elsewhere: reads what is wanted, tells what is ours.

Standard library only. Messages are lines of JSON, on standard input and output. Ours alone is what
no run has yet: it is given back when standard input ends, or nothing comes from there for a while.

    {"hello": SUPERVISOR, "slots": N, "gpus": N}    {"hello": HOSTNAME}
    {"use": PATHS}
    {"ask": NUMBER, "need": NEED}                   {"held": NUMBER}, or {"ask", "ahead": COUNT}
    {"drop": true}
    {"line": true}                                  {"port": PORT}
    {"keep": FOLDER, "word", "files", "address", "port"}    {"kept": true}, or {"refused": WHY}
    {"start": FOLDER, "word", "files", "env"}       later {"ended": FOLDER}
    {"watch": FOLDER, "word"}                       the same, or {"unstarted": FOLDER}

A start that was lost with its connection may still lie here, unread by another of us. So each has a
word of its own, and who makes the file of that name decides: to start it, or that it never will be.
By that word the keepers of a run of several machines tell its ranks from those of another start.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from typing import Any

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from launcher.pool.claim import claim, is_claimed, is_on_its_way  # now it can be found
from launcher.pool.place import Here, Host, Need, wakes, woken
from launcher.store import RunFolder, write_atomically

_SILENT_S = 15.0  # from the other end, which says something more often
_MOMENT_S = 0.01


class Hold:
    """One pool's part of this machine."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.read = b""
        self.heard = time.monotonic()
        self.place: Here | None = None  # once we know what it is to others
        self.asked = 0
        self.told: object = None  # of how it stands

    def run(self) -> None:
        """Do as we are told until the other end is gone."""
        bell = wakes()
        sys.stdout.write("\n")  # what a login script has printed may have no end
        while time.monotonic() < self.heard + _SILENT_S:
            patience = self.place.patience if self.place else _SILENT_S
            ready, _, _ = select.select([0, bell], [], [], min(patience, _SILENT_S))
            woken(bell)
            if 0 in ready and not self._hear():
                return
            if self.place:
                self._tell_of(self.place)

    def _hear(self) -> bool:
        """Return whether the other end is still there."""
        data = os.read(0, 1 << 16)
        self.heard = time.monotonic()
        *lines, self.read = (self.read + data).split(b"\n")
        for line in filter(None, lines):
            message = json.loads(line)
            if "hello" in message:
                host = Host(slots=message["slots"], gpus=message["gpus"])
                self.place = Here(tuple(message["hello"]), host)
                _say(hello=os.uname().nodename)
            elif self.place:
                self._heed(self.place, message)
        return bool(data)

    def _heed(self, place: Here, message: dict[str, Any]) -> None:
        if "use" in message:
            place.use(message["use"])
        elif "ask" in message:
            self.asked, self.told = message["ask"], None
            place.drop()
            place.ask(Need(**message["need"]))
        elif "drop" in message:
            place.drop()
        elif "line" in message:
            _say(port=place.line())
        elif "keep" in message:
            self._keep(place, message)
        elif "start" in message:
            self._start(place, message)
        elif "watch" in message:
            self._watch(place, RunFolder(message["watch"]), message["word"])

    def _tell_of(self, place: Here) -> None:
        if place.need:
            stands: dict[str, Any] = {"held": self.asked}
            if not place.has():
                stands = {"ahead": place.leases.ahead, "ask": self.asked}
            if stands != self.told:
                self.told = stands
                _say(**stands)
        for path in place.ended():
            _say(ended=path)

    def _keep(self, place: Here, message: dict[str, Any]) -> None:
        folder = RunFolder(message["keep"])
        try:
            _lay(folder, message["files"])
            place.keep(folder, message["address"], message["port"], message["word"])
        except OSError as error:
            _say(refused=f"{message['address']}:{message['port']}: {error}")
        else:
            _say(kept=True)

    def _start(self, place: Here, message: dict[str, Any]) -> None:
        folder = RunFolder(message["start"])
        ours = claimed = None
        try:
            os.makedirs(folder.path, exist_ok=True)
            ours = claim(folder, message["word"])
            if ours is not None:  # else its files are no longer ours to lay
                _lay(folder, message["files"])
                claimed = claim(folder)
        except OSError as error:
            place.drop()
            _say(ended=folder.path, refused=str(error))
        else:
            if claimed is None:  # we were given up, or the run was cancelled
                place.drop()
                place.watch(folder.path)
            else:
                place.start(folder, message["env"], claimed)
                os.close(claimed)
        finally:
            if ours is not None:
                os.close(ours)

    def _watch(self, place: Here, folder: RunFolder, word: str) -> None:
        """Tell of a run's end; who was told to start it by this word, and has not, never will."""
        with contextlib.suppress(OSError):
            os.makedirs(folder.path, exist_ok=True)
            if (ours := claim(folder, word)) is not None:
                os.close(ours)
        while is_on_its_way(folder, word) and not is_claimed(folder):
            time.sleep(_MOMENT_S)  # another of us is just starting it
        if is_claimed(folder) or not os.path.exists(folder.file(word)):
            place.watch(folder.path)
        else:  # as often as we are asked: an answer may be lost as well
            _say(unstarted=folder.path)


def _lay(folder: RunFolder, files: list[tuple[str, int, str | None]]) -> None:
    """Have the run's files in its folder, as the pool has them; once it is claimed they stay."""
    if is_claimed(folder):
        return
    for path, mode, text in files:
        there = folder.file(path)
        if text is None:
            os.makedirs(there, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(there), exist_ok=True)
            write_atomically(there, text, mode)


def _say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        Hold().run()
