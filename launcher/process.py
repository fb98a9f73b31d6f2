"""The only door to other programs: run one and wait, or start one that outlives us.

Why one door: every program is started from a tuple of words, never through a shell, with its
output decoded in one way; a test checks that no other module imports subprocess.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Running: TypeAlias = subprocess.Popen[bytes]

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # Source: prctl(2)
_PR_SET_CHILD_SUBREAPER = 36
_REAPED_S = 0.02  # for which processes that were killed are waited for before another look
# Held until they end, and then reaped by the next start: a notebook starts many.
_STARTED: list[Running] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ended: its words, exit status (-N: killed by signal N) and output."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


def _decode(data: bytes) -> str:
    # surrogateescape: a file name that is not UTF-8 survives the round trip through str
    return data.decode("utf-8", "surrogateescape")


def run(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_s: float | None = None,
) -> Completed:
    """Return what ``argv`` printed and its exit status; the status is not checked here.

    ``env`` is added to our own environment. As in a shell: status 127 when there is no such
    program, 126 when it cannot be run, 124 when it was killed after ``timeout_s``.
    """
    try:
        with _input(stdin) as given:
            done = subprocess.run(
                list(argv),
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                stdin=given,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
    except FileNotFoundError as error:
        return Completed(argv=tuple(argv), status=127, stdout="", stderr=str(error))
    except OSError as error:
        return Completed(argv=tuple(argv), status=126, stdout="", stderr=str(error))
    except subprocess.TimeoutExpired:
        message = f"{argv[0]} did not end within {timeout_s} s"
        return Completed(argv=tuple(argv), status=124, stdout="", stderr=message)
    return Completed(
        argv=tuple(argv),
        status=done.returncode,
        stdout=_decode(done.stdout),
        stderr=_decode(done.stderr),
    )


def _input(text: str) -> IO[bytes]:
    """Return an open file that holds ``text``, in memory: a pipe takes it a page at a time."""
    if not text:
        return open(os.devnull, "rb")
    file = open(os.memfd_create("input"), "w+b")  # noqa: SIM115 - returned
    file.write(text.encode("utf-8", "surrogateescape"))
    file.seek(0)
    return file


def run_logged(
    argv: Sequence[str],
    *,
    log: IO[bytes],
    env: Mapping[str, str],
    still: Callable[[], object],
    every_s: float = 60,
) -> int:
    """Return the exit status of ``argv``, whose output is appended to ``log``.

    ``still`` is called every so often as long as it runs.
    """
    with subprocess.Popen(
        list(argv),
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    ) as running:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return running.wait(every_s)
                still()
        except BaseException:
            running.kill()
            raise


def start(
    argv: Sequence[str],
    *,
    log: IO[bytes],
    env: Mapping[str, str],
    dies_with_us: bool = False,
    waits: bool = False,
    holds: Sequence[int] = (),
) -> Running:
    """Start ``argv`` in a session of its own, its output appended to ``log``.

    ``env`` is its whole environment. A Ctrl-C in our terminal does not reach it, nor does
    our end, unless ``dies_with_us``: then the kernel kills it when we are gone. ``waits``: its
    standard input is a pipe of ours, else it is empty. ``holds``: open files that it inherits.
    OSError when it cannot be started.
    """
    parent = os.getpid()

    def prepare() -> None:
        # Runs between fork and exec: we block signals, the program must not inherit that.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    _STARTED[:] = [each for each in _STARTED if each.poll() is None]
    started = subprocess.Popen(
        list(argv),
        env=dict(env),
        stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=holds,
        preexec_fn=prepare if dies_with_us else None,  # noqa: PLW1509 - we have one thread
    )
    _STARTED.append(started)
    return started


def connect(argv: Sequence[str], *, errors: IO[bytes], prompts: bool) -> Running:
    """Start ``argv``, with pipes of ours as its input and output; ``errors`` gets the rest.

    ``prompts``: it may ask the person at our terminal, and hears a Ctrl-C there. OSError when it
    cannot be started.
    """
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=not prompts,
    )


def adopt_orphans() -> None:
    """Make every descendant whose parent ends our child, so that none can get away."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants(but: str) -> None:
    """Kill every process below ours, for good; whoever has adopted orphans has them all.

    Those whose command line has ``but`` stay, and what is below them.
    """
    while left := _descendants(os.getpid(), but):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not _has_children():
            return


def _has_children() -> bool:
    """Return whether any child is left in a moment, in which those that have ended are reaped."""
    end = time.monotonic() + _REAPED_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(_REAPED_S / 20)
        return True
    return False


def _descendants(pid: int, but: str) -> list[int]:
    """Return the processes below ``pid``, from /proc; the nearest first.

    Those whose command line has ``but`` are left out, and what is below them.
    """
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
            with open(f"/proc/{name}/cmdline", "rb") as words:
                if but.encode() not in words.read():
                    children.setdefault(parent, []).append(int(name))
    found = list(children.get(pid, ()))
    for each in found:
        found += children.get(each, ())
    return found


def user() -> str:
    """Return the user's name, or their number where the machine has no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
