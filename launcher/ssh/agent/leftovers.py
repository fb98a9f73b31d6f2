"""What runs have left below the launcher's folder on a host, and its removal.

Standard library only, and sent to the agent as it is: on a full disk nothing can be put first.

Why two steps: what is to go is decided, and moved aside, while a lock keeps new code and new runs
from coming (``Objects.in_use``); what was moved aside is then removed at leisure. Nothing is
looked for, or removed, behind a symbolic link.

Why what others may use too stays for an hour, whatever is asked for: who is about to use it has
seen that it is there, and no run names it yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time

from launcher.locks import is_locked
from launcher.processes import alive
from launcher.ssh.agent.content import Code, Data
from launcher.ssh.agent.disk import (
    alone,
    changed_at,
    latest_change,
    remove,
    size_of,
    text_of,
    unbuilt,
    walk,
)
from launcher.ssh.agent.needs import ENVIRONMENTS, MARKER, needs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from typing import Any

_FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST"}
_RESULTS = ("outputs", "checkpoints", "logs", "metrics.jsonl", "events.jsonl")
_YOUNG_S = 3600.0  # so long what is there may be on its way to its use
_RUN = re.compile(r"\d{6}-\d{6}-\w{4,}(-\d{4,})?")
_ASIDE = "trash"  # begins the name of what is being removed
# What a process, whose number the name has, was to remove itself.
_OWN = re.compile(rf"({_ASIDE}|ssh_config|doctor)\.(\d+)(\..*)?")
_USED = rb"/(runs|lib|cache/envs)/([^/\0:\s\"']+)"
# In the words of one, or of its part here; each run has a keeper, which starts nothing.
_POOL = re.compile(rb"/launcher/pool(?!/keep\.py)|/runs/\.sweeps/")


def requests() -> dict[str, Callable[[dict[str, Any], bytes], Any]]:
    """Return what the agent carries out from now on, by name."""
    return {"runs_left": runs_left, "rest_left": rest_left, "clear": clear}


def runs_left(head: dict[str, Any], _: bytes) -> dict[str, Any]:
    """Return the runs that are here; with the files of their results where they may go."""
    place = Place(head["workdir"], time.time() - head["older_s"])
    runs = [place.run(name) for name in place.runs()]
    for run in runs:
        path = place.file(run["path"])
        run["size"] = size_of([path])
        run["results"] = [] if run["stays"] else list(_results(path))
    return {"runs": runs, "until": place.until, "now": place.now}


def rest_left(head: dict[str, Any], _: bytes) -> list[dict[str, Any]]:
    """Return all else that is here, as it is once the runs ``going`` are gone."""
    place, going = Place(head["workdir"], head["until"]), set(head["going"])
    rest = [*place.rest(going), *place.remains()]
    for item in rest:
        item["size"] = size_of(map(place.file, place.parts(item["path"])))
    needed = place.needed(going)
    return [*rest, *Data(place, needed).items(), *Code(place, needed | _bundles(rest)).items()]


def clear(head: dict[str, Any], _: bytes) -> dict[str, Any]:
    """Remove what ``going`` names, as far as it may still go; return what went, and what failed."""
    with alone(head["workdir"]):
        place = Place(head["workdir"], head["until"])
        done = place.clear(set(head["going"]))
    for path in place.aside:
        try:
            remove(path)
        except OSError as error:  # it is shown as remains by the next one
            done["failed"][path] = str(error)
    return done


class Place:
    """The launcher's folder on this host. ``until``: what was used since then stays."""

    def __init__(self, workdir: str, until: float) -> None:
        self.workdir, self.until, self.now = os.path.realpath(workdir), until, time.time()
        self.used, self.pools = _used({workdir, self.workdir})
        self.aside: list[str] = []  # what is to be removed

    def file(self, *names: str) -> str:
        """Return the path of what lies in it."""
        return os.path.join(self.workdir, *names)

    def names(self, path: str) -> list[str]:
        """Return what is in a folder of ours; nothing where a link leads to it."""
        at = self.workdir
        for part in path.split("/"):
            at = os.path.join(at, part)
            if not os.path.isdir(at) or os.path.islink(at):
                return []
        return sorted(each.name for each in os.scandir(at) if not each.is_symlink())

    def runs(self) -> list[str]:
        """Return the runs' ids; what else lies beside them is not ours."""
        return list(filter(_RUN.fullmatch, self.names("runs")))

    def lately(self, changed: float) -> str:
        """Return why what was used at a time stays, or ""."""
        if changed > self.until:
            return "younger"
        return "used in the last hour" if changed > self.now - _YOUNG_S else ""

    def stays(self, sign: str, why: str = "") -> str:
        """Return why what others may use too stays, or ""; ``why``: it does anyhow."""
        if is_locked(self.file(sign), shared=True):
            return "in use"
        return why or self.lately(changed_at(self.file(sign)))

    def run(self, name: str) -> dict[str, Any]:
        """Return a run; on another than its first host nothing tells its state."""
        path = f"runs/{name}"
        events = self.file(path, "events.jsonl")
        last = _last(events)
        state = str(last.get("state", ""))
        changed = changed_at(events) if state in _FINAL else latest_change(self.file(path))
        waits = state not in _FINAL and state != "RUNNING"
        going = path in self.used or self._supervised(path, last)
        younger = "younger" if changed > self.until else ""
        return {
            "kind": "run",
            "path": path,
            "state": state or ("RUNNING" if going else ""),
            "changed": changed,
            "young": waits and (self.pools or changed > self.now - _YOUNG_S),
            "stays": "in use" if going else younger,
        }

    def _supervised(self, path: str, last: dict[str, Any]) -> bool:
        """Return whether a rank has its code, whoever claimed the run lives, or its supervisor."""
        if is_locked(self.file(path), shared=True) or is_locked(self.file(path, "job")):
            return True
        return "born" in last and alive(last, self.file(path, "heartbeat"))

    def rest(self, going: Collection[str]) -> list[dict[str, Any]]:
        """Return environments, wheels, sweeps and the launcher's own code."""
        needed, found = self.needed(going), []
        for key in self._keys(ENVIRONMENTS):
            path = f"{ENVIRONMENTS}/{key}"
            sign = f"{path}/{MARKER}"
            ready = os.path.exists(self.file(sign))
            why = "a run that stays needs it" if sign in needed else ""
            item = self._item("environment", path, sign if ready else "", why)
            found.append({**item, "state": "ready" if ready else "unfinished"})
        for key in self._keys("cache/wheels"):
            path = f"cache/wheels/{key}"
            sign = f"{path}/wheel.json"
            found.append(self._item("wheel", path, sign if os.path.exists(self.file(sign)) else ""))
        kept = tuple(self._kept(going))
        for name in self.names("runs/.sweeps"):  # what a pool has for its runs
            item = self._item("sweep", f"runs/.sweeps/{name}")
            why = "younger" if item["changed"] > self.until else ""
            mine = any(path.startswith(f"runs/{name}") for path in kept)
            found.append({**item, "stays": "a run of it stays" if mine else why})
        return [*found, *(self._item("launcher", f"lib/{name}") for name in self.names("lib"))]

    def _keys(self, path: str) -> list[str]:
        return sorted({name.partition(".")[0] for name in self.names(path)} - {""})

    def _item(self, kind: str, path: str, sign: str = "", why: str = "") -> dict[str, Any]:
        parts = self.parts(path)
        changed = max(
            (changed_at(self.file(each)) for each in ([sign] if sign else parts)), default=0
        )
        if any(is_locked(self.file(each)) for each in parts):
            why = "being built"
        if path in self.used or is_locked(self.file(sign or path), shared=True):
            why = "in use"
        item = {"kind": kind, "path": path, "state": "", "changed": changed}
        return {**item, "stays": why or self.lately(changed)}

    def remains(self) -> list[dict[str, Any]]:
        """Return what was to be removed by processes that were killed before."""
        found = []
        for name in self.names(""):
            if own := _OWN.fullmatch(name):
                lives = os.path.exists(f"/proc/{own[2]}")
                item = self._item("remains", name)
                found.append({**item, "stays": "being removed" if lives else ""})
        return found

    def needed(self, going: Collection[str]) -> set[str]:
        """Return the signs of what the runs need that do not go."""
        return {sign for path in self._kept(going) for sign in needs(self.file(path))}

    def _kept(self, going: Collection[str]) -> Iterator[str]:
        return (path for name in self.runs() if (path := f"runs/{name}") not in going)

    def parts(self, path: str) -> list[str]:
        """Return all that there is of an item: beside what a build makes lie its log, its lock."""
        top, name = os.path.split(path)
        if top.startswith("cache/"):
            mine = [each for each in self.names(top) if each.partition(".")[0] == name]
            return [f"{top}/{each}" for each in mine]
        return [path]

    def clear(self, asked: set[str]) -> dict[str, Any]:
        """Remove what is asked for and may go, with the lock held; say what went."""
        done: dict[str, Any] = {"gone": [], "failed": {}, "objects": 0}
        self._go([self.run(each) for each in self.runs() if f"runs/{each}" in asked], done)
        rest = self.rest(())
        self._go([each for each in (*rest, *self.remains()) if each["path"] in asked], done)
        needed = self.needed(())
        try:
            done["gone"] += Data(self, needed, asked).remove()
            if "objects" in asked:
                done["objects"] = Code(self, needed | _bundles(self.rest(()))).remove()
                done["gone"].append("objects")
        except OSError as error:
            done["failed"]["data and code"] = str(error)
        return done

    def _go(self, items: Iterable[dict[str, Any]], done: dict[str, Any]) -> None:
        for item in items:
            if not item["stays"]:
                try:
                    with unbuilt(map(self.file, self.parts(item["path"]))):
                        self.put_aside(self.parts(item["path"]))
                    done["gone"].append(item["path"])
                except OSError as error:
                    done["failed"][item["path"]] = str(error)

    def put_aside(self, paths: Iterable[str]) -> None:
        """Give what is there names that nobody looks for: on a full disk too that can be had."""
        for path in map(self.file, paths):
            if os.path.lexists(path):
                if os.path.isdir(path) and not os.path.islink(path):
                    os.chmod(path, 0o700)  # what cannot be written to is not moved
                aside = self.file(f"{_ASIDE}.{os.getpid()}.{time.monotonic_ns()}")
                os.rename(path, aside)
                self.aside.append(aside)


def _bundles(rest: Iterable[dict[str, Any]]) -> set[str]:
    """Return the trees of the launcher's own code that stays."""
    stay = (each["path"] for each in rest if each["kind"] == "launcher" and each["stays"])
    return {f"trees/{os.path.basename(path)}" for path in stay}


def _used(workdirs: Iterable[str]) -> tuple[set[str], bool]:
    """Return what processes of this host name, as paths, and whether a pool is among them.

    They name it in their words or variables.
    """
    tops = b"|".join(re.escape(os.fsencode(each)) for each in workdirs)
    pattern = re.compile(b"(?:" + tops + b")" + _USED)
    found, pools = set(), False
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for what in ("cmdline", "environ"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{what}", "rb") as file:
                text = file.read()
                found |= {b"/".join(each) for each in pattern.findall(text)}
                pools = pools or bool(_POOL.search(text))
    return {os.fsdecode(each) for each in found}, pools


def _last(events: str) -> dict[str, Any]:
    """Return the last event of a run."""
    for line in reversed(text_of(events).splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "state" in found:
                return found
    return {}


def _results(run: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of change of each file that a run has to show."""
    for name in _RESULTS:
        for path, about in walk(os.path.join(run, name)):
            if stat.S_ISREG(about.st_mode):
                yield os.path.relpath(path, run), about.st_size, about.st_mtime_ns
