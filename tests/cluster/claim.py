"""A number that one cluster on this machine holds, from which its bridge and addresses follow.

Why files under lock: the kernel lets a lock go when its holder ends, however it ends. A file whose
lock can be taken is what a killed test run left, and tells what else it left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.host import ip, unplug

if TYPE_CHECKING:
    from collections.abc import Iterator

CLAIMS = Path("/run/launcher-tests")
FOLDER = "launcher-cluster-"
PREFIX = "launch"  # of network interfaces, whose names have 15 characters at most


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A cluster's number, and the folder that all its files lie in."""

    number: int
    folder: Path

    @property
    def bridge(self) -> str:
        return f"{PREFIX}{self.number}"

    @property
    def network(self) -> str:
        return f"198.19.{self.number}"  # of a block for tests of devices, in nobody's use: RFC 2544

    def cable(self, host: int) -> str:
        return f"{self.bridge}-{host}"

    def remove(self) -> None:
        """Take away what holds no process; what is gone already is no fault."""
        for _, name in socket.if_nameindex():
            if name == self.bridge or name.startswith(f"{self.bridge}-"):
                unplug(name)
        if not self.folder.name.startswith(FOLDER):
            return
        for _ in range(50):  # processes of a test run killed just now may still write
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                return
            time.sleep(0.1)


@contextmanager
def claim() -> Iterator[Claim]:
    """Hold a number and a bridge of one's own, after removing what killed test runs left."""
    CLAIMS.mkdir(mode=0o700, exist_ok=True)
    with _locked(CLAIMS / "lock"):
        _sweep()
        number = _bridge()
        folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir="/tmp"))
        folder.chmod(0o755)
        held = Claim(number=number, folder=folder)
        path = CLAIMS / str(number)
        path.write_text(str(folder))
        descriptor = os.open(path, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        ip("address", "add", f"{held.network}.1/24", "dev", held.bridge)
        ip("link", "set", held.bridge, "up")
        yield held
    finally:
        held.remove()
        path.unlink()
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep() -> None:
    for path in CLAIMS.glob("[0-9]*"):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its holder lives
            Claim(number=int(path.name), folder=Path(file.read())).remove()
            path.unlink(missing_ok=True)


def _bridge() -> int:
    """Make a bridge under the first free number; nobody else can make the same."""
    for number in range(256):
        if (CLAIMS / str(number)).exists():
            continue
        try:
            ip("link", "add", f"{PREFIX}{number}", "type", "bridge", "forward_delay", "0")
        except OSError as error:
            if "File exists" not in str(error):
                raise
        else:
            return number
    raise OSError(f"256 clusters are up already: see {CLAIMS}")
