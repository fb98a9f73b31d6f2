"""Hosts' disks: what lies there outlives its host, as a real one's does, but not the test run.

Why a process that holds them: a tmpfs has a size of its own, so that it can be full; and mounted in
that process's mount namespace alone, it leaves nothing on this machine however the test run ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.host import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# The machine's mounts stay its own, as far as can be said: see host.py. It ends with its input.
HOLD = """\
mount --make-rprivate / 2>/dev/null
size=$1
shift
for disk; do mount -t tmpfs -o "mode=755,size=$size" disk "$disk" || exit; done
echo mounted
read -r _
"""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A file system that is mounted at `path`, for those in its holder's mount namespace."""

    path: Path
    size: str  # as tmpfs(5) has it
    holder: int  # a process

    @property
    def seen(self) -> Path:
        """Where it is for everybody else who is root."""
        return Path(f"/proc/{self.holder}/root{self.path}")

    def wipe(self) -> None:
        """Remove all that lies there."""
        for each in self.seen.iterdir():
            shutil.rmtree(each)

    def fill(self, room: int = 0) -> None:
        """Leave that many bytes of room, without writing what would take memory."""
        for _ in range(100):  # who writes meanwhile has more by then, which refuses ours
            now = os.statvfs(self.seen)
            used = (now.f_blocks - now.f_bfree) * now.f_frsize
            if self._resize(str(max(used, now.f_frsize) + room)):  # none at all means no limit
                return
        raise OSError(f"{self.path} cannot be filled")

    def relieve(self) -> None:
        """Give it its whole size back."""
        assert self._resize(self.size)

    def _resize(self, size: str) -> bool:
        there = ("nsenter", "--target", str(self.holder), "--root", "--mount", "--")
        words = ("mount", "-o", f"remount,size={size}", str(self.path))
        done = subprocess.run([*there, *words], env=ENVIRONMENT, check=False, capture_output=True)
        return done.returncode == 0


@contextmanager
def disks(paths: Sequence[Path], size: str) -> Iterator[tuple[Disk, ...]]:
    """Have an empty disk of a size at each of these paths, which are made."""
    for path in paths:
        path.mkdir(parents=True)
    unshare = ("unshare", "--mount", "--propagation", "unchanged", "--")
    with subprocess.Popen(
        [*unshare, "sh", "-c", HOLD, "disks", size, *map(str, paths)],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is not for it
    ) as holder:
        assert holder.stdout
        if not holder.stdout.readline():
            raise OSError(f"no disk of {size} could be mounted at {paths[0]}")
        yield tuple(Disk(path=path, size=size, holder=holder.pid) for path in paths)
