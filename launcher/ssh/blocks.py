"""Blocks of large files: which of them a file has in common with the one that it was before.

Blocks lie where they lay: what is appended to, or changed in place, is found; what moved is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from launcher.environment import answers

BLOCK = 4 << 20
LARGE = 4 * BLOCK  # files from this size on
_KEPT = 1000  # files that are remembered
_DIGEST = hashlib.sha256().digest_size


class Sums:
    """The digest of a file that is read from its start, and those of its blocks."""

    def __init__(self, size: int) -> None:
        """Begin with a file of that many bytes."""
        self.whole, self.block = hashlib.sha256(), hashlib.sha256()
        self.blocks, self.large, self.left = b"", size >= LARGE, BLOCK

    def update(self, piece: bytes) -> None:
        """Add what comes next; no piece reaches beyond the end of a block."""
        self.whole.update(piece)
        if self.large:
            self.block.update(piece)
            self.left -= len(piece)
            if not self.left:
                self.blocks += self.block.digest()
                self.block, self.left = hashlib.sha256(), BLOCK

    def end(self) -> str:
        """Return the file's digest; remember those of its blocks."""
        name = self.whole.hexdigest()
        if self.large:
            _keep(name, self.blocks + self.block.digest())
        return name


def shared(old: str, new: str) -> set[int]:
    """Return the numbers of the blocks that two files, by their digests, are known to share."""
    with contextlib.suppress(OSError):
        before, now = ((_folder() / each[:64]).read_bytes() for each in (old, new))
        at = range(0, min(len(before), len(now)), _DIGEST)
        return {n // _DIGEST for n in at if before[n : n + _DIGEST] == now[n : n + _DIGEST]}
    return set()


def _folder() -> Path:
    return Path(answers.cache_dir()) / "data" / "blocks"


def _keep(name: str, blocks: bytes) -> None:
    with contextlib.suppress(OSError):  # what cannot be remembered travels whole
        _folder().mkdir(parents=True, exist_ok=True)
        part = _folder() / f"{name}.{os.getpid()}.part"
        part.write_bytes(blocks)
        part.replace(_folder() / name)
        latest = sorted(_folder().iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for each in latest[_KEPT:]:
            each.unlink()
