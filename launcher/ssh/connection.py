"""The way to a host: the user's own ssh, with their own configuration.

Why ssh's program and not a library: jump hosts, agents, hardware keys and second factors work as
they do at the prompt. Why nobody is asked at first: hosts are reached side by side. One that wants
an answer is tried once more by itself, where there is a person to give it; a host's key is never
taken on trust.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from launcher import process
from launcher.errors import SubmitError
from launcher.shell import ShellExpr, shell_line
from launcher.ssh import explained, keys
from launcher.ssh.channel import Channel, LostError
from launcher.ssh.sharing import sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.shell import Word

Item = TypeVar("Item")
Result = TypeVar("Result")

# No quote of sh's in it: whatever the user's shell there is, it reads this as it is meant.
_BOOT = (
    "import sys;sys.version_info<(3,10)and sys.exit(86);sys.path[0]or sys.path.pop(0);"
    "i=sys.stdin.buffer;"
    'exec(compile(i.read(int(i.readline())),"agent","exec"),{"__name__":"agent"})'
)
_START_S = 3.0  # for Python to start there, at least
_AGAIN_S = 5.0  # after a failure, until the same host is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host as the user names it, and how to reach it."""

    name: str  # an alias of ssh's configuration, or [user@]host[:port]; with a port: [::1]:22
    config: str = ""  # ssh's configuration file; "": the user's own
    python: str = "python3"
    workdir: str = "~/.launcher"
    timeout_s: float = 10.0

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words that name the host to ssh, before any command."""
        user, at, host = self.name.rpartition("@")
        port = ""
        if found := re.fullmatch(r"\[(.+)\](?::(\d+))?|([^:]+):(\d+)", host):
            host, port = found[1] or found[3], found[2] or found[4]
        config = ("-F", self.config) if self.config else ()
        return (*config, *(("-p", port) if port else ()), "--", f"{user}{at}{host}")

    @property
    def typed(self) -> str:
        """Return the line that goes there from a prompt."""
        return shell_line(("ssh", *(each for each in self.words if each != "--")))

    def command(self, sharing: Sequence[str] = (), *, prompts: bool = False) -> tuple[str, ...]:
        """Return the words that connect to the host's agent; ``sharing``: more of ssh's options."""
        home = self.python.startswith("~/")
        python: tuple[Word, ...] = (
            (ShellExpr("~/" + shell_line((self.python[2:],))),) if home else (self.python,)
        )
        options = [
            *(() if prompts else ("BatchMode=yes",)),
            f"ConnectTimeout={self.timeout_s:g}",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",  # hosts reach each other without it, when we have gone
            "PermitLocalCommand=no",
            "RemoteCommand=none",
            "RequestTTY=no",
            "LogLevel=ERROR",
            *sharing,
        ]
        boot = shell_line((ShellExpr("exec"), *python, "-c", _BOOT))
        *before, dashes, name = self.words
        given = [word for option in options for word in ("-o", option)]
        return ("ssh", *given, *before, dashes, name, boot)


def settings(target: Target) -> dict[str, str]:
    """Return what ssh's configuration says of a host: hostname, user, port, controlpath, ..."""
    return dict(_configured(target))


def _configured(target: Target) -> list[tuple[str, str]]:
    *before, dashes, name = target.words
    done = process.run(("ssh", "-G", *before, dashes, name), timeout_s=30)
    if done.status:
        raise explained.error(target, done.stderr, done.status)
    pairs = (line.partition(" ") for line in done.stdout.splitlines())
    return [(key, value) for key, _, value in pairs]


class _Ways:
    """The connections of this process, one a host, opened when they are first wanted."""

    def __init__(self) -> None:
        self.locks: dict[Target, threading.Lock] = {}
        self.open: dict[Target, Channel] = {}
        self.failed: dict[Target, tuple[float, SubmitError]] = {}
        self.asking = threading.Lock()  # one prompt at a time

    def to(self, target: Target) -> Channel:
        """Return the connection to a host; raise SubmitError when there is none to be had."""
        with self.locks.setdefault(target, threading.Lock()):
            channel = self.open.get(target)
            if channel is not None and channel.alive:
                return channel
            when, error = self.failed.get(target, (0.0, SubmitError("")))
            if when and time.monotonic() < when + _AGAIN_S:
                raise error
            try:
                channel = self.open[target] = self._opened(target)
            except SubmitError as error:
                self.failed[target] = time.monotonic(), error
                raise
            self.failed.pop(target, None)
            return channel

    def _opened(self, target: Target) -> Channel:
        try:
            return _opened(target, prompts=False)
        except SubmitError as error:
            if not explained.wants_a_person(error.stderr) or not _has_a_person():
                raise
        with self.asking:
            return _opened(target, prompts=True)

    def close(self) -> None:
        """Hang up everywhere."""
        for channel in self.open.values():
            channel.close()
        self.open.clear()


_WAYS = _Ways()
atexit.register(_WAYS.close)


def connected(target: Target) -> Channel:
    """Return the one connection of this process to a host; SubmitError when it is not reached.

    A failure holds for some seconds: who asks often does not knock as often.
    """
    return _WAYS.to(target)


def also_known(target: Target, workdir: str) -> None:
    """Have a host's connection found by the whole path of its workdir, too."""
    _WAYS.open[replace(target, workdir=workdir)] = _WAYS.open[target]


def forget(target: Target) -> None:
    """Have no connection to a host that does not answer; the next one who asks opens another."""
    channel = _WAYS.open.pop(target, None)
    if channel is not None:
        channel.running.kill()


def side_by_side(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> list[Result | SubmitError]:
    """Return what ``work`` returns of each item, or the SubmitError that it raises, in order."""
    results: dict[int, Result | Exception] = {}

    def one(index: int) -> None:
        try:
            results[index] = work(items[index])
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that asked
            results[index] = error

    threads = [
        threading.Thread(target=one, args=(each,), daemon=True) for each in range(1, len(items))
    ]
    for thread in threads:
        thread.start()
    if items:
        one(0)
    for thread in threads:
        thread.join()
    found = []
    for index in range(len(items)):
        result = results[index]
        if isinstance(result, Exception) and not isinstance(result, SubmitError):
            raise result
        found.append(result)
    return found


def everywhere(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what ``work`` returns of each item; raise the first error."""
    found = []
    for result in side_by_side(work, items):
        if isinstance(result, SubmitError):
            raise result
        found.append(result)
    return found


def within(limit_s: float, work: Callable[[], Result], late: SubmitError) -> Result:
    """Return what ``work`` returns, or raise what it raises; raise ``late`` when that takes longer.

    It is then left alone, and may wait for as long as a shared connection takes to be given up.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def one() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=one, daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise late
    return results[0]


def _opened(target: Target, *, prompts: bool) -> Channel:
    shares = sharing(settings(target))
    # Not a pipe: the connection that stays behind may hold it open for a minute.
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the channel
    try:
        running = process.connect(
            target.command(shares, prompts=prompts), errors=errors, prompts=prompts
        )
    except OSError as error:
        raise SubmitError(
            f"ssh cannot be started: {error}", hint="apt-get install openssh-client"
        ) from error

    def talk() -> Channel:
        try:
            return Channel(target.name, running, errors)
        except LostError as error:
            said = error.stderr
            refused = explained.refused(said)
            helps = keys.advice(target, said, _configured(target)) if refused else ""
            raise explained.error(target, said, running.returncode, helps=helps) from error

    # ConnectTimeout knows neither of a jump host, nor of a connection that was there before.
    limit_s = max(target.timeout_s, _START_S)
    late = explained.error(target, f"timed out after {limit_s:g} s", None)
    try:
        return talk() if prompts else within(limit_s, talk, late)
    except SubmitError as error:
        if error is late:
            with contextlib.suppress(ProcessLookupError):  # it has just given up by itself
                os.killpg(running.pid, signal.SIGKILL)
        raise


def _has_a_person() -> bool:
    return os.isatty(2) and os.isatty(0)
