"""Blocks of large files: which of them a file has in common with the one that it was before.

Blocks lie where they lay: what is appended to, or changed in place, is found; what moved is not.
Why a checksum of 32 bits will do: what a host puts together is known by its sha256, and of what is
not the file after all, all is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from pathlib import Path

from launcher.environment import answers
from launcher.processes import beside

BLOCK = 4 << 20
LARGE = 4 * BLOCK  # files from this size on
_KEPT = 1000  # files that are remembered
_SUM = 4  # bytes


class Sums:
    """The digest of a file that is read from its start, and the checksums of its blocks."""

    def __init__(self, size: int) -> None:
        """Begin with a file of that many bytes."""
        self.whole, self.large = hashlib.sha256(), size >= LARGE
        self.blocks, self.block, self.left = b"", 0, BLOCK

    def update(self, piece: bytes) -> None:
        """Add what comes next; no piece reaches beyond the end of a block."""
        self.whole.update(piece)
        if self.large:
            self.block = zlib.crc32(piece, self.block)
            self.left -= len(piece)
            if not self.left:
                self._close()

    def _close(self) -> None:
        self.blocks += self.block.to_bytes(_SUM, "big")
        self.block, self.left = 0, BLOCK

    def end(self) -> str:
        """Return the file's digest; remember the checksums of its blocks."""
        name = self.whole.hexdigest()
        if self.large:
            self._close()
            _keep(name, self.blocks)
        return name


def shared(old: str, new: str) -> set[int]:
    """Return the numbers of the blocks that two files, by their digests, are known to share."""
    with contextlib.suppress(OSError):
        before, now = ((_folder() / each[:64]).read_bytes() for each in (old, new))
        at = range(0, min(len(before), len(now)), _SUM)
        return {n // _SUM for n in at if before[n : n + _SUM] == now[n : n + _SUM]}
    return set()


def _folder() -> Path:
    return Path(answers.cache_dir()) / "data" / "blocks"


def _keep(name: str, blocks: bytes) -> None:
    with contextlib.suppress(OSError):  # what cannot be remembered travels whole
        _folder().mkdir(parents=True, exist_ok=True)
        part = Path(beside(str(_folder() / name)))
        part.write_bytes(blocks)
        part.replace(_folder() / name)
        latest = sorted(_folder().iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for each in latest[_KEPT:]:
            each.unlink()
