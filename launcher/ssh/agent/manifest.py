"""What data hold, as hosts and we list it: "MODE HASH:SIZE PATH", each ended by a NUL, by path.

The hash is the sha256 of what a file holds, or of where a link leads; a folder is listed where it
holds nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.ssh.agent.objects import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, PROGRAM, LINK, FOLDER = b"100644", b"100755", b"120000", b"040000"


def entries(tree: bytes) -> Iterator[tuple[bytes, str, int, bytes]]:
    """Yield mode, key, size and path of each entry; raise Broken on one that must not be made.

    The key names what an entry holds; entries of one key are the same file on this host.
    """
    for line in filter(None, tree.split(b"\0")):
        mode, content, path = line.split(b" ", 2)
        name, _, size = content.decode().partition(":")
        if mode not in (FILE, PROGRAM, LINK, FOLDER) or not name.isalnum() or not size.isdigit():
            raise Broken(f"data have the entry {line[:200]!r}")
        if any(part in (b"", b".", b"..") for part in path.split(b"/")):
            raise Broken(f"data have the path {path[:200]!r}")
        yield mode, name + ("x" if mode == PROGRAM else ""), int(size), path


def key_of(line: bytes) -> str:
    """Return the key of an entry that was looked at before."""
    mode, content, _ = line.split(b" ", 2)
    return content.partition(b":")[0].decode() + ("x" if mode == PROGRAM else "")


def extent(tree: bytes) -> tuple[int, int]:
    """Return how many files and links a tree has, and how many bytes they hold."""
    sizes = [size for mode, _, size, _ in entries(tree) if mode != FOLDER]
    return len(sizes), sum(sizes)
