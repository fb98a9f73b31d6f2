"""The other end of a connection: answers requests on its standard input, on a host.

Standard library only: it is sent over the connection itself and runs from memory, before anything
of ours is on the host. Once the launcher's own code is there, ``runs`` adds the rest.

A message is a line of JSON, whose ``size`` says how many bytes follow it. Of each request's
answers the last has ``ok``, or ``error``; those before it tell how it goes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import pwd
import select
import shutil
import signal
import socket
import sys
import threading
import traceback
import zlib
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    from launcher.ssh.agent.objects import Objects

_PROGRAMS = ("c++", "g++", "clang++", "make", "ssh", "git")
MARK = b"launcher-agent 1\n"  # a line; before it, a login script may print what it likes
BEAT = b"\n"  # between two messages; it says nothing
_BEAT_S = 30.0
_OLD_NS = 86_400_000_000_000  # a day: nobody looks for what a machine left so long ago


class Refused(Exception):  # noqa: N818 - what is wrong here is for the other end to tell
    """Why a request cannot be carried out, in words for a person, and what helps."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Agent:
    """One connection. ``requests`` has what carries out each of them, by name."""

    def __init__(self, source: IO[bytes], sink: IO[bytes], objects: Any) -> None:
        self.source, self.sink, self.kind = source, sink, objects
        self.workdir = ""
        self.objects: Objects | None = None
        self.requests: dict[str, Callable[[dict[str, Any], bytes], Any]] = {
            each.__name__.strip("_"): each
            for each in (
                *(self._hello, self._lacks, self._put, self._trees, self._tree),
                *(self._load, self._learn),
            )
        }

    def serve(self) -> None:
        """Answer until the other end hangs up."""
        self.sink.write(b"\n" + MARK)  # what was printed may have no end
        self.sink.flush()
        while line := self.source.readline():
            head = json.loads(line)
            body = self.source.read(head["size"])
            body = zlib.decompress(body) if head.get("packed") else body
            try:
                answer = self.requests[head["request"]](head, body)
                values, data = answer if isinstance(answer, tuple) else (answer, b"")
                self.tell({"ok": values}, data)
            except (Refused, self.kind.Broken) as error:
                self.tell({"error": str(error), "hint": getattr(error, "hint", "")})
            except OSError as error:
                self.tell(self._trouble(error))
            except Exception as error:  # noqa: BLE001 - the other end shows it
                said = {"error": getattr(error, "message", repr(error))}
                said["hint"] = getattr(error, "hint", "")  # of a LaunchError
                self.tell({**said, "trace": traceback.format_exc()})

    def _trouble(self, error: OSError) -> dict[str, Any]:
        """Return what to tell of an error, with the next step where a disk is full."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return {"error": str(error)}
        room = f"{error.strerror}: {error.filename or self.workdir}"
        hint = "launcher clean shows what ours takes; compute.workdir=/path names another folder."
        return {"error": room, "hint": hint}

    def tell(self, values: dict[str, Any], data: bytes = b"") -> None:
        """Send one message."""
        self.sink.write(json.dumps({**values, "size": len(data)}).encode() + b"\n" + data)
        self.sink.flush()

    def _hello(self, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Return what this host is and has; its ``workdir`` is where all of ours lies.

        ``looks``: nothing is made, and whether it can be is not asked.
        """
        home = os.path.expanduser("~")
        self.workdir = os.path.normpath(os.path.join(home, os.path.expanduser(head["workdir"])))
        self.objects = self.kind.Objects(self.workdir)
        if not head.get("looks"):
            self._make(head["workdir"])
        there = self.workdir
        while not os.path.exists(there):
            there = os.path.dirname(there)
        return {
            **_machine(),
            "home": home,
            "workdir": self.workdir,
            "free_mb": shutil.disk_usage(there).free >> 20,
            "missing": [path for path in head["paths"] if not os.path.exists(path)],
            "noexec": bool(os.statvfs(there).f_flag & os.ST_NOEXEC),
            **self._machines(known=not head.get("looks")),
        }

    def _make(self, named: str) -> None:
        """Have our folder; raise Refused where it cannot be had, or is not ours alone to write."""
        try:
            os.makedirs(self.workdir, mode=0o700, exist_ok=True)
            if not os.access(self.workdir, os.W_OK | os.X_OK):
                os.close(os.open(self.workdir, os.O_TMPFILE | os.O_RDWR, 0o600))  # says why
        except OSError as error:
            raise Refused(
                f"compute.workdir={named}: {self.workdir} is no folder that {_user()} may write: "
                f"{error.strerror}",
                "compute.workdir=/path names another one, the same on all hosts.",
            ) from error
        about = os.stat(self.workdir)
        why = ""
        if about.st_uid not in (0, os.getuid()):
            why = f"belongs to {_user(about.st_uid)}, who can change what runs there"
        elif about.st_uid != os.getuid() and about.st_mode & 0o022:
            why = "can be written by other users too, who can change what runs there"
        if why:
            raise Refused(
                f"compute.workdir={named}: {self.workdir} {why}",
                "compute.workdir=/path names a folder of your own; one that is not there is made.",
            )

    def _machines(self, *, known: bool) -> dict[str, Any]:
        """Return the machines that were here, and when; ``since``: when we were, if we are told of.

        So it is seen that hosts share the folder. Each time there is a new file: a folder on NFS is
        read anew by who has changed it, and a copy of a machine's disk has files that are older.
        """
        told: dict[str, Any] = {"machine": f"{socket.gethostname()}.{_boot()}", "since": 0}
        top, found = os.path.join(self.workdir, "machines"), {}
        own = os.path.join(top, told["machine"])
        with contextlib.suppress(OSError):  # of a full disk
            if known:
                self.kind.write_whole(own, b"")
                told["since"] = os.stat(own).st_mtime_ns
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(top):
                path = os.path.join(top, name)
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    found[name] = os.fstat(file.fileno()).st_mtime_ns
                    if found[name] < told["since"] - _OLD_NS:  # by one clock, the disk's
                        os.unlink(path)  # most often an earlier boot's
        return {**told, "machines": found}

    def _lacks(self, head: dict[str, Any], body: bytes) -> list[str] | None:
        """Return the objects that are not here, of those that the body names.

        None: the tree ``base``, which is about to be used, is not here any more.
        """
        base, kept = head["base"], self._kept()
        if base and base not in kept.known(base):
            return None
        return kept.lacks(body.decode().split())

    def _put(self, head: dict[str, Any], body: bytes) -> int:
        """Keep the objects that the body holds one after another."""
        at = 0
        for name, size in head["objects"]:
            self._kept().put(name, body[at : at + size])
            at += size
        return len(head["objects"])

    def _trees(self, head: dict[str, Any], _: bytes) -> list[str]:
        """Return the names of the trees that are here, the latest first; one is to be used."""
        return self._kept().known(head.get("name", ""))

    def _tree(self, head: dict[str, Any], body: bytes) -> list[str]:
        """Keep a tree, given as it differs from ``base``; return the objects that it lacks."""
        lines = body.split(b"\0") if body else []
        gone, come = lines[: head["gone"]], lines[head["gone"] :]
        return self._kept().add(head["name"], head["base"], gone, come, head["digest"])

    def _load(self, head: dict[str, Any], _: bytes) -> str:
        """Have the launcher's own code, a tree, where it can be imported; return that folder."""
        root = os.path.join(self.workdir, "lib", head["name"])
        with self._kept().in_use():
            if not os.path.isdir(root):
                new = self.kind.beside(root)
                try:
                    self._kept().make(head["name"], new)
                    with contextlib.suppress(OSError):  # another one was quicker
                        os.rename(new, root)
                finally:
                    shutil.rmtree(new, ignore_errors=True)
            os.utime(root)
            # Its shared lock says that it is in use, until we end.
            fcntl.flock(os.open(root, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)
        sys.path.insert(0, root)
        from launcher.ssh.agent import runs  # noqa: PLC0415 - only now it is here

        runs.extend(self, root)
        return root

    def _learn(self, head: dict[str, Any], body: bytes) -> str:
        """Carry out from now on what a module, the body, can; no file here is needed for it."""
        module = sys.modules[head["name"]] = ModuleType(head["name"])
        exec(compile(body, head["name"], "exec"), module.__dict__)  # noqa: S102
        self.requests |= getattr(module, "requests", dict)()
        return str(head["name"])

    def _kept(self) -> Objects:
        assert self.objects is not None  # noqa: S101 - hello comes first
        return self.objects


def kind() -> str:
    """Return what must be the same for what was compiled elsewhere to run here."""
    libc = ""
    with contextlib.suppress(ValueError, OSError):  # musl has no such name
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""  # glibc 2.36
    return f"{platform.machine()} {libc}".strip()


def _user(uid: int | None = None) -> str:
    uid = os.getuid() if uid is None else uid
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _machine() -> dict[str, Any]:
    return {
        "python": sys.executable,
        "version": platform.python_version(),
        "platform": platform.platform(),
        "kind": kind(),
        "hostname": socket.gethostname(),
        "user": _user(),
        "uid": os.getuid(),
        "boot": _boot(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20,
        "gpus": sum(name[:6] == "nvidia" and name[6:].isdigit() for name in os.listdir("/dev")),
        "programs": [name for name in _PROGRAMS if shutil.which(name)],
    }


def _hang_up(sink: IO[bytes]) -> None:
    """End us, and what we run for the other end, once that has gone; supervisors are apart.

    Of one that vanished without a word, sshd finds out where there is something to be sent.
    """
    line = select.poll()
    line.register(0, select.POLLRDHUP)
    while not line.poll(_BEAT_S * 1000):
        with contextlib.suppress(OSError):
            sink.write(BEAT)
            sink.flush()
    os.killpg(0, signal.SIGTERM)


def main() -> None:
    """Serve standard input; its first bytes are the source of ``objects``."""
    source = sys.stdin.buffer
    objects = ModuleType("objects")
    exec(source.read(int(source.readline())), objects.__dict__)  # noqa: S102
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints goes to the other end as what went wrong
    threading.Thread(target=_hang_up, args=(sink,), daemon=True).start()
    Agent(source, sink, objects).serve()
