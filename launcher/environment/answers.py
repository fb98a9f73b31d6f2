"""The launcher's cache folder, and the answers that are remembered in it.

Why remember: to ask an interpreter or an mpirun what it is takes a process, 10 to 50 ms, at each
launch, and the answer changes only when the program or its folders do. Why reading and keeping are
two functions: planning looks and never writes; only what builds or submits keeps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.processes import beside

if TYPE_CHECKING:
    from collections.abc import Iterable


def cache_dir() -> str:
    """Return the absolute folder of the launcher's cache; it need not be there yet.

    ``$LAUNCHER_CACHE``, else ``$XDG_CACHE_HOME/launcher``, else ``~/.cache/launcher``.
    """
    own, user = os.environ.get("LAUNCHER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own) if own else (Path(user) if user else Path("~/.cache")) / "launcher"
    return str(folder.expanduser().absolute())


def recall(question: str, about: Iterable[str]) -> str:
    """Return the remembered answer, or "" when ``about``, paths, changed since or none is there."""
    try:
        kept = json.loads(_file(question).read_text("utf-8"))
        return str(kept["answer"]) if kept["about"] == _stamps(about) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def keep(question: str, about: Iterable[str], answer: str) -> None:
    """Remember ``answer`` until one of the paths ``about`` changes."""
    file = _file(question)
    kept = json.dumps({"question": question, "about": _stamps(about), "answer": answer}, indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, kept)
    except OSError:  # a cache that cannot be written makes things slower, never wrong
        return


def write(file: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the whole file or the one before."""
    part = Path(beside(str(file)))
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)


def touch(file: Path) -> None:
    """Let a file of the cache tell when it was used last; others may own it, and say nothing."""
    with contextlib.suppress(OSError):
        os.utime(file)


def digest(value: object) -> str:
    """Return the 16 hexadecimal digits that stand for the JSON value ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _file(question: str) -> Path:
    return Path(cache_dir()) / "answers" / f"{digest(question)}.json"


def _stamps(about: Iterable[str]) -> list[list[object]]:
    return [_stamp(Path(path)) for path in about]


def _stamp(path: Path) -> list[object]:
    try:
        status = path.stat()
        return [str(path), str(path.resolve()), status.st_mtime_ns, status.st_size]
    except OSError:
        return [str(path)]
