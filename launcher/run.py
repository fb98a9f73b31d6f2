"""A launched run, from Python: its state, logs, metrics; wait for it, cancel it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from launcher.errors import StateError
from launcher.follow import Tail
from launcher.job import RunState
from launcher.observe import alive, observe

if TYPE_CHECKING:
    from launcher.store import RunFolder, RunStatus

_POLL_S = 0.05


class Run:
    """A handle on one run. It holds nothing: every call looks at the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        """Name the run by its folder."""
        self.folder = folder
        self.id = folder.id

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.state.value}>"

    @property
    def status(self) -> RunStatus:
        """Return all that is known of the run now."""
        return observe(self.folder)

    @property
    def state(self) -> RunState:
        """Return where the run is now."""
        return self.status.state

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return what the script reported, oldest first."""
        return self.folder.metrics()

    def logs(self, rank: int | None = None) -> str:
        """Return the output so far: of one rank, or of all, each line with its rank.

        ValueError when the run has no such rank.
        """
        world_size = self.folder.record().world_size
        if rank is not None and not 0 <= rank < world_size:
            raise ValueError(f"run {self.id} has ranks 0 to {world_size - 1}, not {rank}")
        tail = Tail(self.folder, world_size=world_size, rank=rank)
        parts: list[bytes] = []
        tail.drain(parts.append)
        return b"".join(parts).decode("utf-8", "replace")

    def wait(self, timeout_s: float | None = None) -> RunState:
        """Return the final state; raise TimeoutError when it is not reached in ``timeout_s``."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not (state := self.state).final:
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"run {self.id} is {state.value} after {timeout_s} s")
            time.sleep(_POLL_S)
        return state

    def cancel(self) -> RunState:
        """End the run, ranks included, and return its final state; a run that ended is left alone.

        Ranks have the run's ``grace_s`` between SIGTERM and SIGKILL. StateError when the run
        cannot be reached from this machine.
        """
        if not self.status.state.final:
            self.interrupt()
        return self.wait(self.folder.record().grace_s + 30)

    def interrupt(self) -> None:
        """Tell the run's supervisor to stop it, at once when told twice; do not wait."""
        last = self._supervisor()
        if last is None or observe(self.folder).state.final:
            return
        if last["host"] != os.uname().nodename:
            raise StateError(
                f"run {self.id} runs on {last['host']}, not on this machine",
                hint=f"launcher cancel {self.id}, on {last['host']}.",
            )
        if alive(last, self.folder.file("heartbeat")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(last["pid"], signal.SIGTERM)

    def _supervisor(self) -> dict[str, Any] | None:
        """Return the supervisor's process; wait a moment for one that is just starting."""
        for _ in range(100):
            last = self.folder.events()[-1]
            if RunState(last["state"]) is RunState.RUNNING:
                return last
            if observe(self.folder).state.final:
                return None
            time.sleep(_POLL_S)
        raise StateError(f"run {self.id}: its supervisor does not start", hint="Try again.")
