"""A plain box that a user can ssh to, and every way to break it, each with its way back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster import proxy, sshd
from tests.cluster.host import Host, ip
from tests.cluster.user import USER, lay

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.disks import Disk

HERE = "here"  # this machine, as a place that the user comes from
PASSES_S = 5.0  # in which a cable that was plugged in passes something
SSHD = "mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e"  # sshd wants its whole path
LISTENS = ":{port:04X} 00000000:0000 0A"  # Source: proc_net_tcp.txt of the kernel

ABSENT = ("git", "git-*", "rsync", "rsync-*")
COMPILERS = ("cc", "c++", "c[89]9", "cpp*", "gcc*", "g++*", "clang*", "*-gcc*", "*-g++*", "*-cpp*")

# What lies on the disk, and how. Other folders of a host's own are empty after each start.
ON_DISK = {"/home": 0o755, "/root": 0o700, "/srv": 0o755, "/var/tmp": 0o1777}


def on_disk(path: str) -> str:
    """Return where a host's folder lies on its disk."""
    return path.strip("/").replace("/", "-")


@dataclass(kw_only=True)
class SshHost(Host):
    """A host with an sshd, that has a disk and no name server; for its network see proxy.py."""

    folder: Path  # its own files, of this machine's; sshd's are in `ssh`
    disk: Disk
    keys: dict[str, str]  # the user's public keys, by where the user comes from
    upstream: str  # this machine's proxy, if it has one
    far: str  # an address that it never answers, if any
    until: Callable[[str, Callable[[], object]], None]  # wait for what a daemon brings about
    usual: tuple[str, ...] = ABSENT  # programs that it has not, if nothing else is said
    refused: set[str] = field(default_factory=set)  # keys
    lost: set[str] = field(default_factory=set)  # addresses that nothing gets to
    home: dict[str, str] = field(default_factory=dict)  # what the user's holds at first
    sshd: subprocess.Popen[str] | None = None

    # -- looks -------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        """Its / as it is seen from here."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def user_home(self) -> Path:
        """The user's home as it is seen from here, even while the host is off."""
        return self.disk.seen / "home" / USER

    def processes(self) -> dict[int, str]:
        """Return what runs there but for the host's own: process ids of here, and words."""
        if not self.pid:
            return {}
        below = (Path(f"/proc/{each.pid}/task/{each.pid}/children") for each in self.daemons)
        own = {str(self.pid), *(pid for each in below for pid in each.read_text().split())}
        here = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for each in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if each.name not in own and os.readlink(each / "ns" / "pid") == here:
                    words = (each / "cmdline").read_bytes().decode().replace("\0", " ").strip()
                    if words:  # else it has ended, and its parent does not know yet
                        found[int(each.name)] = words
        return found

    # -- the plug, the cable, the disk -------------------------------------------------------

    def start(self, *, blank: bool = False, absent: tuple[str, ...] | None = None) -> None:
        """Switch it on, with an empty disk if it is to be blank, and return when sshd listens."""
        self.absent = self.usual if absent is None else absent
        if blank:
            self.disk.wipe()
        if not self.user_home.exists():
            self._furnish_disk()
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self._authorize()
        super().start()
        if self.far:
            self._route("add", self.far)
        script = (sys.executable, "-I", "-S", proxy.__file__)
        log = self.log.with_suffix(".proxy")
        log.unlink(missing_ok=True)
        self.beside(*script, str(self.pid), self.upstream, log=log)
        self.start_sshd()
        self.until(f"proxy of {self.name}", lambda: "listening" in log.read_text())

    def kill(self) -> None:
        """Pull the plug: all that runs there ends. The disk stays as it is."""
        super().kill()
        self.sshd = None
        self.lost.clear()

    def unplug(self) -> None:
        """Pull the network's cable; what runs there goes on, and connections wait."""
        ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        """Plug it in again; the kernel takes up to a second until anything passes."""
        ip("link", "set", self.cable, "up")
        end = time.monotonic() + PASSES_S
        while not self.far and time.monotonic() < end:  # far off, it does not answer this machine
            with suppress(OSError):
                with suppress(ConnectionRefusedError):  # which has come from there
                    socket.create_connection((self.address, 22), timeout=0.1).close()
                return

    def cut_off(self, address: str) -> None:
        """Have what it sends to an address get lost; what comes from there arrives."""
        self._route("add", address)
        self.lost.add(address)

    def let_through(self, address: str) -> None:
        self._route("del", address)
        self.lost.discard(address)

    def fill(self, room: int = 0) -> None:
        """Leave no room on the disk, or that many bytes."""
        self.disk.fill(room)

    def relieve(self) -> None:
        self.disk.relieve()

    # -- sshd --------------------------------------------------------------------------------

    def start_sshd(self) -> None:
        self.sshd = self.daemon("sh", "-c", SSHD, log=self.log.with_suffix(".sshd"))
        sockets = Path(f"/proc/{self.pid}/net/tcp")
        listens = [LISTENS.format(port=port) for port in sshd.PORTS]
        self.until(
            f"sshd of {self.name}", lambda: all(each in sockets.read_text() for each in listens)
        )

    def stop_sshd(self, *, cut: bool = False) -> None:
        """End sshd; its sessions stay, as on Debian, or are cut."""
        assert self.sshd
        self.end(self.sshd)
        self.sshd = None
        while cut and (sessions := self._sessions()):
            for pid in sessions:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def restart_sshd(self, *, cut: bool = False) -> None:
        self.stop_sshd(cut=cut)
        self.start_sshd()

    def new_host_key(self) -> None:
        """Have another key than everybody knows, as a new installation has."""
        self._use_host_key("new")

    def old_host_key(self) -> None:
        self._use_host_key("old")

    def refuse(self, origin: str = HERE) -> None:
        """Refuse the key that the user has on this machine, or on another host."""
        self.refused.add(origin)
        self._authorize()

    def accept(self, origin: str = HERE) -> None:
        self.refused.discard(origin)
        self._authorize()

    # -- all of it ---------------------------------------------------------------------------

    def mend(self) -> None:
        """Have all as it was at first but for what lies on the disk, and nothing run."""
        self.refused.clear()
        self._authorize()
        self.relieve()
        if self.absent != self.usual:
            self.kill()
        if not self.pid:
            self.start()
        for address in [*self.lost]:
            self.let_through(address)
        self.plug()
        if not self.sshd:
            self.start_sshd()
        self.old_host_key()
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # -- how ---------------------------------------------------------------------------------

    def write(self, server: str) -> str:
        """Write what sshd reads; return the public host key that everybody is to know."""
        (self.folder / "ssh").mkdir(parents=True)
        config = self.folder / "ssh" / "sshd_config"
        config.touch(mode=0o600)  # where packages come from may hold a password
        config.write_text(server)
        old, _ = (sshd.key(self.folder / each, f"root@{self.name}") for each in ("old", "new"))
        self._place_host_key("old")
        return old

    def _route(self, what: str, address: str) -> None:
        route = ("ip", "route", what, "blackhole", address)
        subprocess.run(self.inside(route), env=self.env, check=True)

    def _furnish_disk(self) -> None:
        for path, mode in ON_DISK.items():
            folder = self.disk.seen / on_disk(path)
            folder.mkdir()
            folder.chmod(mode)
        self.user_home.mkdir(mode=0o755)
        lay(self.user_home, self.home)

    def _authorize(self) -> None:
        keys = (key for origin, key in self.keys.items() if origin not in self.refused)
        file = self.folder / "ssh" / "authorized_keys"
        new = file.with_suffix(".new")
        new.write_text("".join(keys))
        new.replace(file)

    def _place_host_key(self, which: str) -> bool:
        """Return whether sshd had another one."""
        source, target = self.folder / which, self.folder / "ssh" / sshd.HOST_KEY
        if target.exists() and target.read_text() == source.read_text():
            return False
        shutil.copy(source, target)  # with its mode
        return True

    def _use_host_key(self, which: str) -> None:
        if self._place_host_key(which):
            self.restart_sshd()

    def _sessions(self) -> list[int]:
        return [pid for pid, words in self.processes().items() if words.startswith("sshd:")]
