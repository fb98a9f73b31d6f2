"""What is left on hosts, what of it may go, and its removal.

Why the hosts do not decide alone: the state of a run is known on its first host, and whether its
results were brought is known here. Why they decide again before they remove: meanwhile a run may
have begun.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import SubmitError
from launcher.job import RunState
from launcher.processes import alive
from launcher.ssh.connection import side_by_side
from launcher.ssh.taught import taught

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from launcher.ssh.channel import Channel
    from launcher.ssh.connection import Target
    from launcher.store import RunFolder, Store

_MODULES = (
    *("locks", "processes", "ssh.agent.disk", "ssh.agent.needs"),
    *("ssh.agent.content", "ssh.agent.leftovers"),
)
_GROWING = ("logs/", "metrics.jsonl", "events.jsonl")  # brought as they grow, without their times


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing on a host. ``stays``: why it is not removed; "": it may go."""

    kind: str  # run, environment, wheel, sweep, launcher, data, code, remains
    path: str  # below the launcher's folder there
    state: str
    size: int  # bytes on the disk
    age_s: float  # since it was used last
    stays: str
    unfetched: bool = False  # a run that would go if its results were here


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left on one host, or why that is not known."""

    name: str
    items: tuple[Item, ...] = ()
    until: float = 0.0  # by the host's clock: what was used since then stays
    error: SubmitError | None = None

    @property
    def going(self) -> tuple[Item, ...]:
        """What may go."""
        return tuple(item for item in self.items if not item.stays)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = {"host": self.name, "reached": self.error is None}
        values |= {"error": self.error.message} if self.error else {}
        items = [asdict(item) for item in self.items]
        return {**values, "items": items, "would_free": sum(item.size for item in self.going)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """What was removed from one host, and what could not be."""

    name: str
    gone: tuple[str, ...] = ()
    freed: int = 0  # bytes
    failed: dict[str, str]  # path -> why


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What may go: ``older_s``, and runs whose results ``store`` has, or, ``unfetched``, all."""

    older_s: float
    store: Store
    unfetched: bool = False


def survey(ways: Sequence[Target], rules: Rules) -> tuple[Left, ...]:
    """Return what is left on each host; nothing is changed."""
    answers = side_by_side(functools.partial(_runs, older_s=rules.older_s), ways)
    told = {
        way.name: answer
        for way, answer in zip(ways, answers, strict=True)
        if not isinstance(answer, SubmitError)
    }

    def rest(pair: tuple[Target, dict[str, Any] | SubmitError]) -> Left:
        way, answer = pair
        if isinstance(answer, SubmitError):
            raise answer
        return _left(way, answer, told, rules)

    lefts = side_by_side(rest, list(zip(ways, answers, strict=True)))
    return tuple(
        Left(name=way.name, error=left) if isinstance(left, SubmitError) else left
        for way, left in zip(ways, lefts, strict=True)
    )


def clear(ways: Sequence[Target], lefts: Sequence[Left]) -> tuple[Cleared, ...]:
    """Remove what may go; what is in use by now stays."""
    pairs = [pair for pair in zip(ways, lefts, strict=True) if pair[1].going]
    found = side_by_side(lambda pair: _clear(*pair), pairs)
    return tuple(
        Cleared(name=left.name, failed={"": done.message})
        if isinstance(done, SubmitError)
        else done
        for (_, left), done in zip(pairs, found, strict=True)
    )


def _host(way: Target) -> Channel:
    channel = taught(way, *_MODULES)
    channel.facts = channel.ask("hello", looks=True, workdir=way.workdir, paths=[])[0]
    return channel


def _runs(way: Target, older_s: float) -> dict[str, Any]:
    channel = _host(way)
    values = channel.ask("runs_left", workdir=channel.facts["workdir"], older_s=older_s)[0]
    runs = {run.pop("path"): run for run in values["runs"]}
    return {**values, "runs": runs, "channel": channel}


def _left(way: Target, answer: dict[str, Any], told: dict[str, Any], rules: Rules) -> Left:
    """Return what is left on a host. ``told``: what each host told of its runs."""
    items = []
    for path, run in answer["runs"].items():
        views = {name: each["runs"][path] for name, each in told.items() if path in each["runs"]}
        results = [] if run["stays"] else run["results"]
        folder = rules.store.folder(os.path.basename(path))
        state, goes_on = _judged(views, folder)
        stays = run["stays"] or goes_on
        why = "" if stays else _not_here(folder, way.name, results)
        unfetched = bool(why) and not rules.unfetched
        run |= {"path": path, "state": state, "unfetched": unfetched}
        items.append(_item({**run, "stays": stays or (why if unfetched else "")}, answer["now"]))
    going = [item.path for item in items if not item.stays]
    channel, until = answer["channel"], answer["until"]
    asks = {"workdir": channel.facts["workdir"], "until": until, "going": going}
    rest, _ = channel.ask("rest_left", **asks)
    items += [_item(each, answer["now"]) for each in rest]
    return Left(name=way.name, items=tuple(items), until=until)


def _item(values: dict[str, Any], now: float) -> Item:
    names = ("kind", "path", "state", "size", "stays")
    return Item(
        **{name: values[name] for name in names},
        age_s=now - values["changed"],
        unfetched=values.get("unfetched", False),
    )


def _judged(views: dict[str, dict[str, Any]], folder: RunFolder) -> tuple[str, str]:
    """Return a run's state, and why it stays that nothing on this host needs.

    ``views``: what the hosts tell of it, by name.
    """
    for name, view in views.items():
        if view["stays"] == "in use":
            return view["state"], f"in use on {name}"
    last = next(reversed(folder.events()), {"state": ""})
    there = [view["state"] for view in views.values() if view["state"]]
    for state in (*there, last["state"]):
        if state and RunState(state).final:
            return state, ""
    if any(view["young"] for view in views.values()):
        state = next(filter(None, (*there, last["state"])), "unknown")
        return state, "may be about to start"
    if there:
        return RunState.LOST.value, ""  # it began, or was queued, and is gone
    return _known_here(last, folder, views) if last["state"] else ("unknown", "")


def _known_here(last: dict[str, Any], folder: RunFolder, asked: Collection[str]) -> tuple[str, str]:
    """Return the state of a run of which no host tells any, and why it stays."""
    hosts = folder.record().hosts
    first = hosts.hosts[0].name if hosts else "its first host"
    if alive(last, ""):
        return last["state"], "it is being submitted"
    if first in asked:
        return RunState.LOST.value, ""
    return last["state"], f"goes on as far as is known here; {first} did not tell"


def _not_here(folder: RunFolder, host: str, results: Sequence[tuple[str, int, int]]) -> str:
    """Return which results of a run are not here; "" when all are."""
    if not os.path.isdir(folder.path):
        return f"{os.path.dirname(folder.path)} does not know it"
    lacks = [path for path, size, ns in results if not _brought(folder, host, path, (size, ns))]
    more = f" and {len(lacks) - 1} more" if lacks[1:] else ""
    return f"{lacks[0]}{more} not here" if lacks else ""


def _brought(folder: RunFolder, host: str, path: str, stamp: tuple[int, int]) -> bool:
    growing = path.startswith(_GROWING)
    top, _, inside = path.partition("/")
    if growing and not stamp[0]:
        return True
    for place in (folder.file(path), folder.file(f"{top}.{host}", inside)):
        with contextlib.suppress(OSError):
            about = os.stat(place)
            if growing and about.st_size >= stamp[0]:
                return True
            if (about.st_size, about.st_mtime_ns) == stamp:
                return True
    return False


def _clear(way: Target, left: Left) -> Cleared:
    channel = _host(way)
    asks = {"workdir": channel.facts["workdir"], "until": left.until}
    done, _ = channel.ask("clear", going=[item.path for item in left.going], **asks)
    gone = set(done["gone"])
    sizes = [item.size for item in left.going if item.path in gone and item.kind != "code"]
    return Cleared(
        name=left.name,
        gone=tuple(item.path for item in left.going if item.path in gone),
        freed=sum(sizes) + done["objects"],
        failed=done["failed"],
    )
