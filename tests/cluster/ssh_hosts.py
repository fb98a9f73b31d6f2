"""Plain boxes that a user can ssh to, on this machine, for as long as a `with` block lasts.

`hosta`, `hostb` and `hostc` have this machine's programs but git and rsync, and nothing else of it:
each has its own /home, /root, /srv, /tmp, /var/tmp, /run and /etc/ssh. They reach each other; the
user, who sits at the machine itself, reaches hostc only through hosta. Beyond them is no network,
but for pip: see proxy.py. What can be broken, and how it is mended: see ssh_host.py.
"""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING, Any

from tests.cluster import sshd
from tests.cluster.disks import disks
from tests.cluster.site import PROGRAMS, ROOT, Site
from tests.cluster.ssh_host import ABSENT, HERE, ON_DISK, SshHost, on_disk
from tests.cluster.user import USER, lay

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.cluster.disks import Disk

NAMES = ("hosta", "hostb", "hostc")
JUMPS = {"hostc": "hosta"}
EMPTY = ("/tmp", "/run", "/scratch", str(ROOT))  # after each start of a host


class SshHosts(Site):
    """The hosts, and the user's key and configuration on this machine.

    `keep` are folders that all of them share with this machine; `absent` are programs that they do
    not have; `disk` is the size of each one's, which takes memory as it fills.
    """

    hosta: SshHost
    hostb: SshHost
    hostc: SshHost

    def __init__(
        self, *, keep: Iterable[Path] = (), absent: tuple[str, ...] = ABSENT, disk: str = "4g"
    ) -> None:
        self._keep = tuple(keep)
        self._absent = absent
        self._disk = disk

    @property
    def programs(self) -> tuple[str, ...]:
        return (*PROGRAMS, "ssh", "ssh-keygen", "sshd")

    @property
    def all(self) -> tuple[SshHost, ...]:
        return (self.hosta, self.hostb, self.hostc)

    @property
    def here(self) -> str:
        """This machine's address, as they know it."""
        return f"{self.claim.network}.1"

    @property
    def config(self) -> Path:
        """The user's ssh_config, for `ssh -F`; root may use it as well."""
        return self.home() / ".ssh" / "config"

    def ssh(self, host: str, line: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell's line on a host by ssh, from this machine, as `run` runs a command."""
        return self.run(("ssh", "-F", self.config, host, line), **how)

    def mend(self) -> None:
        """Have all as it was at first but for what lies on disks, and nothing run."""
        for host in self.all:
            host.mend()
        for host in self.all:  # who has looked for one that was away looks again in a second only
            subprocess.run(host.inside(("ip", "neigh", "flush", "all")), check=True)

    # -- up and down -------------------------------------------------------------------------

    def _write(self) -> None:
        etc = self.folder / "etc"
        addresses = {name: f"{self.claim.network}.{11 + i}" for i, name in enumerate(NAMES)}
        here = f"{self.here} {socket.gethostname()}"
        names = ["127.0.0.1 localhost", here, *(f"{addresses[name]} {name}" for name in NAMES)]
        (etc / "hosts").write_text("\n".join(names) + "\n")
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # nobody answers, at once
        # The account has no password, and sshd takes the usual mark of that for a locked one.
        (etc / "shadow").write_text("".join(f"{user}:*:19000::::::\n" for user in ("root", USER)))
        keys = {name: sshd.key(etc / name, f"{USER}@{name}") for name in (HERE, *NAMES)}
        paths = [self.folder / "disks" / name for name in NAMES]
        each = self._stack.enter_context(disks(paths, self._disk))
        self.hosta, self.hostb, self.hostc = (
            self._box(disk, addresses[disk.path.name], keys) for disk in each
        )
        self.hosts = self.all
        self._introduce(addresses)

    def _box(self, disk: Disk, address: str, keys: dict[str, str]) -> SshHost:
        name, etc, own = disk.path.name, self.folder / "etc", self.folder / disk.path.name
        binds = {
            "/etc/hosts": etc / "hosts",
            "/etc/resolv.conf": etc / "resolv.conf",
            "/etc/shadow": etc / "shadow",
            "/etc/ssh": own / "ssh",
            "/proc/sys/kernel/random/boot_id": own / "boot_id",
            **{path: disk.path / on_disk(path) for path in ON_DISK},
            **{str(path): path for path in self._keep},
        }
        return SshHost(
            **self._common(name, NAMES.index(name)),
            address=address,
            binds={path: str(source) for path, source in binds.items()},
            private=EMPTY,
            disks=disk.holder,
            disk=disk,
            folder=own,
            keys=keys,
            usual=self._absent,
            upstream=sshd.upstream(),
            far=self.here if name in JUMPS else "",
            until=self._until,
        )

    def _introduce(self, addresses: dict[str, str]) -> None:
        """Write what sshd and ssh read, here and in the homes there."""
        server, known = sshd.server(sshd.package_variables()), ""
        for host in self.all:
            known += f"{host.name},{host.address} {host.write(server)}"
        private = {name: (self.folder / "etc" / name).read_text() for name in (HERE, *NAMES)}
        for host in self.all:
            host.home = {sshd.KEY: private[host.name], sshd.KNOWN: known}
        own = self.home()
        config = sshd.client(addresses, JUMPS, own)
        lay(own, {sshd.KEY: private[HERE], sshd.KNOWN: known, ".ssh/config": config})

    def _start(self) -> None:
        for host in self.all:
            host.start()
