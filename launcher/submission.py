"""Write the files, record the run, start it: the only mutation on the straight path.

Why the snapshot comes before the environment: to build one may take minutes, and what is edited
meanwhile is not what was submitted. Why a start is begun first and let go last: what it takes, a
supervisor's imports or the scheduler's estimate, passes while the run is recorded; if we die in
between, nothing has started.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from launcher import record, show, snapshot
from launcher.errors import ConfigError, LaunchError
from launcher.git import Place
from launcher.job import LINK, RunRecord, RunState
from launcher.plan import late
from launcher.processes import this_process
from launcher.scheduler import scheduler
from launcher.store import RunFolder, Store, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from launcher.job import Facts, JobSpec, LaunchPlan, PlannedFile
    from launcher.scheduler import Start
    from launcher.snapshot import Snapshot
    from launcher.store import Folder

# Variables that make a process a rank of a run.
_OF_A_RANK = re.compile(
    r"(LAUNCHER_(RUN|OUTPUT|CHECKPOINT|RESTART|CONTROL|HOSTS|START)|OMPI_|PMIX_|PRTE_|(RANK|WORLD_SIZE|LOCAL_RANK|"
    r"LOCAL_WORLD_SIZE|NODE_RANK|MASTER_ADDR|MASTER_PORT)$)"
)


def submit(
    job: JobSpec,
    facts: Facts,
    plan: LaunchPlan,
    *,
    secrets: dict[str, str],
    say: Callable[[str], None],
    source: Place | Snapshot,
) -> RunFolder:
    """Return the folder of the run that ``plan`` describes, started.

    ``secrets``: values given in the configuration; others come from our environment. ``source``:
    where the source lies, or a recorded snapshot. LaunchError: nothing is left of the attempt.
    """
    keeper = scheduler(job.compute.kind)
    env = variables(secret_values(job, secrets))
    folder = Store(job.runs_dir).create(plan.run_id)
    start: Start | None = None
    try:
        folder.event(RunState.SUBMITTING, **this_process())
        run = record_of(job, facts, plan)
        write_atomically(folder.file("run.json"), run.to_json())
        write_files(folder, plan.files)
        start = keeper.begin(folder, plan, env, say)
        taken = snapshot.take(source) if isinstance(source, Place) else source
        warn(job, facts, say)
        lock = "" if run.late else start.provide(taken, job, facts.prefix)
        run = replace(run, commit=record.commit_run(recorded(run, job, plan, taken, lock)))
        write_atomically(folder.file("run.json"), run.to_json())
        if lock:
            write_atomically(folder.file("environment.lock"), lock)
        start.go()
    except BaseException:
        _undo(folder, facts.git_dir, start, say)
        raise
    start.report()
    return folder


def _undo(folder: RunFolder, git_dir: str, start: Start | None, say: Callable[[str], None]) -> None:
    """Leave nothing of a submit that failed half way, unless its job may be there."""
    if start is not None and not start.undo():
        say(f"launcher: whether run {folder.id} was queued is not known: launcher show tells later")
        return
    with contextlib.suppress(LaunchError):
        record.forget(git_dir, folder.id)
    shutil.rmtree(folder.path, ignore_errors=True)


def secret_values(job: JobSpec, given: dict[str, str]) -> dict[str, str]:
    """Return the values of the job's secrets: ``given`` ones, else those of our environment."""
    values = {name: given.get(name, os.environ.get(name)) for name in job.secrets}
    for name, value in values.items():
        if value is None:
            raise ConfigError(
                f"secrets: {name} is not set in this environment",
                hint=f"export {name}=..., or take it out of secrets (and env).",
            )
    return {name: value for name, value in values.items() if value is not None}


def record_of(job: JobSpec, facts: Facts, plan: LaunchPlan) -> RunRecord:
    """Return the record of a run that is not committed yet."""
    return RunRecord(
        id=plan.run_id,
        name=job.name,
        created=time.time(),
        user=facts.user,
        host=facts.host,
        compute=job.compute.kind,
        dist=job.dist.kind,
        entry=job.entry,
        nodes=job.resources.nodes,
        procs_per_node=job.resources.procs_per_node,
        grace_s=job.grace_s,
        time_s=job.resources.time_s,
        git_dir=facts.git_dir,
        prefix=facts.source_prefix,
        commit="",
        secrets=job.secrets,
        overrides=job.overrides,
        rerun_of=job.rerun_of,
        max_restarts=job.compute.restarts(),
        signal_s=job.compute.signal_s(job.resources),
        silence_s=job.compute.silence_s(),
        late=late(job, facts),
        config=job.config,
        cluster=facts.slurm,
        hosts=facts.hosts,
    )


def recorded(
    run: RunRecord, job: JobSpec, plan: LaunchPlan, source: Snapshot, lock: str
) -> record.RunRecordInput:
    """Return what the run's commit holds: its source, configuration, plan and environment."""
    files = {
        "run.json": run.to_json(),
        "config.yaml": "".join(_section(key, json.dumps(each)) for key, each in job.config.items()),
        "overrides.yaml": yaml_text(list(job.overrides)),
        "plan.json": plan.summary(),
        "environment.lock": lock,
        **{f"plan/{file.path}": file.text for file in plan.files},
    }
    entry = entry_in(source, job)
    return record.RunRecordInput(
        run_id=run.id, snapshot=source, message=message(run), files=files, entry=entry
    )


def entry_in(source: Snapshot, job: JobSpec) -> str:
    """Return the path of the job's script from the snapshot's root; '' for a module."""
    return "" if job.entry[0] == "-m" else f"{source.prefix}/{job.entry[0]}".lstrip("/")


@functools.lru_cache(maxsize=4096)
def _section(key: str, value: str) -> str:
    """Return a key of the configuration as YAML; runs of a sweep have most of them in common."""
    return yaml_text({key: json.loads(value)})


def write_files(folder: Folder, files: Iterable[PlannedFile]) -> None:
    """Write the planned files into ``folder``."""
    for file in files:
        path = folder.file(file.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if file.mode == LINK:
            link(path, file.text)
        else:
            write_atomically(path, file.text, file.mode)


def link(path: str, folder: str) -> None:
    """Make ``path`` lead to ``folder``, which is made where it is not there."""
    os.makedirs(folder, exist_ok=True)
    os.symlink(folder, path)


def message(run: RunRecord) -> str:
    """Return the message of the run's commit, for a person to read."""
    words = "\n".join(f"    {each}" for each in run.overrides)
    origin = f"A rerun of {run.rerun_of}.\n\n" if run.rerun_of else ""
    return (
        f"run {run.id} ({run.name}): {run.compute}, {show.ranks(run)}\n\n"
        f"{origin}Overrides:\n\n{words}\n"
    )


def warn(job: JobSpec, facts: Facts, say: Callable[[str], None]) -> None:
    """Say what may be meant, but seldom is."""
    prefix, ranks = facts.prefix, job.resources.procs_per_node
    if prefix.kind == "current" and prefix.missing:
        lacks = ", ".join(prefix.missing)
        say(f"launcher: warning: {prefix.python} is used as it is, without {lacks}")
    if job.compute.kind == "local" and ranks > facts.cpus:
        say(f"launcher: warning: {ranks} ranks share {facts.cpus} cores")
    if job.compute.kind == "local" and ranks * job.resources.gpus_per_proc > facts.gpus:
        wanted = ranks * job.resources.gpus_per_proc
        say(f"launcher: warning: {wanted} GPUs are asked for, {facts.gpus} are on this machine")


def variables(secrets: dict[str, str]) -> dict[str, str]:
    """Return all variables of what is started: ours, less those of a rank, and the secrets."""
    ours = dict(os.environ)
    if "LAUNCHER_RUN_ID" in ours:  # submitted by the script of another run
        ours = {name: ours[name] for name in ours if not _OF_A_RANK.match(name)}
    return {**ours, **secrets}


def yaml_text(value: Any) -> str:
    """Return ``value`` as YAML, keys in their own order."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    try:
        text = str(yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True))
        text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8, as surrogates: only escapes hold them
        text = str(yaml.dump(value, Dumper=yaml.SafeDumper, sort_keys=False))
    return text
