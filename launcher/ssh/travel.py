"""Trees that travel to hosts by content: only what a host lacks is sent."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import SubmitError
from launcher.git import blobs, git, output
from launcher.ssh import filtered
from launcher.ssh.agent.objects import changed, tree_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from launcher.snapshot import Snapshot
    from launcher.ssh.channel import Channel

_BATCH = 4 << 20  # bytes of objects that go in one message
_BASES = 20  # trees of a host that are looked for here


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Files with their names: as a host keeps them, and where they come from."""

    name: str
    text: bytes  # as launcher.ssh.agent.objects describes it
    read: Callable[[Sequence[str]], Generator[bytes, None, None]]  # objects by name, in order
    base: Callable[[Sequence[str]], tuple[str, bytes]]  # of these trees one that is known here


def code(source: Snapshot) -> Tree:
    """Return the code of a run as a tree; raise SubmitError when git cannot list it."""
    name, text = _listed(source.git_dir, f"{source.tree}:{source.prefix}")
    changes = filtered.changes(source, text)
    if changes:
        return _as_checked_out(source, text, changes)

    def base(names: Sequence[str]) -> tuple[str, bytes]:
        for each in _there(source.git_dir, names[:_BASES]):
            return _listed(source.git_dir, each)
        return "", b""

    return Tree(name=name, text=text, read=functools.partial(blobs, source.git_dir), base=base)


def _as_checked_out(source: Snapshot, text: bytes, changes: Mapping[bytes, str]) -> Tree:
    """Return the code with what git's filters make of some of its files; ``changes``: by path."""
    places = {name: path for path, name in changes.items()}
    lines = []
    for line in text.split(b"\0")[:-1]:
        mode, name, path = line.split(b" ", 2)
        lines.append(b"%b %b %b" % (mode, changes.get(path, name.decode()).encode(), path))
    whole = tree_of(lines)

    def read(names: Sequence[str]) -> Generator[bytes, None, None]:
        made = filtered.contents(source, [places[each] for each in names if each in places])
        plain = blobs(source.git_dir, [each for each in names if each not in places])
        with contextlib.closing(made), contextlib.closing(plain):
            for name in names:
                yield next(made if name in places else plain)

    digest = hashlib.sha256(whole).hexdigest()
    return Tree(name=digest, text=whole, read=read, base=lambda _: ("", b""))


@functools.lru_cache(maxsize=8)
def _listed(git_dir: str, tree: str) -> tuple[str, bytes]:
    """Return the name and the text of a tree that git has."""
    problem = f"the code in {git_dir} cannot be listed"
    name = output(git(("rev-parse", "--verify", tree), git_dir=git_dir), problem).strip()
    done = git(("ls-tree", "-r", "-z", "--full-tree", name), git_dir=git_dir)
    listed = output(done, problem).encode("utf-8", "surrogateescape")
    lines = []
    for entry in listed.split(b"\0")[:-1]:
        head, _, path = entry.partition(b"\t")
        mode, _, each = head.split()
        if not path.startswith(b".launcher/"):  # of a recorded run: it is none of the code
            lines.append(b"%b %b %b" % (mode, each, path))
    return name, tree_of(lines)


def _there(git_dir: str, names: Sequence[str]) -> list[str]:
    """Return those of the names that are trees of this repository."""
    asked = "".join(f"{name}\n" for name in names)
    done = git(("cat-file", "--batch-check"), git_dir=git_dir, stdin=asked)
    return [line.split()[0] for line in done.stdout.splitlines() if line.split()[1] == "tree"]


def bring(channel: Channel, tree: Tree) -> None:
    """Have a tree on a host, whole, when this returns; raise SubmitError.

    What breaks off is taken up again where it broke off: the host says what it still lacks.
    """
    known, _ = channel.ask("trees", name=tree.name)
    if tree.name in known:
        return
    with _ONE:  # hosts of a kind lack the same: it is found once
        base, gone, come = _since(tree, *tree.base(known))
    lacks = _lacking(channel, base, come)
    if lacks is None:  # somebody has just removed what it was to be made of
        base, gone, come = _since(tree, "", b"")
        lacks = _lacking(channel, base, come) or []
    head: dict[str, Any] = {"name": tree.name, "base": base, "gone": len(gone)}
    head["digest"] = hashlib.sha256(tree.text).hexdigest()
    for _ in range(2):
        with contextlib.closing(_batches(tree, lacks)) as messages:
            channel.tell("put", messages)
        lacks, _ = channel.ask("tree", b"\0".join((*gone, *come)), **head)
        if not lacks:
            return
    raise SubmitError(f"{channel.name}: files that were sent are gone again", transient=True)


def _lacking(channel: Channel, base: str, come: Sequence[bytes]) -> list[str] | None:
    """Return which objects of these entries a host lacks; None when it has no such ``base``."""
    names = dict.fromkeys(each.split(b" ", 2)[1] for each in come if each[:6] != b"160000")
    lacks: list[str] | None = channel.ask("lacks", b"\n".join(names), base=base)[0]
    return lacks


_ONE = threading.Lock()
_FOUND: dict[tuple[str, str], tuple[str, list[bytes], list[bytes]]] = {}


def _since(tree: Tree, base: str, text: bytes) -> tuple[str, list[bytes], list[bytes]]:
    """Return the tree to start from, and which entries go and come."""
    if (tree.name, base) not in _FOUND:
        _FOUND[tree.name, base] = (base, *changed(tree.text, text))
    return _FOUND[tree.name, base]


def _batches(
    tree: Tree, names: Sequence[str]
) -> Generator[tuple[dict[str, Any], bytes], None, None]:
    """Yield messages that together hold the objects of these names."""
    head: list[tuple[str, int]] = []
    body = bytearray()
    with contextlib.closing(tree.read(names)) as contents:
        for name, data in zip(names, contents, strict=True):
            head.append((name, len(data)))
            body += data
            if len(body) >= _BATCH:
                yield {"objects": head}, bytes(body)
                head, body = [], bytearray()
    if head:
        yield {"objects": head}, bytes(body)
