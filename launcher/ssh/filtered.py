"""Files that git makes anew when it checks them out, such as those of Git LFS.

Why only these attributes: hosts are asked nothing of git, and have lines that end as ours do.
Source: gitattributes(5), git-checkout-index(1).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from launcher.git import git, output
from launcher.ssh.agent.objects import name_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from launcher.snapshot import Snapshot

_ATTRIBUTES = ("filter", "ident", "working-tree-encoding", "eol")
_NONE = ("unspecified", "unset", "lf")


def changes(source: Snapshot, text: bytes) -> dict[bytes, str]:
    """Return for each file that a checkout changes the name of what it then holds.

    ``text``: the source directory as ``launcher.ssh.agent.objects`` lists it.
    """
    paths = [line.split(b" ", 2)[2] for line in text.split(b"\0")[:-1]]
    if not source.prefix and not any(path.endswith(b".gitattributes") for path in paths):
        return {}
    wanted = _attributed(source, [path for path in paths if b"\n" not in path])
    made = contents(source, wanted)
    found = {path: name_of(data, len(source.tree)) for path, data in zip(wanted, made, strict=True)}
    names = _names(text)
    return {path: name for path, name in found.items() if name != names[path]}


def contents(source: Snapshot, paths: Sequence[bytes]) -> Generator[bytes, None, None]:
    """Yield what files hold once they are checked out."""
    if paths:
        with _index(source) as (index, top):
            words = ("checkout-index", "-z", "--stdin")
            stdin = "".join(f"{_full(source, path)}\0" for path in paths)
            done = git(words, git_dir=source.git_dir, cwd=top, index=index, stdin=stdin)
            output(done, f"git cannot check {source.tree} out")
            for path in paths:
                with open(os.path.join(top, _full(source, path)), "rb") as file:
                    yield file.read()


def _attributed(source: Snapshot, paths: Sequence[bytes]) -> list[bytes]:
    """Return the files that an attribute makes git change."""
    with _index(source) as (index, empty):
        words = ("check-attr", "--cached", "-z", "--stdin", *_ATTRIBUTES)
        stdin = "".join(f"{_full(source, path)}\0" for path in paths)
        done = git(words, git_dir=source.git_dir, cwd=empty, index=index, stdin=stdin)
    told = output(done, f"git cannot tell the attributes of {source.git_dir}").split("\0")[:-1]
    wanted = {path for path, value in zip(told[::3], told[2::3], strict=True) if value not in _NONE}
    return [path for path in paths if _full(source, path) in wanted]


def _names(text: bytes) -> dict[bytes, str]:
    lines = (line.split(b" ", 2) for line in text.split(b"\0")[:-1])
    return {path: name.decode() for _, name, path in lines}


def _full(source: Snapshot, path: bytes) -> str:
    below = f"{source.prefix}/" if source.prefix else ""
    return below + path.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _index(source: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield an index that lists the whole tree, and an empty folder as a work tree."""
    with tempfile.TemporaryDirectory() as folder:
        index, empty = os.path.join(folder, "index"), os.path.join(folder, "empty")
        os.mkdir(empty)
        words = ("read-tree", source.tree)
        output(git(words, git_dir=source.git_dir, index=index), f"git cannot read {source.tree}")
        yield index, empty
