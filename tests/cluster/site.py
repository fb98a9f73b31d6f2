"""Hosts on this machine, for as long as a `with` block lasts, and the plain user at work there.

The machine itself is where the user sits: commands run there, with the user's rights, in a home of
the site's own. Nothing listens outside the hosts, so sites never meet.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster.claim import Claim, claim
from tests.cluster.host import ENVIRONMENT, Host
from tests.cluster.user import USER, account, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
PROGRAMS = ("ip", "nsenter", "unshare")


class Site:
    """Hosts, and all their files in `folder`; a subclass writes those and starts what runs."""

    claim: Claim
    hosts: tuple[Host, ...] = ()

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs that must be there."""
        return PROGRAMS

    @property
    def env(self) -> dict[str, str]:
        """What the user must have in the environment."""
        return {}

    def _write(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        path = ENVIRONMENT["PATH"]
        absent = [name for name in self.programs if not shutil.which(name, path=path)]
        if absent:
            raise OSError(f"{' '.join(absent)} not found: tests/setup.sh installs them")
        self._stack = ExitStack()
        with self._stack:
            self.claim = self._stack.enter_context(claim())
            for name in ("etc", "log", "home"):
                (self.folder / name).mkdir()
            account(USER)  # before anything looks it up
            self._stack.callback(self._kill)
            self._write()
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def folder(self) -> Path:
        return self.claim.folder

    def home(self, user: str = USER) -> Path:
        """Return a user's home, which is this site's alone."""
        return owned(self.folder / "home" / user, user)

    def project(self, name: str, user: str = USER) -> Path:
        """Return a folder of a user's own in that home."""
        return owned(self.home(user) / name, user)

    def run(
        self, argv: Sequence[str | Path], *, timeout_s: float = 500, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end as `start` does; what it said is in the answer."""
        with self.start(argv, **how) as running:
            try:
                out, err = running.communicate(timeout=timeout_s)
            except BaseException:
                os.killpg(running.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(argv, running.returncode, out, err)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        user: str = USER,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command on this machine, with a user's rights and a fresh environment."""
        who = account(user)
        own = {"HOME": str(self.home(user)), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
        return subprocess.Popen(
            argv,
            cwd=cwd or self.home(user),
            env={**ENVIRONMENT, **own, **self.env, **(env or {})},
            user=who.pw_uid,
            group=who.pw_gid,
            extra_groups=os.getgrouplist(user, who.pw_gid),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def _common(self, name: str, number: int) -> dict[str, Any]:
        """Return what each host has of this site."""
        return {
            "name": name,
            "bridge": self.claim.bridge,
            "cable": self.claim.cable(number),
            "log": self.folder / "log" / f"{name}.host",
            "env": {**ENVIRONMENT, **self.env},
        }

    def _kill(self) -> None:
        for host in self.hosts:
            host.kill()

    def _ask(self, *argv: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command as root."""
        return subprocess.run(
            argv,
            check=False,
            env={**ENVIRONMENT, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def _until(self, what: str, condition: Callable[[], Any], timeout_s: float = 120) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            for daemon in (each for host in self.hosts for each in host.daemons):
                if daemon.poll() is not None:
                    raise OSError(f"no {what}: {daemon.args!r} ended\n{self._last_words()}")
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} within {timeout_s} s\n{self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        logs = sorted((self.folder / "log").iterdir())
        return "\n".join(
            f"-- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:])
            for path in logs
        )
