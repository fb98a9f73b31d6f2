"""Write the files, record the run, start it: the only mutation on the straight path.

Why the snapshot comes first: building an environment may take minutes, and what is edited
meanwhile is not what was submitted. Why SUBMITTING is written before the start: a submit that
dies in between is then seen, as LOST, never as a run that waits for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from launcher import process, record, show, snapshot
from launcher.environment import build
from launcher.errors import ConfigError, LaunchError, PlanError, SubmitError
from launcher.job import RunRecord, RunState
from launcher.observe import this_process
from launcher.store import RunFolder, Store, last_lines, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.job import Facts, JobSpec, LaunchPlan
    from launcher.snapshot import Snapshot

_BUILT = ("local",)


def submit(
    job: JobSpec,
    facts: Facts,
    plan: LaunchPlan,
    *,
    secrets: dict[str, str],
    say: Callable[[str], None],
    source: Snapshot | None = None,
) -> RunFolder:
    """Return the folder of the run that ``plan`` describes, started.

    ``secrets``: values given in the configuration; the others come from our environment.
    ``source``: a recorded one, in place of the source directory as it is now. ConfigError,
    ProvisionError, SubmitError, StoreError: nothing was started and nothing stays behind.
    """
    if job.compute.kind not in _BUILT:
        raise PlanError(
            f"compute={job.compute.kind}: submitting to it is not built yet",
            hint="launcher plan shows what it will do; compute=local runs on this machine.",
        )
    handed_on = _secret_values(job, secrets)
    taken = source or snapshot.take(job.source_directory)
    if facts.prefix.kind == "current" and facts.prefix.missing:
        lacks = ", ".join(facts.prefix.missing)
        say(f"launcher: warning: {facts.prefix.python} is used as it is, without {lacks}")
    ready = build.ensure(facts.prefix, say)
    folder = Store(job.runs_dir).create(plan.run_id)
    started = False
    try:
        folder.event(RunState.SUBMITTING, **this_process())
        _write(folder, job, plan, taken, build.lock_text(ready))
        started = _start(folder, plan, handed_on)
    finally:
        if not started:
            _undo(folder, taken)
    return folder


def _secret_values(job: JobSpec, given: dict[str, str]) -> dict[str, str]:
    values = {name: given.get(name, os.environ.get(name)) for name in job.secrets}
    for name, value in values.items():
        if value is None:
            raise ConfigError(
                f"secrets: {name} is not set in this environment",
                hint=f"export {name}=..., or take it out of secrets (and env).",
            )
    return {name: value for name, value in values.items() if value is not None}


def _write(folder: RunFolder, job: JobSpec, plan: LaunchPlan, source: Snapshot, lock: str) -> None:
    """Write the run's files, and its commit."""
    for file in plan.files:
        path = folder.file(file.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, file.text, file.mode)
    run = RunRecord(
        id=plan.run_id,
        name=job.name,
        created=time.time(),
        user=process.user(),
        host=this_process()["host"],
        compute=job.compute.kind,
        dist=job.dist.kind,
        entry=job.entry,
        nodes=job.resources.nodes,
        procs_per_node=job.resources.procs_per_node,
        grace_s=job.grace_s,
        time_s=job.resources.time_s,
        git_dir=source.git_dir,
        prefix=source.prefix,
        commit="",
        secrets=job.secrets,
        overrides=job.overrides,
    )
    files = {
        "run.json": run.to_json(),
        "config.yaml": yaml_text(job.config),
        "overrides.yaml": yaml_text(list(job.overrides)),
        "plan.json": json.dumps(plan.to_json(), indent=1) + "\n",
        "environment.lock": lock,
    }
    commit = record.commit_run(
        record.RunRecordInput(run_id=run.id, snapshot=source, message=message(run), files=files)
    )
    run = replace(run, commit=commit)
    for name in ("config.yaml", "environment.lock"):
        write_atomically(folder.file(name), files[name])
    write_atomically(folder.file("run.json"), run.to_json())


def message(run: RunRecord) -> str:
    """Return the message of the run's commit, for a person to read."""
    words = "\n".join(f"    {each}" for each in run.overrides)
    return f"run {run.id} ({run.name}): {run.compute}, {show.ranks(run)}\n\nOverrides:\n\n{words}\n"


def _start(folder: RunFolder, plan: LaunchPlan, secrets: dict[str, str]) -> bool:
    """Run the plan's commands; return whether the run is now the supervisor's."""
    os.makedirs(folder.file("logs"), exist_ok=True)
    with open(folder.file("logs", "launch.log"), "ab") as log:
        (argv,) = plan.commands
        try:
            supervisor = process.start(argv, log=log, env=secrets)
        except OSError as error:
            raise SubmitError(
                f"{argv[0]} cannot be started: {error}", argv=argv, exit_status=127
            ) from error
    # Its first word makes the run its own: from then on our end does not matter.
    while len(folder.events()) == 1 and supervisor.poll() is None:
        time.sleep(0.002)
    if len(folder.events()) == 1:
        raise SubmitError(
            f"the supervisor ended at once: {last_lines(folder.file('logs', 'launch.log'))}",
            argv=argv,
            exit_status=supervisor.returncode,
        )
    return True


def _undo(folder: RunFolder, source: Snapshot) -> None:
    with contextlib.suppress(LaunchError):
        record.forget(source.git_dir, folder.id)
    shutil.rmtree(folder.path, ignore_errors=True)


def yaml_text(value: Any) -> str:
    """Return ``value`` as YAML, keys in their own order."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=True))
