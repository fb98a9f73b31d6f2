"""What a host keeps by content, the runs' code and data: what of it may go, and its removal.

Standard library only, and sent to the agent as it is. How it lies: see objects.py and shelf.py.

Why a tree goes before what it names: one that is there says that all of that is there. Why contents
that no tree names stay for an hour: their tree may be on its way.
"""

from __future__ import annotations

import contextlib
import os
import re

from launcher.ssh.agent.disk import changed_at, size_of
from launcher.ssh.agent.needs import CODE, DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Any

    from launcher.ssh.agent.leftovers import Place

_PROGRAM, _FOLDER = b"100755", b"040000"
_DATA = re.compile(r"[0-9a-f]{64}\b")
_NEEDED = "a run that stays needs it"


class Stock:
    """Trees, and the contents that they name; ``named``: by trees that go, and that stay."""

    def __init__(self, place: Place, trees: str, contents: str) -> None:
        """Name the folders, below the place's own; nothing is read."""
        self.place, self.top, self.files = place, trees, contents
        self.trees: dict[str, str] = {}  # why each stays, by name; "": it goes
        self.torn: list[str] = []  # trees of which a killed writer left a part
        self.named: dict[bool, set[str]] = {True: set(), False: set()}

    def read(self, needed: Collection[str], asked: Callable[[str], bool]) -> None:
        """Find what goes: of the trees that are ``asked`` for, by name, those that may."""
        for name in self.place.names(self.top):
            sign = f"{self.top}/{name}"
            if not name.isalnum():
                self.torn.append(sign)
                continue
            why = self.place.stays(sign, _NEEDED if sign in needed else "")
            self.trees[name] = why if why or asked(name) else "not asked for"
            self.named[not self.trees[name]].update(self.keys(name))

    def keys(self, tree: str) -> Iterator[str]:
        """Yield what names the contents of a tree, in the order of its paths."""
        with open(self.place.file(self.top, tree), "rb") as file:
            text = file.read()
        for line in filter(None, text.split(b"\0")):
            mode, *rest = line.split(b" ", 2)  # of a host that lost its power it may be anything
            key, of_data, _ = b"".join(rest[:1]).decode("ascii", "replace").partition(":")
            if mode != _FOLDER:
                yield key + ("x" if of_data and mode == _PROGRAM else "")

    def path(self, key: str) -> str:
        """Return where a content lies, below the place's folder."""
        return f"{self.files}/{key[:2]}/{key[2:]}"

    def contents(self) -> Iterator[tuple[str, str]]:
        """Yield each content that no tree that stays names, with why it stays all the same."""
        for part in self.place.names(self.files):
            for name in self.place.names(f"{self.files}/{part}"):
                if part + name not in self.named[False]:
                    path = f"{self.files}/{part}/{name}"
                    yield part + name, self.place.lately(changed_at(self.place.file(path)))


class Code:
    """The runs' code; all that may go goes at once."""

    def __init__(self, place: Place, needed: Collection[str]) -> None:
        """Look what goes."""
        self.place = place
        self.stock = Stock(place, CODE, "objects")
        self.stock.read(needed, lambda _: True)
        self.going = [self.stock.path(key) for key, why in self.stock.contents() if not why]
        torn = self.stock.torn
        self.going += [each for each in torn if not place.lately(changed_at(place.file(each)))]

    def items(self) -> list[dict[str, Any]]:
        """Return one item of what goes and one of what stays, where there is any."""
        place, trees = self.place, self.stock.trees
        every = [
            f"objects/{part}/{name}"
            for part in place.names("objects")
            for name in place.names(f"objects/{part}")
        ]
        every += self.stock.torn
        going, found = set(self.going), []
        for goes in (True, False):
            paths = [each for each in every if (each in going) == goes]
            names = [f"{CODE}/{name}" for name, why in trees.items() if (not why) == goes]
            if paths or names:
                files = [place.file(each) for each in (*paths, *names)]
                counts = f"{counted(len(names), 'tree')}, {counted(len(paths), 'file')}"
                item: dict[str, Any] = {
                    "kind": "code",
                    "path": "objects" if goes else CODE,
                    "state": counts,
                }
                item |= {"changed": max(map(changed_at, files)), "size": size_of(files)}
                whys = {trees[each.partition("/")[2]] for each in names}
                why = next((each for each in ("in use", _NEEDED) if each in whys), "")
                stays = why or place.lately(item["changed"])
                found.append({**item, "stays": "" if goes else stays})
        return found

    def remove(self) -> int:
        """Remove what goes; return bytes."""
        names = [f"{CODE}/{name}" for name, why in self.stock.trees.items() if not why]
        return removed(self.place, [*names, *self.going])


class Data:
    """Data that were sent, each by itself, and what came of data of which the rest did not."""

    def __init__(
        self, place: Place, needed: Collection[str], asked: Collection[str] | None = None
    ) -> None:
        """Look what goes; ``asked``: of these items only."""
        self.place, self.asked = place, asked
        self.stock = Stock(place, DATA, "data/files")
        self.stock.read(needed, lambda name: asked is None or f"data/{name}" in asked)

    def items(self) -> list[dict[str, Any]]:
        """Return an item each, those that stay first: what has two names counts for those."""
        found: list[dict[str, Any]] = []
        seen: set[tuple[int, int]] = set()
        for name, why in sorted(self.stock.trees.items(), key=lambda each: not each[1]):
            folder, keys = f"data/{name}", set(self.stock.keys(name))
            paths = [folder, *map(self.stock.path, keys), f"{DATA}/{name}"]
            size = size_of(map(self.place.file, paths), seen)
            names = ", ".join(map(_shown, self.place.names(folder)))
            state = f"{names}: {counted(len(keys), 'file')}"
            whole = {"kind": "data", "path": folder, "state": state, "size": size, "stays": why}
            found.append({**whole, "changed": changed_at(self.place.file(DATA, name))})
        for path in ("data/parts", "data/files"):  # what goes of it, and what stays
            left = [each for each, why in self._half() if (not why) == (path == "data/parts")]
            if left:
                files = [self.place.file(each) for each in left]
                item: dict[str, Any] = {"kind": "data", "path": path, "size": size_of(files, seen)}
                item |= {"state": f"half sent: {counted(len(left), 'file')}"}
                item["changed"] = max(map(changed_at, files))
                why = "" if path == "data/parts" else self.place.lately(item["changed"])
                found.append({**item, "stays": why})
        return found

    def _half(self) -> Iterator[tuple[str, str]]:
        """Yield what belongs to no data that are whole, and why it stays."""
        place = self.place
        named = filter(_DATA.match, place.names("data"))  # what else lies there is not ours
        left = [f"data/{name}" for name in named if name not in self.stock.trees]
        left += [*self.stock.torn, *(f"data/parts/{name}" for name in place.names("data/parts"))]
        yield from ((each, place.lately(changed_at(place.file(each)))) for each in left)
        for key, why in self.stock.contents():
            if key not in self.stock.named[True]:
                yield self.stock.path(key), why

    def remove(self) -> list[str]:
        """Remove what goes; return which items went. What is large is put aside."""
        going = [name for name, why in self.stock.trees.items() if not why]
        half = self.asked is None or "data/parts" in self.asked
        left = [each for each, why in self._half() if half and not why]
        named = self.stock.named[True]
        left += [self.stock.path(k) for k, why in self.stock.contents() if k in named and not why]
        folders = [each for each in left if os.path.isdir(self.place.file(each))]
        removed(self.place, [f"{DATA}/{name}" for name in going])
        self.place.put_aside([*(f"data/{name}" for name in going), *folders])
        removed(self.place, [each for each in left if each not in folders])
        return [*(f"data/{name}" for name in going), *(["data/parts"] if half and left else [])]


def removed(place: Place, paths: Collection[str]) -> int:
    """Remove files, in their order; return the bytes that were freed."""
    freed = 0
    for path in map(place.file, paths):
        with contextlib.suppress(FileNotFoundError):
            about = os.lstat(path)
            os.unlink(path)
            freed += about.st_blocks * 512 if about.st_nlink == 1 else 0
    return freed


def _shown(name: str) -> str:
    """Return a name as a terminal, and a line, may have it."""
    return "".join(each if each.isprintable() else "?" for each in name)


def counted(count: int, what: str) -> str:
    """Return ``1 file``, ``2 files``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
