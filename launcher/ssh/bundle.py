"""The launcher's own code as a tree, for hosts: nothing of it is installed there by hand.

With it goes what building an environment needs: pure Python, from our own site packages.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.environment import answers
from launcher.environment.installed import installed
from launcher.ssh.agent.objects import name_of, tree_of
from launcher.ssh.travel import Tree

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

_ONE = threading.Lock()
# Distributions that virtualenv is made of; older ones do without the last.
NEEDED = ("virtualenv", "distlib", "filelock", "platformdirs", "packaging", "python-discovery")


def bundle() -> Tree:
    """Return the tree of all that a host needs of us; any thread may ask."""
    with _ONE:
        return _bundle()


@functools.cache
def _bundle() -> Tree:
    """Return the tree, as it was found first.

    To read 400 files takes 50 ms: their names are kept until one of them changes.
    """
    files = dict(sorted(_files()))
    stamps = [[path, *_stamp(file)] for path, file in files.items()]
    question, digest = "the launcher's own code", answers.digest(stamps)
    kept = json.loads(answers.recall(question, ()) or "{}")
    if kept.get("stamps") != digest:
        names = {path: name_of(Path(file).read_bytes()) for path, file in files.items()}
        kept = {"stamps": digest, "names": names}
        answers.keep(question, (), json.dumps(kept))
    places = {name: files[path] for path, name in kept["names"].items()}
    text = tree_of(
        f"100644 {name} {path}".encode("utf-8", "surrogateescape")
        for path, name in kept["names"].items()
    )

    def read(names: Sequence[str]) -> Generator[bytes, None, None]:
        for name in names:
            yield Path(places[name]).read_bytes()

    return Tree(name=name_of(text), text=text, read=read, base=lambda _: ("", b""))


def _files() -> Iterator[tuple[str, str]]:
    """Yield the path of each file there and here."""
    here = Path(__file__).parents[1]
    yield from _below(str(here), "launcher")
    site = str(Path(str(_origin("virtualenv"))).parents[1])
    for project, each in installed((site,)).items():
        if project in NEEDED:
            package = project.replace("-", "_")
            yield from _below(str(Path(str(_origin(package))).parent), package)
            yield from _below(each.record, os.path.basename(each.record))


def _origin(package: str) -> str | None:
    found = importlib.util.find_spec(package)
    return found.origin if found else None


def _below(folder: str, name: str) -> Iterator[tuple[str, str]]:
    for path, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if each != "__pycache__"]
        inside = os.path.normpath(os.path.join(name, os.path.relpath(path, folder)))
        for each in files:
            yield f"{inside}/{each}", os.path.join(path, each)


def _stamp(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_mtime_ns, about.st_size
