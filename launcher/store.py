"""Run folders: one a run, its record by atomic replace, its events by append.

Why an index beside the folders: a list of ten thousand runs would open thirty thousand files. A
run that ended adds one line to it; a line that is missing or broken only costs reading a folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.errors import StoreError, nearest
from launcher.job import RunRecord, RunState
from launcher.processes import beside

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

INDEX = ".index.jsonl"
_ID = re.compile(r"\d{6}-\d{6}-\w{4,}(-\d{4,})?")  # of a sweep's run, with its number
_SECOND = len("261123-051048")
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no letter or digit that reads as another


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run is and what is known of it. Times are seconds since the epoch."""

    id: str
    name: str
    state: RunState
    compute: str
    host: str
    world_size: int
    created: float
    expected: float | None = None  # start of a run that waits, by its scheduler
    started: float | None = None
    ended: float | None = None
    exit_status: int | None = None
    reason: str = ""  # one sentence, for a run that did not succeed
    advice: str = ""  # one override that is likely to help
    failed: dict[str, Any] = field(default_factory=dict)  # the first rank that failed
    metrics: dict[str, Any] = field(default_factory=dict)  # the last value of each
    job_id: str = ""  # the scheduler's
    nodes: tuple[str, ...] = ()
    restarts: int = 0

    @property
    def duration_s(self) -> float | None:
        """Return how long the run has been running, or ran."""
        if self.started is None:
            return None
        return (self.ended or time.time()) - self.started

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "state": self.state.value}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunStatus:
        """Return the status that ``to_json`` gave; raise KeyError, TypeError, ValueError."""
        state, nodes = RunState(values["state"]), tuple(values.get("nodes", ()))
        return cls(**{**values, "state": state, "nodes": nodes})


def write_atomically(path: str, text: str, mode: int = 0o644) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    new = beside(path)
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(file, "w", encoding="utf-8", errors="surrogateescape") as to:
            to.write(text)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def append_line(path: str, values: dict[str, Any]) -> None:
    """Append ``values`` as one line of JSON, in one write: lines of two writers never mix.

    OSError when it was not written whole; what follows a broken line begins a line of its own.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        broken = size and os.pread(file, 1, size - 1) != b"\n"
        line = ("\n" if broken else "") + json.dumps(values) + "\n"
        if os.write(file, line.encode()) < len(line.encode()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)


def read_lines(path: str, last_bytes: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the lines of JSON in ``path``, of its end only if ``last_bytes``; skip broken ones."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if last_bytes:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - last_bytes))
        for line in file:
            with contextlib.suppress(ValueError):
                values = json.loads(line)
                if isinstance(values, dict):
                    yield values


class Folder:
    """A folder with events: of a run, or of runs that are queued together."""

    def __init__(self, path: str) -> None:
        """Name the folder; nothing is read."""
        self.path = path
        self.id = os.path.basename(path)

    def file(self, *names: str) -> str:
        """Return the path of a file in it."""
        return os.path.join(self.path, *names)

    def event(self, state: RunState, **details: Any) -> None:
        """Append an event: it is in ``state`` from now on."""
        append_line(
            self.file("events.jsonl"), {"time": time.time(), "state": state.value, **details}
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the events, oldest first."""
        return [each for each in read_lines(self.file("events.jsonl")) if "state" in each]


class RunFolder(Folder):
    """One run's folder."""

    def record(self) -> RunRecord:
        """Return run.json; raise StoreError when there is none, StateError when unreadable."""
        try:
            with open(self.file("run.json"), encoding="utf-8") as file:
                return RunRecord.from_json(file.read())
        except OSError as error:
            raise StoreError(f"run {self.id}: {error}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Return what the script reported, oldest first."""
        return list(read_lines(self.file("metrics.jsonl")))

    def last_metrics(self) -> dict[str, Any]:
        """Return the last value of each metric, without its time."""
        last: dict[str, Any] = {}
        for line in read_lines(self.file("metrics.jsonl"), last_bytes=1 << 16):
            last.update(line)
        last.pop("time", None)
        return last

    def forget_ranks(self) -> None:
        """Remove what guards wrote in an earlier attempt."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.file("ranks")):
                os.unlink(self.file("ranks", name))

    def ranks(self) -> list[dict[str, Any]]:
        """Return what the ranks' guards wrote, by rank."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.file("ranks")):
                with contextlib.suppress(OSError, ValueError):
                    if name.endswith(".json"):
                        with open(self.file("ranks", name), encoding="utf-8") as file:
                            found.append(json.load(file))
        return sorted(found, key=lambda rank: int(rank["rank"]))


class Store:
    """All runs below one folder."""

    def __init__(self, runs_dir: str) -> None:
        """Name the folder; nothing is read or made."""
        self.path = runs_dir

    def folder(self, run_id: str) -> RunFolder:
        """Return the folder of ``run_id``, there or not."""
        return RunFolder(os.path.join(self.path, run_id))

    def create(self, run_id: str) -> RunFolder:
        """Make the folder of a new run; raise StoreError if it is there or cannot be made."""
        folder = self.folder(run_id)
        own = self.prepare()
        try:
            os.mkdir(folder.path)
            if not own:
                write_atomically(folder.file(".gitignore"), "*\n")
        except OSError as error:
            raise self._unwritable(error) from error
        return folder

    def prepare(self) -> bool:
        """Make the folder, hidden from git; return False where it is not ours alone.

        Then nothing is hidden: each folder of ours there has to hide itself. StoreError when it
        cannot be made.
        """
        ignored = os.path.join(self.path, ".gitignore")
        try:
            own = not os.path.isdir(self.path) or self._holds_runs_only()
            os.makedirs(self.path, exist_ok=True)
            if own and not os.path.exists(ignored):
                write_atomically(ignored, "*\n")
        except OSError as error:
            raise self._unwritable(error) from error
        return own

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"runs_dir={self.path}: a run's folder cannot be made there: {error}",
            hint="runs_dir=... or the variable LAUNCHER_RUNS names another place.",
        )

    def _holds_runs_only(self) -> bool:
        with os.scandir(self.path) as entries:
            return all(_ID.fullmatch(each.name) or each.name[0] == "." for each in entries)

    def ids(self) -> list[str]:
        """Return the ids of all runs, oldest first; other things in the folder are not looked at.

        Raise StoreError when the folder cannot be read.
        """
        try:
            with os.scandir(self.path) as entries:
                return sorted(each.name for each in entries if _ID.fullmatch(each.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.path} holds no runs: {error}") from error

    def last(self) -> RunFolder:
        """Return the run that was submitted last; StoreError when there is none."""
        ids = self.ids()
        # The time in an id has whole seconds: of the latest ones, their records tell.
        latest = [self.folder(each) for each in ids if each[:_SECOND] == ids[-1][:_SECOND]]
        if not latest:
            raise StoreError(f"there is no run in {self.path}", hint="--runs-dir looks elsewhere.")
        return max(latest, key=lambda folder: folder.record().created) if latest[1:] else latest[0]

    def find(self, text: str) -> RunFolder:
        """Return the one run that an id, a unique prefix of one, or ``@last`` names."""
        if text == "@last":
            return self.last()
        ids = self.ids()
        found = [text] if text in ids else [each for each in ids if each.startswith(text)]
        if len(found) == 1 and text:
            return self.folder(found[0])
        from launcher.sweep.status import refuse_sweep  # noqa: PLC0415 - it imports us

        refuse_sweep(self, text, found)
        if found and text:
            some = ", ".join(found[-5:])
            raise StoreError(f"'{text}' begins {len(found)} runs", hint=f"The latest: {some}.")
        raise StoreError(
            f"there is no run '{text}' in {self.path}",
            hint=nearest(text, ids) + "launcher runs lists them; --runs-dir looks elsewhere.",
        )

    def index(self, wanted: Container[str]) -> dict[str, RunStatus]:
        """Return the statuses of the runs that ended, as far as they are wanted and indexed."""
        found = {}
        for line in read_lines(os.path.join(self.path, INDEX)):
            with contextlib.suppress(KeyError, TypeError, ValueError):
                if line["id"] in wanted:
                    found[line["id"]] = RunStatus.from_json(line)
        return found

    def add_to_index(self, status: RunStatus) -> None:
        """Add a run that ended to the index; a failure to do so costs nothing but speed."""
        with contextlib.suppress(OSError):
            append_line(os.path.join(self.path, INDEX), status.to_json())


def last_lines(path: str, count: int = 20) -> list[str]:
    """Return the last ``count`` lines of a log."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 15)))
        return file.read().decode("utf-8", "replace").splitlines()[-count:]
    return []


def new_run_id() -> str:
    """Return an id that sorts by time and is unique: ``261123-051048-k3fa``, in UTC.

    UTC, for ids of machines in several zones, and of the hour that a clock goes back.
    """
    tail = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(4))
    return f"{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{tail}"
