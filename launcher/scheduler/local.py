"""The supervisors of this machine, each a process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import process
from launcher.errors import StateError, SubmitError
from launcher.job import RunState
from launcher.processes import alive
from launcher.scheduler import View
from launcher.store import last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.job import LaunchPlan
    from launcher.process import Running
    from launcher.scheduler import Open
    from launcher.store import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A supervisor that waits to be told to begin; it ends if we do."""

    folder: RunFolder
    supervisor: Running

    def go(self) -> None:
        """Tell it to begin; its first word makes the run its own, whatever we do then."""
        supervisor = self.supervisor
        assert supervisor.stdin is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(BrokenPipeError), supervisor.stdin:
            supervisor.stdin.write(b"!")
        while len(self.folder.events()) == 1 and supervisor.poll() is None:
            time.sleep(0.002)
        if len(self.folder.events()) == 1:
            raise SubmitError(
                "the supervisor ended at once: "
                f"{last_lines(self.folder.file('logs', 'launch.log'))}",
                exit_status=supervisor.returncode,
            )

    def report(self) -> None:
        """Say nothing: it has started."""

    def undo(self) -> bool:
        """Kill it, and wait."""
        with self.supervisor:  # closes our end of its pipe
            self.supervisor.kill()
        return True


class Local:
    """This machine."""

    def begin(
        self,
        folder: RunFolder,
        plan: LaunchPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],  # noqa: ARG002
    ) -> Started:
        """Return the start of the supervisor, which takes as long as the run's recording."""
        (argv,) = plan.commands
        os.makedirs(folder.file("logs"))
        with open(folder.file("logs", "launch.log"), "ab") as log:
            try:
                supervisor = process.start(argv, log=log, env=env, waits=True)
            except OSError as error:
                raise SubmitError(
                    f"{argv[0]} cannot be started: {error}", argv=argv, exit_status=127
                ) from error
        return Started(folder=folder, supervisor=supervisor)

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Return whether the process that keeps each run is alive."""
        return {
            run.folder.id: View(holds=alive(run.last, run.folder.file("heartbeat"))) for run in runs
        }

    def interrupt(self, run: Open, *, waits: bool) -> None:  # noqa: ARG002
        """Tell the run's supervisor to stop it, at once when told twice."""
        last = run.last
        if RunState(last["state"]) is not RunState.RUNNING:
            raise StateError(
                f"run {run.folder.id}: its supervisor does not start", hint="Try again."
            )
        if last["host"] != os.uname().nodename:
            raise StateError(
                f"run {run.folder.id} runs on {last['host']}, not on this machine",
                hint=f"launcher cancel {run.folder.id}, on {last['host']}.",
            )
        if alive(last, run.folder.file("heartbeat")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(last["pid"], signal.SIGTERM)
