"""Sweeps on disk, beside the runs that they hold.

    runs/.sweeps/ID/sweep.json     what was asked for
                    points.jsonl   a line a point: its run; of two lines of a point the last counts
                    groups/K/      runs that one call queues: a job array, a pool of this machine
                        group.json     the runs, by task
                        events.jsonl   as a run's own: SUBMITTING before the call, PENDING after it

Why a group has events of its own: one line in one file says for all of its runs that they are
queued, and as what. A submit that is killed leaves no run of a group in another state than its
neighbours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from launcher.errors import StateError, StoreError, nearest
from launcher.locks import is_locked
from launcher.store import Folder, RunFolder, Store, read_lines, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SWEEPS = ".sweeps"
SWEEP_SCHEMA = 1
_ID = re.compile(r"\d{6}-\d{6}-\w{4,}")
_SECOND = len("261123-051048")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """What ``sweep.json`` holds. ``digest``: of the points' signatures, in their order."""

    id: str
    name: str
    created: float  # seconds since the epoch
    user: str
    host: str  # the submitting machine
    overrides: tuple[str, ...]  # as they were typed
    keys: tuple[str, ...]  # those that vary
    digest: str
    schema: int = field(default=SWEEP_SCHEMA)

    @classmethod
    def from_json(cls, text: str) -> SweepRecord:
        """Return the record; raise StateError on text that is none, or of another schema."""
        try:
            values = json.loads(text)
            if values["schema"] != SWEEP_SCHEMA:
                raise StateError(
                    f"sweep.json has schema {values['schema']}, this launcher reads {SWEEP_SCHEMA}",
                    hint="pip install --upgrade training-launcher",
                )
            return cls(
                **{**values, "overrides": tuple(values["overrides"]), "keys": tuple(values["keys"])}
            )
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"sweep.json cannot be read ({error}): {text[:200]!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line of ``points.jsonl``: which run a point is. ``values``: what varies, as typed."""

    point: int
    run: str  # "": it was left out, or is not launched yet
    signature: str
    values: dict[str, str]

    def without_run(self) -> Entry:
        """Return the point as one that is not launched."""
        return replace(self, run="")


class GroupFolder(Folder):
    """Runs that one call queues."""

    def kind(self) -> str:
        """Return the kind of compute."""
        return str(self._values()["kind"])

    def runs(self) -> list[str]:
        """Return the runs' ids, by task."""
        return [str(each) for each in self._values().get("runs", ())]

    def keep(self, count: int) -> None:
        """Have the group be its first runs only."""
        values = {**self._values(), "runs": self.runs()[:count]}
        write_atomically(self.file("group.json"), json.dumps(values) + "\n")

    def store(self) -> str:
        """Return the folder that holds the runs' own."""
        return os.path.normpath(self.file(str(self._values().get("store", "../../../.."))))

    def run(self, task: int) -> RunFolder:
        """Return the folder of the run that a task is."""
        return RunFolder(os.path.join(self.store(), self.runs()[task]))

    def _values(self) -> dict[str, Any]:
        try:
            with open(self.file("group.json"), encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
        except (OSError, ValueError):  # it was about to be written
            return {"kind": ""}
        return found


def link_log(run: Folder) -> None:
    """Have the run's folder show what its scheduler wrote, which lies in its group's."""
    first = next(iter(run.events()), {})
    if "group" in first:
        sweep, _, number = str(first["group"]).partition("/")
        log = f"../../{SWEEPS}/{sweep}/groups/{number}/{first['task']}.log"
        with contextlib.suppress(OSError):
            os.makedirs(run.file("logs"), exist_ok=True)
            os.symlink(log, run.file("logs", "slurm.log"))


class SweepFolder(Folder):
    """One sweep's folder."""

    def record(self) -> SweepRecord:
        """Return sweep.json; raise StoreError when there is none, StateError when unreadable."""
        try:
            with open(self.file("sweep.json"), encoding="utf-8") as file:
                return SweepRecord.from_json(file.read())
        except OSError as error:
            raise StoreError(f"sweep {self.id}: {error}") from error

    def exists(self) -> bool:
        """Return whether the sweep was written down."""
        return os.path.exists(self.file("sweep.json"))

    def create(
        self, record: SweepRecord, entries: list[Entry], complete: Callable[[SweepFolder], None]
    ) -> None:
        """Make the folder, whole or not at all; ``complete`` adds to it before it is there."""
        new = SweepFolder(os.path.join(os.path.dirname(self.path), f".new-{self.id}"))
        os.makedirs(new.path)
        try:
            write_atomically(new.file("sweep.json"), json.dumps(asdict(record), indent=1) + "\n")
            write_atomically(new.file("points.jsonl"), _lines(entries))
            complete(new)
            os.rename(new.path, self.path)
        except BaseException:
            import shutil  # noqa: PLC0415 - 3 ms, and every supervisor imports us

            shutil.rmtree(new.path, ignore_errors=True)
            raise

    def append(self, entries: list[Entry]) -> None:
        """Say anew which runs these points are."""
        with open(self.file("points.jsonl"), "a", encoding="utf-8") as file:
            file.write("\n" + _lines(entries))  # a line that was not finished stays apart

    def sweeps(self) -> Sweeps:
        """Return all sweeps of the store that holds this one."""
        return Sweeps(Store(os.path.dirname(os.path.dirname(self.path))))

    def run_path(self, run_id: str) -> str:
        """Return the path of a run's folder."""
        return os.path.join(os.path.dirname(os.path.dirname(self.path)), run_id)

    def entries(self) -> list[Entry]:
        """Return the points in their order, each with its latest run."""
        found: dict[int, Entry] = {}
        for line in read_lines(self.file("points.jsonl")):
            with contextlib.suppress(TypeError):
                entry = Entry(**line)
                found[entry.point] = entry
        return [found[number] for number in sorted(found)]

    def groups(self) -> list[GroupFolder]:
        """Return the groups, in the order in which they were made."""
        with contextlib.suppress(FileNotFoundError):
            names = [name for name in os.listdir(self.file("groups")) if name.isdigit()]
            return [GroupFolder(self.file("groups", name)) for name in sorted(names, key=int)]
        return []


class Sweeps:
    """All sweeps of a store."""

    def __init__(self, store: Store) -> None:
        """Name the store; nothing is read or made."""
        self.store = store
        self.path = os.path.join(store.path, SWEEPS)
        self._lock = os.path.join(self.path, "lock")

    def folder(self, sweep_id: str) -> SweepFolder:
        """Return the folder of ``sweep_id``, there or not."""
        return SweepFolder(os.path.join(self.path, sweep_id))

    def ids(self) -> list[str]:
        """Return the ids of all sweeps, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.path) if _ID.fullmatch(name))
        return []

    def all(self) -> list[SweepFolder]:
        """Return all sweeps, oldest first."""
        return [self.folder(each) for each in self.ids()]

    def find(self, text: str) -> SweepFolder:
        """Return the one sweep that an id, a unique prefix of one, or ``@last`` names."""
        ids = self.ids()
        found = [each for each in ids if each.startswith(text)]
        if text == "@last" and ids:
            # The time in an id has whole seconds: of the latest ones, their records tell.
            latest = [each for each in ids if each[:_SECOND] == ids[-1][:_SECOND]]
            found = [max(latest, key=lambda each: self.folder(each).record().created)]
        if len(found) == 1 and text:
            return self.folder(found[0])
        if found and text:
            raise StoreError(f"'{text}' begins {len(found)} sweeps", hint=f"They are {found}.")
        raise StoreError(
            f"there is no sweep '{text}' in {self.store.path}",
            hint=nearest(text, ids) + "launcher sweeps lists them; --runs-dir looks elsewhere.",
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the one right to queue sweeps in this store; yield the lock, an open file.

        A program that is started with the lock as its standard input holds it to its own end, even
        when we are killed: who has the lock next knows that no call of ours is under way.
        """
        os.makedirs(self.path, exist_ok=True)
        write_atomically(os.path.join(self.path, ".gitignore"), "*\n")
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def is_locked(self) -> bool:
        """Return whether somebody queues a sweep in this store, as far as its disk tells."""
        return is_locked(self._lock)


class Groups:
    """What the groups of a store tell of their runs; each group is read once."""

    def __init__(self, runs_dir: str) -> None:
        """Read nothing yet."""
        self._path = os.path.join(runs_dir, SWEEPS)
        self._events: dict[str, list[dict[str, Any]]] = {}

    def folder(self, name: str) -> GroupFolder:
        """Return the group that a run's first event names: ``SWEEP/K``."""
        sweep, _, number = name.partition("/")
        return GroupFolder(os.path.join(self._path, sweep, "groups", number))

    def joined(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return a run's events, with those of its group where they belong: after the first."""
        first: Mapping[str, Any] = events[0] if events else {}
        if "group" not in first:
            return events
        name = str(first["group"])
        if name not in self._events:
            self._events[name] = self.folder(name).events()
        told = [
            {**each, "job_id": f"{each['job_id']}_{first['task']}"} if "job_id" in each else each
            for each in self._events[name]
        ]
        return [events[0], *told, *events[1:]]


def _lines(entries: list[Entry]) -> str:
    return "".join(json.dumps(asdict(entry)) + "\n" for entry in entries)
