"""What runs have left below the launcher's folder on a host, and its removal.

Standard library only, and sent to the agent as it is: on a full disk nothing can be put first.

Why two steps: what is to go is decided, and moved aside, while a lock keeps new code and new runs
from coming (``Objects.in_use``); what was moved aside is then removed at leisure. Nothing is
looked for, or removed, behind a symbolic link.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time

from launcher.ssh.agent.disk import (
    alone,
    changed_at,
    held,
    latest_change,
    remove,
    size_of,
    text_of,
    walk,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

_FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST"}
_RESULTS = ("outputs", "checkpoints", "logs", "metrics.jsonl", "events.jsonl")
_YOUNG_S = 3600.0  # so long what has not ended may still be on its way to its start
_RUN = re.compile(r"\d{6}-\d{6}-\w{4,}(-\d{4,})?")
_ASIDE = "trash."  # begins the name of what is being removed
_PARTS = (".work", ".log", ".part", ".lock")  # beside an environment or a wheel
_USED = rb"/(runs|lib|cache/envs)/([^/\0:\s\"']+)"


def requests() -> dict[str, Callable[[dict[str, Any], bytes], Any]]:
    """Return what the agent carries out from now on, by name."""
    return {"runs_left": runs_left, "rest_left": rest_left, "clear": clear}


def runs_left(head: dict[str, Any], _: bytes) -> dict[str, Any]:
    """Return the runs that are here; with the files of their results where they may go."""
    place = Place(head["workdir"], time.time() - head["older_s"])
    runs = [place.run(name) for name in place.runs()]
    for run in runs:
        run["size"] = size_of(place.file(run["path"]))
        run["results"] = [] if run["stays"] else list(_results(place.file(run["path"])))
    return {"runs": runs, "until": place.until, "now": time.time()}


def rest_left(head: dict[str, Any], _: bytes) -> list[dict[str, Any]]:
    """Return all else that is here, as it is once the runs ``going`` are gone."""
    place = Place(head["workdir"], head["until"])
    rest = [*place.rest(set(head["going"])), *place.remains()]
    for item in rest:
        item["size"] = sum(map(size_of, place.parts(item["path"])))
    return [*rest, *place.code(set(head["going"]), rest).items()]


def clear(head: dict[str, Any], _: bytes) -> dict[str, Any]:
    """Remove what ``going`` names, as far as it may still go; return what went, and what failed."""
    place = Place(head["workdir"], head["until"])
    with alone(place.workdir):
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
        self.workdir, self.until = os.path.realpath(workdir), until
        self.used = _used({workdir, self.workdir})
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

    def _stays(self, path: str, changed: float, why: str = "") -> str:
        if path in self.used or held(self.file(path)):
            return "in use"
        return why or ("younger" if changed > self.until else "")

    def run(self, name: str) -> dict[str, Any]:
        """Return a run; on another than its first host nothing tells its state."""
        path = f"runs/{name}"
        events = self.file(path, "events.jsonl")
        last = _last(events)
        state = str(last.get("state", ""))
        changed = changed_at(events) if state in _FINAL else latest_change(self.file(path))
        waits = "runs/.sweeps" in self.used or changed > time.time() - _YOUNG_S
        going = path in self.used or held(self.file(path))
        return {
            "kind": "run",
            "path": path,
            "state": "RUNNING" if going else state,
            "changed": changed,
            "young": state not in _FINAL and waits,
            "stays": self._stays(path, changed),
        }

    def rest(self, going: set[str]) -> list[dict[str, Any]]:
        """Return environments, wheels, sweeps and the launcher's own code."""
        texts = [text_of(self.file(path, "launch.sh")) for path in self._kept(going)]
        named = {f"cache/envs/{key}" for text in texts for key in _named(text)}
        found = []
        for key in self._keys("cache/envs"):
            path = f"cache/envs/{key}"
            ready = changed_at(self.file(path, "environment.json"))
            why = "a run that stays has it" if path in named else ""
            why = "being built" if held(self.file(f"{path}.log")) else why
            item = self._item("environment", path, ready, why)
            found.append({**item, "state": "ready" if ready else "unfinished"})
        for key in self._keys("cache/wheels"):
            path = f"cache/wheels/{key}"
            why = "being built" if held(self.file(f"{path}.lock")) else ""
            found.append(self._item("wheel", path, changed_at(self.file(path, "wheel.json")), why))
        runs = list(self._kept(going))
        for name in self.names("runs/.sweeps"):  # what a pool had; it ends before its last run
            stays = any(path.startswith(f"runs/{name}-") for path in runs)
            why = "a run that stays is of it" if stays else ""
            found.append(self._item("sweep", f"runs/.sweeps/{name}", why=why))
        return [*found, *(self._item("launcher", f"lib/{name}") for name in self.names("lib"))]

    def _keys(self, path: str) -> list[str]:
        return sorted({name.partition(".")[0] for name in self.names(path)} - {""})

    def _item(self, kind: str, path: str, changed: float = 0.0, why: str = "") -> dict[str, Any]:
        changed = changed or max(map(changed_at, self.parts(path)), default=0.0)
        stays = self._stays(path, changed, why)
        return {"kind": kind, "path": path, "state": "", "changed": changed, "stays": stays}

    def remains(self) -> list[dict[str, Any]]:
        """Return what a removal that was killed has moved aside."""
        found = [self._item("remains", each) for each in self.names("") if each.startswith(_ASIDE)]
        for each in found:
            pid = each["path"].split(".")[1]
            each["stays"] = "being removed" if os.path.exists(f"/proc/{pid}") else ""
        return found

    def code(self, going: set[str], rest: list[dict[str, Any]]) -> Code:
        """Return the runs' code by content, as it is once runs, and what may go of ``rest``, go."""
        kept = {text_of(self.file(path, "code.tree")).strip() for path in self._kept(going)}
        stay = (each["path"] for each in rest if each["kind"] == "launcher" and each["stays"])
        return Code(self, kept | {os.path.basename(path) for path in stay})

    def _kept(self, going: set[str]) -> Iterator[str]:
        return (path for name in self.runs() if (path := f"runs/{name}") not in going)

    def parts(self, path: str) -> list[str]:
        """Return all that there is of an item, absolute."""
        full = self.file(path)
        beside = _PARTS if path.startswith("cache/") else ()
        return [each for each in (full, *(full + part for part in beside)) if os.path.lexists(each)]

    def clear(self, asked: set[str]) -> dict[str, Any]:
        """Put aside what is asked for and may go, with the lock held; say what went."""
        done: dict[str, Any] = {"gone": [], "failed": {}, "objects": 0}
        self._go([self.run(each) for each in self.runs() if f"runs/{each}" in asked], done)
        others = [*self.rest(set()), *self.remains()]
        self._go([each for each in others if each["path"] in asked], done)
        if "objects" in asked:
            code = self.code(set(), [{**each, "stays": "there"} for each in self.rest(set())])
            done["objects"] = code.remove()
            done["gone"].append("objects")
        return done

    def _go(self, items: list[dict[str, Any]], done: dict[str, Any]) -> None:
        for item in items:
            if not item["stays"]:
                try:
                    self._put_aside(item["path"])
                    done["gone"].append(item["path"])
                except OSError as error:
                    done["failed"][item["path"]] = str(error)

    def _put_aside(self, path: str) -> None:
        """Give an item, whole, a name that nobody looks for: on a full disk too that can be had."""
        for each in self.parts(path):
            aside = self.file(f"{_ASIDE}{os.getpid()}.{time.monotonic_ns()}")
            os.rename(each, aside)
            self.aside.append(aside)


class Code:
    """Trees and objects: those that ``kept`` names stay, and what was used lately."""

    def __init__(self, place: Place, kept: set[str]) -> None:
        self.place = place
        until = min(place.until, time.time() - _YOUNG_S)
        self.trees: dict[bool, list[str]] = {True: [], False: []}  # by whether they go
        self.objects: dict[bool, list[tuple[str, int]]] = {True: [], False: []}
        named: set[str] = set()
        for name in place.names("trees"):
            path = place.file("trees", name)
            goes = name not in kept and changed_at(path) <= until
            self.trees[goes].append(path)
            if not goes:
                named.update(_objects(path))
        for part in place.names("objects"):
            for name in place.names(f"objects/{part}"):
                path = place.file("objects", part, name)
                about = os.lstat(path)
                goes = part + name not in named and about.st_mtime <= until
                self.objects[goes].append((path, about.st_blocks * 512))

    def items(self) -> list[dict[str, Any]]:
        """Return one item of what goes and one of what stays, where there is any."""
        found = []
        for goes in (True, False):
            trees, objects = self.trees[goes], self.objects[goes]
            if trees or objects:
                paths = [*trees, *(path for path, _ in objects)]
                item: dict[str, Any] = {"kind": "code", "path": "objects" if goes else "trees"}
                item["state"] = f"{len(trees)} trees, {len(objects)} files"
                item["changed"] = max(map(changed_at, paths))
                item["size"] = sum(size for _, size in objects)
                item["stays"] = "" if goes else "named by a run that stays, or younger"
                found.append(item)
        return found

    def remove(self) -> int:
        """Remove what goes, trees first: one that is there has all its objects; return bytes."""
        freed = 0
        for path in self.trees[True]:
            os.unlink(path)
        for path, size in self.objects[True]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                freed += size
        return freed


def _objects(tree: str) -> Iterator[str]:
    with open(tree, "rb") as file:
        for line in filter(None, file.read().split(b"\0")):
            yield line.split(b" ", 2)[1].decode()


def _used(workdirs: Iterable[str]) -> set[str]:
    """Return what the words or the variables of a process of this host name, as paths."""
    tops = b"|".join(re.escape(os.fsencode(each)) for each in workdirs)
    pattern = re.compile(b"(?:" + tops + b")" + _USED)
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for what in ("cmdline", "environ"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{what}", "rb") as file:
                found |= {b"/".join(each) for each in pattern.findall(file.read())}
    return {os.fsdecode(each) for each in found}


def _last(events: str) -> dict[str, Any]:
    """Return the last event of a run."""
    for line in reversed(text_of(events).splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and "state" in found:
                return found
    return {}


def _named(launch: str) -> list[str]:
    """Return the keys of environments that a run's launch.sh names."""
    return re.findall(r"/cache/envs/([^/\s\"']+)", launch)


def _results(run: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and time of change of each file that a run has to show."""
    for name in _RESULTS:
        for path, about in walk(os.path.join(run, name)):
            if stat.S_ISREG(about.st_mode):
                yield os.path.relpath(path, run), about.st_size, about.st_mtime_ns
