"""What is known of one run, and how rules look at it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.explain.traceback import Raised, raised

if TYPE_CHECKING:
    from launcher.cluster import Cluster
    from launcher.job import RunRecord, RunState

# What libraries put before each line of a rank's: torch.distributed, mpirun --tag-output.
_PREFIX = re.compile(r"^(?:\[rank\d+\]: ?|\[\d+,\d+\]<std(?:out|err)>: ?)")
_WIDE = 2000  # characters of a line that are looked at
_LONG = 240  # characters of a message of others in our sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """``sentence``: what happened and where. ``override``: one that is likely to help, or "".

    The override is one word of argv, unquoted: ``shell_line`` renders it for a prompt.
    """

    sentence: str
    override: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of one run. ``config`` is the recorded configuration.

    ``scheduler_state`` and ``scheduler_reason`` are Slurm's words, ``nodes`` its list of nodes;
    ``failed`` is the first rank that failed, ``last_lines`` are those of its log (200 are better
    than 20: tracebacks are long), ``launch_lines`` those of launch.log and slurm.log; ``reason``
    is the supervisor's sentence. ``cluster``: with it, a partition can be suggested.
    """

    state: RunState
    record: RunRecord
    config: dict[str, Any]
    scheduler_state: str = ""
    scheduler_reason: str = ""
    nodes: str = ""
    failed: dict[str, Any] = field(default_factory=dict)
    exit_status: int | None = None
    restarts: int = 0
    last_lines: tuple[str, ...] = ()
    launch_lines: tuple[str, ...] = ()
    reason: str = ""
    cluster: Cluster | None = None

    @property
    def who(self) -> str:
        """Return ``rank 3 on node2``, or ``the script`` where there is one process only."""
        host = f" on {self.failed['host']}" if self.failed.get("host") else ""
        if "rank" not in self.failed:
            return "the run"
        if self.record.world_size > 1:
            return f"rank {self.failed['rank']}{host}"
        return f"the script{host if self.record.compute != 'local' else ''}"

    @property
    def here(self) -> str:
        """Return the host of the rank that failed; else the run's nodes."""
        return str(self.failed.get("host") or self.nodes or "the node")

    @property
    def signal(self) -> int:
        """Return the number of the signal that ended the rank; 0: none did."""
        return int(self.failed.get("signal") or 0)

    @property
    def status(self) -> int | None:
        """Return the exit status of the rank that failed, else of the run."""
        status = self.failed.get("status")
        return self.exit_status if status is None and not self.signal else status

    @property
    def lines(self) -> list[str]:
        """Return the last lines of the rank, without what libraries put before each."""
        return [_PREFIX.sub("", line[:_WIDE]) for line in self.last_lines]

    @property
    def started(self) -> str:
        """Return what those who start the ranks said: srun, mpirun, Slurm, the shell."""
        return "\n".join(line[:_WIDE] for line in self.launch_lines)

    @property
    def after(self) -> str:
        """Return `` after 2 restarts``, or ""."""
        times = "1 restart" if self.restarts == 1 else f"{self.restarts} restarts"
        return f" after {times}" if self.restarts else ""

    @property
    def raised(self) -> list[Raised]:
        """Return the exceptions whose tracebacks end the rank's log; the last one is first."""
        return [] if self.signal else _raised(tuple(self.lines))[::-1]

    def error(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the first match in what was raised; where nothing was, in the rank's lines."""
        texts = [each.text for each in self.raised] or ["\n".join(self.lines)]
        return next((found for text in texts if (found := pattern.search(text))), None)

    def anywhere(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Return the first match in the lines of whoever started the ranks, then of the rank."""
        texts = (self.started, "\n".join(self.lines), str(self.failed.get("reason", "")))
        return next((found for text in texts if (found := pattern.search(text))), None)

    def option(self, key: str) -> Any:
        """Return the value of a key such as ``compute.mem``; None where it is not there."""
        value: Any = self.config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def has(self, key: str) -> bool:
        """Return whether the run's configuration has the key: only such a one is suggested."""
        parent, _, name = key.rpartition(".")
        holder = self.option(parent) if parent else self.config
        return isinstance(holder, dict) and name in holder


@functools.lru_cache(maxsize=4)  # every rule asks
def _raised(lines: tuple[str, ...]) -> list[Raised]:
    return raised(lines)


def short(text: str) -> str:
    """Return the first line of a message, cut where it is very long."""
    line = " ".join(text.strip().partition("\n")[0].split())
    return line if len(line) <= _LONG else line[: _LONG - 1] + "…"
