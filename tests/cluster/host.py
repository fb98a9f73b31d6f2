"""A host of a cluster: a name, an address, files and processes of its own on this machine.

Why namespaces: two slurmd on one machine share a hostname, /tmp and /dev/shm, so a launcher that
confuses its nodes goes unseen. Here a host is its first process: whatever runs there, and what it
mounted, ends with that process, which is how the plug is pulled; and that process ends when its
standard input closes, so a test run that is killed leaves no process.

Run as a script, this file is that first process; it needs the standard library only.
"""

from __future__ import annotations

import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}


def ip(*words: str) -> None:
    """Run ip(8), which must succeed."""
    done = subprocess.run(
        ["ip", *words], check=False, env=ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass(kw_only=True)
class Host:
    """What runs on `bridge` under an address, once it is started."""

    name: str
    address: str
    bridge: str
    cable: str  # its network interface's end on the bridge
    env: dict[str, str]  # of its daemons
    log: Path  # of its first process
    binds: dict[str, str]  # a path there, and what of this machine's lies at it
    private: tuple[str, ...] = ("/tmp",)  # folders that are empty when it starts
    absent: tuple[str, ...] = ()  # programs that it has not: names, or patterns of names
    disks: int = 0  # a process in whose mount namespace the sources of `binds` lie
    first: subprocess.Popen[str] | None = None
    pid: int = 0  # of its first process, as seen from outside
    daemons: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        """Start the host and plug it in."""
        unshare = ("unshare", *NAMESPACES, "--fork", "--propagation", "unchanged", "--")
        there = ("nsenter", "--target", str(self.disks), "--root", "--mount") if self.disks else ()
        script = (sys.executable, "-I", "-S", __file__, self.name, self.address)
        files = json.dumps([self.private, self.binds, self.absent])
        with self.log.open("a") as log:
            self.first = subprocess.Popen(
                [*there, *unshare, *script, files],
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                start_new_session=True,  # a Ctrl-C is not for it
            )
        self.pid = int(self._hear(self.first))
        unplug(self.cable)
        # One card for good, or whoever has talked to it would not hear of it for a while.
        card = ":".join(("02", "00", *(f"{int(part):02x}" for part in self.address.split("."))))
        far = ("peer", "eth0", "address", card, "netns", str(self.pid))
        ip("link", "add", self.cable, "type", "veth", *far)
        ip("link", "set", self.cable, "master", self.bridge, "up")
        self._pipe(self.first.stdin).write("plugged in\n")
        self._hear(self.first)

    def _hear(self, first: subprocess.Popen[str]) -> str:
        line = self._pipe(first.stdout).readline()
        if not line:
            raise OSError(f"host {self.name} did not start: {self.log.read_text()}")
        return line

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream

    def inside(self, argv: tuple[str, ...]) -> list[str]:
        """Return the command that runs `argv` on this host, as root."""
        target = ("--target", str(self.pid), "--root", "--wd")  # we may be in a chroot ourselves
        return ["nsenter", *target, *NAMESPACES, "--", *argv]

    def daemon(self, *argv: str, log: Path) -> subprocess.Popen[str]:
        """Start what stays in the foreground and runs until the host, or `end`, ends it."""
        return self.beside(*self.inside(argv), log=log)

    def beside(self, *argv: str, log: Path) -> subprocess.Popen[str]:
        """Start what runs on this machine and ends when the host does."""
        with log.open("a") as out:
            started: subprocess.Popen[str] = subprocess.Popen(
                argv,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )
        self.daemons.append(started)
        return started

    def end(self, daemon: subprocess.Popen[str], timeout_s: float = 60) -> None:
        """End one daemon as its own author meant it, by SIGTERM."""
        below = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text()
        for pid in below.split():  # nsenter waits for it, and passes no signal on
            os.kill(int(pid), signal.SIGTERM)
        daemon.wait(timeout_s)
        self.daemons.remove(daemon)

    def kill(self) -> None:
        """End all that runs on the host, at once, and return when it has ended."""
        if self.first is None:
            return
        if self.pid and self.first.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self._pipe(self.first.stdin).close()
        self._pipe(self.first.stdout).close()
        for each in (self.first, *self.daemons):
            each.wait(120)
        self.first, self.pid = None, 0
        self.daemons.clear()
        unplug(self.cable)


def unplug(link: str) -> None:
    """Remove a network interface that may be gone; the kernel takes a dead host's away late."""
    if link in (name for _, name in socket.if_nameindex()):
        words = ("ip", "link", "del", link)
        subprocess.run(words, check=False, env=ENVIRONMENT, stderr=subprocess.DEVNULL)


def mount(*words: str) -> None:
    """Run mount(8), which must succeed."""
    subprocess.run(["mount", *words], check=True)


def furnish(private: list[str], binds: dict[str, str], absent: list[str]) -> None:
    """Give this host what is its own: /proc, /dev/shm, `private` folders and `binds`."""
    # In a chroot, / is no mount point and this cannot be said; what follows stays here anyway
    # unless the machine shares its mounts with new namespaces, which a chroot hides from us.
    subprocess.run(["mount", "--make-rprivate", "/"], check=False, stderr=subprocess.DEVNULL)
    # /tmp is about to be covered
    sources = {path: os.open(source, os.O_PATH) for path, source in binds.items()}
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "tmpfs", "-o", "mode=1777,size=512m", "shm", "/dev/shm")
    take_away(absent)
    for path in filter(os.path.isdir, private):
        mode = os.stat(path).st_mode & 0o7777
        mount("-t", "tmpfs", "-o", f"mode={mode:o},size=2g", "private", path)
    for path, fd in sources.items():
        source = f"/proc/{os.getpid()}/fd/{fd}"
        target = Path(path).resolve()  # /etc/resolv.conf may be a link to below /run
        if os.path.isdir(source):
            target.mkdir(parents=True, exist_ok=True)
        elif not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        mount("--no-canonicalize", "--bind", source, str(target))
        os.close(fd)


def take_away(programs: list[str]) -> None:
    """Remove programs from this host's PATH; the machine's own files stay as they are."""
    folders = {os.path.realpath(each) for each in ENVIRONMENT["PATH"].split(":")}
    for folder in filter(os.path.isdir, sorted(folders)):
        names = os.listdir(folder)
        gone = {name for each in programs for name in fnmatch.filter(names, each)}
        if gone:
            mount("-t", "tmpfs", "layers", "/tmp")  # hidden again as soon as it is in use
            os.mkdir("/tmp/upper", 0o755)
            os.mkdir("/tmp/work")
            layers = f"lowerdir={folder},upperdir=/tmp/upper,workdir=/tmp/work"
            mount("-t", "overlay", "-o", layers, "programs", folder)
            for name in gone:
                os.unlink(f"{folder}/{name}")
            subprocess.run(["umount", "/tmp"], check=True)


def main(name: str, address: str, files: str) -> None:
    """Be a host's first process."""
    pid = os.readlink("/proc/self")  # from outside: /proc is the machine's still
    os.chdir("/")
    socket.sethostname(name)
    furnish(*json.loads(files))
    print(pid, flush=True)
    if not sys.stdin.readline():
        return
    ip("link", "set", "lo", "up")
    ip("address", "add", f"{address}/24", "dev", "eth0")
    ip("link", "set", "eth0", "up")
    ip("route", "add", "default", "via", address.rpartition(".")[0] + ".1")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of this host leave no zombies
    print("up", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
