"""Groups of runs on their way to their hosts, and what is asked of their pools there."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from launcher.errors import StoreError, SubmitError
from launcher.snapshot import Snapshot
from launcher.ssh.connection import everywhere, side_by_side
from launcher.ssh.ready import check_ways, of_run, try_ways
from launcher.ssh.travel import bring, code
from launcher.ssh.where import all_hosts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from launcher.hosts import Host, Hosts
    from launcher.job import GroupPlan, RunRecord
    from launcher.scheduler import Open
    from launcher.ssh.channel import Channel
    from launcher.store import RunFolder
    from launcher.sweep.store import GroupFolder

_AT_ONCE = 100  # runs of one message
_SUPPORT = "support"  # folder of what runs have in common
_OURS = (".gitignore", "environment.lock")  # of no use there
_Texts = dict[str, tuple[bytes, int]]  # text and mode, by path


def queue(group: GroupFolder, plan: GroupPlan, env: Mapping[str, str]) -> None:
    """Have the code on all hosts, the runs on the first one, and their pool started there."""
    folders = [group.run(task) for task in range(len(plan.runs))]
    record = folders[0].record()
    hosts = all_hosts(record)
    tree = code(_source(record))
    files = {file.path: (_encoded(file.text), file.mode) for file in plan.files}
    told = json.loads(files["group.json"][0])
    firsts = may_be_first(hosts, *(each["nodes"] for each in told["needs"]))

    def one(host: Host) -> None:
        if host in firsts:
            try_ways(hosts, host)
        bring(of_run(hosts, host), tree)
        if host in firsts:
            check_ways(hosts, host)

    everywhere(one, hosts.hosts)
    first = of_run(hosts, hosts.hosts[0])
    for begin in range(0, len(folders), _AT_ONCE):
        lay(first, folders[begin : begin + _AT_ONCE], {"code.tree": tree.name})
    _send(first, {}, {}, {"group": _name(group)}, files)
    (argv,) = plan.commands
    start(first, _name(group), argv, {name: env[name] for name in told["secrets"]})
    first.ask("go", group=_name(group))


def may_be_first(hosts: Hosts, *nodes: int) -> tuple[Host, ...]:
    """Return the hosts that have to reach others by ssh: the pool's, and where mpirun may start.

    ``nodes``: of each run.
    """
    chosen = any(1 < each < len(hosts.hosts) for each in nodes)  # by the pool, which has a choice
    return hosts.hosts if chosen else hosts.hosts[:1]


def start(first: Channel, name: str, argv: Sequence[str], given: Mapping[str, str]) -> None:
    """Have a pool started, which begins when it is told to ``go``; ``given``: variables of it."""
    texts = "".join(f"{name}={value}\0" for name, value in given.items())
    first.ask("pool", _encoded(texts), group=name, argv=argv)


def settle(group: GroupFolder) -> bool:
    """Return whether a group has its pool; if not it never will, and nothing of it is there."""
    try:
        hosts = all_hosts(group.run(0).record())
    except StoreError:  # who was killed while it took all away had asked before
        return False
    return bool(of_run(hosts, hosts.hosts[0]).ask("settle", group=_name(group))[0])


def withdraw(runs: Sequence[Open]) -> dict[str, SubmitError]:
    """Have runs cancelled that wait; return the errors of hosts that are not reached, by run."""
    asked: dict[tuple[Hosts, Host], list[str]] = {}
    for run in runs:
        hosts = all_hosts(run.record)
        asked.setdefault((hosts, hosts.hosts[0]), []).append(run.folder.id)
    answers = side_by_side(lambda at: of_run(*at).ask("withdraw", runs=asked[at]), [*asked])
    return {
        run: answer
        for at, answer in zip(asked, answers, strict=True)
        if isinstance(answer, SubmitError)
        for run in asked[at]
    }


def _source(record: RunRecord) -> Snapshot:
    """Return the code as it was recorded."""
    return Snapshot(
        git_dir=record.git_dir,
        tree=record.commit,
        prefix=record.prefix,
        head=None,
        branch="",
        dirty=False,
    )


def _name(group: GroupFolder) -> str:
    """Return ``SWEEP/K``."""
    sweep, _, number = group.path.rsplit("/", 2)
    return f"{os.path.basename(sweep)}/{number}"


def lay(
    first: Channel,
    folders: Sequence[RunFolder],
    given: Mapping[str, str],
    only: Collection[str] = (),
) -> None:
    """Have the folders of runs on the first host; those that have the same support share it.

    ``given``: texts of further files of each; ``only``: of those that are here, no others.
    """
    common: _Texts = {path: (_encoded(text), 0o644) for path, text in given.items()}
    shared: dict[str, list[RunFolder]] = {}
    for folder in folders:
        shared.setdefault(os.path.realpath(folder.file(_SUPPORT)), []).append(folder)
    for support, own in shared.items():
        texts = {f"{_SUPPORT}/{path}": each for path, each in _read(support).items()}
        runs = {each.id: _read(each.path) for each in own}
        if only:
            texts = {}
            runs = {run: {path: files[path] for path in only} for run, files in runs.items()}
        _send(first, {**common, **texts}, runs, {}, {})


def _read(top: str) -> _Texts:
    """Return the files of a folder, and those below it that no link leads to."""
    found = {}
    for path, _, names in os.walk(top):
        for name in names:
            file = os.path.join(path, name)
            if name not in _OURS and not os.path.islink(file):
                with open(file, "rb") as opened:
                    mode = os.fstat(opened.fileno()).st_mode & 0o777
                    found[os.path.relpath(file, top)] = opened.read(), mode
    return found


def _send(
    first: Channel, common: _Texts, runs: Mapping[str, _Texts], head: dict[str, Any], files: _Texts
) -> None:
    every = [common, *runs.values(), files]
    first.ask(
        "lay",
        b"".join(text for texts in every for text, _ in texts.values()),
        common=_listed(common),
        runs={run: _listed(texts) for run, texts in runs.items()},
        files=_listed(files),
        **head,
    )


def _listed(texts: _Texts) -> list[tuple[str, int, int]]:
    return [(path, mode, len(text)) for path, (text, mode) in texts.items()]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
