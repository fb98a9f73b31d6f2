"""The launcher from Python: what the command line calls, and what a notebook calls."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.errors import ConfigError, StoreError
from launcher.run import Run
from launcher.store import Store, new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.app import Request
    from launcher.git import Place
    from launcher.job import Facts, JobSpec, LaunchPlan
    from launcher.record import RecordedRun
    from launcher.snapshot import Snapshot
    from launcher.store import RunFolder
    from launcher.sweep.launched import LaunchedSweep
    from launcher.sweep.store import SweepFolder
    from launcher.sweep.submit import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A job with its plan: everything is decided, nothing has happened."""

    job: JobSpec
    facts: Facts
    plan: LaunchPlan
    secrets: dict[str, str]  # values that the configuration holds; never printed, never written
    source: Place | Snapshot  # where the source lies, or a recorded one

    def submit(self, say: Callable[[str], None]) -> Run:
        """Carry the plan out and return its run."""
        from launcher.submission import submit as carry_out  # noqa: PLC0415

        folder = carry_out(
            self.job,
            self.facts,
            self.plan,
            secrets=self.secrets,
            say=say,
            source=self.source,
        )
        return Run(folder)


def prepare(request: Request, rerun_of: RecordedRun | None = None) -> Prepared:
    """Return what submitting ``request`` would do; raise ConfigError or PlanError; write nothing.

    ``rerun_of``: a recorded run, whose source is used in place of the source directory.
    """
    from launcher import app, config  # noqa: PLC0415 - Hydra is imported to submit, not to list

    for word in request.overrides:
        if word.startswith("sweep."):
            raise ConfigError(f"{word}: is of a sweep", hint="-m launches one.")
    job, secrets = config.resolve(app.compose(request), request.overrides)
    if rerun_of is None:
        return prepared(job, secrets)
    earlier = tuple(_yaml(rerun_of, "overrides.yaml") or ())
    job = replace(job, rerun_of=rerun_of.run_id, overrides=(*earlier, *job.overrides))
    return prepared(job, secrets, _recorded_source(rerun_of))


def prepared(job: JobSpec, secrets: dict[str, str], source: Snapshot | None = None) -> Prepared:
    """Return what submitting ``job`` would do; raise ConfigError or PlanError; write nothing.

    ``secrets``: values that the configuration holds. ``source``: a recorded one; None: the job's
    source directory.
    """
    from launcher.data import located  # noqa: PLC0415
    from launcher.plan import check, plan  # noqa: PLC0415
    from launcher.probe import probe, source_of  # noqa: PLC0415

    check(job)
    where = source_of(job) if source is None else source
    facts = probe(job, where)
    job = located(job, facts)
    planned = plan(job, facts, new_run_id())
    return Prepared(job=job, facts=facts, plan=planned, secrets=secrets, source=where)


def prepare_sweep(request: Request) -> Sweep:
    """Return the sweep that ``request`` asks for; raise ConfigError or PlanError; write nothing."""
    from launcher.sweep.prepare import prepare as decided  # noqa: PLC0415 - imports Hydra

    return decided(request)


def submit(*overrides: str, config_dir: str | None = None, **values: Any) -> Run:
    """Submit a job and return its run, without waiting for it.

    ``overrides`` are as on the command line; ``values`` are keys of the job, taken literally:
    ``submit("dist=mpi", entry_script="train.py", script_params={"lr": 0.1})``. Raises LaunchError:
    ConfigError, PlanError, ProvisionError, SubmitError or StoreError.
    """
    from launcher.app import Request  # noqa: PLC0415

    request = Request(overrides=overrides, values=values, config_dir=config_dir)
    return prepare(request).submit(_say)


def submit_sweep(*overrides: str, config_dir: str | None = None, **values: Any) -> LaunchedSweep:
    """Queue what ``launcher -m`` would of the same words, and return the sweep, without waiting.

    ``submit_sweep("script_params.lr=0.1,0.01", entry_script="train.py")``; arguments and errors
    are those of ``submit``.
    """
    from launcher.app import Request  # noqa: PLC0415
    from launcher.sweep import launched, submit  # noqa: PLC0415

    request = Request(overrides=overrides, values=values, config_dir=config_dir)
    done = submit.submit(prepare_sweep(request), _say)
    if done.room.beyond:
        raise done.room.error(done.folder.id)
    return launched.LaunchedSweep(done.folder)


def repeat(text: str, request: Request, runs_dir: str | None = None) -> Prepared:
    """Return the repetition of a recorded run: its source and configuration, ``request`` on top.

    ``text`` is an id, a unique prefix of one, or @last. StoreError when there is no such run.
    """
    for word in request.overrides:
        if word.startswith("source_directory="):
            raise ConfigError(
                f"{word}: a rerun has the recorded source", hint="Submit anew to run another one."
            )
    recorded = _recorded(text, runs_dir)
    config = _configuration(recorded, request)
    config |= {"wait": None, "detach": None}  # how one followed it is no part of a run
    made = prepare(replace(request, recorded=config), recorded)
    for name, entry in config["data"].items():
        # ${data:name} was recorded as the path that it was then; of what is sent, as its digest.
        stale = "upload" not in entry and made.job.data.get(name) != entry["path"]
        if stale and entry["path"] in made.job.args:
            raise ConfigError(
                f"data.{name}.path: a recorded argument is still {entry['path']}",
                hint="Override that parameter of script_params too: the record holds its value.",
            )
    return made


def _configuration(recorded: RecordedRun, request: Request) -> dict[str, Any]:
    """Return a run's configuration, for ``request`` to stand on top of."""
    from launcher import data, overrides  # noqa: PLC0415

    config: dict[str, Any] = _yaml(recorded, "config.yaml")
    hosts = json.loads(recorded.files["run.json"]).get("hosts")
    if not hosts:
        return config
    chosen = {overrides.parts(word)[1] for word in request.overrides} | {*request.values}
    return data.recorded(config, hosts["workdir"], chosen)


def _recorded_source(recorded: RecordedRun) -> Snapshot:
    from launcher.snapshot import Snapshot  # noqa: PLC0415

    return Snapshot(
        git_dir=recorded.git_dir,
        tree=recorded.tree,
        prefix=json.loads(recorded.files["run.json"])["prefix"],
        head=recorded.head,
        branch="",
        dirty=False,
    )


def _yaml(recorded: RecordedRun, name: str) -> Any:
    import yaml  # noqa: PLC0415

    return yaml.safe_load(recorded.files[name])


def _recorded(text: str, runs_dir: str | None) -> RecordedRun:
    """Return a recorded run; one whose folder is gone is found by its commit."""
    from launcher import record  # noqa: PLC0415

    try:
        folder = store(runs_dir).find(text)
        return record.read_run(folder.record().git_dir, folder.id)
    except StoreError:
        found = _in_commits(text)
        if found is None:
            raise
        return found


def _in_commits(text: str) -> RecordedRun | None:
    """Return the run that only a commit tells of, here or in the launcher's own store."""
    from launcher import git, record  # noqa: PLC0415

    for git_dir in {git.find(os.getcwd()).git_dir, git.own_store()}:
        ids = record.find(git_dir, text) if os.path.isdir(git_dir) else []
        if len(ids) == 1:
            return record.read_run(git_dir, ids[0])
    return None


def find(there: Store, text: str) -> RunFolder | SweepFolder:
    """Return the run or the sweep that an id or a prefix of it names, or @last."""
    from launcher.sweep.status import named  # noqa: PLC0415

    try:
        return named(there, text)
    except StoreError as error:
        return _adopted(there, text, error)


def find_run(there: Store, text: str) -> RunFolder:
    """Return the run that an id, a unique prefix of one, or @last names."""
    try:
        return there.find(text)
    except StoreError as error:
        return _adopted(there, text, error)


def _adopted(there: Store, text: str, error: StoreError) -> RunFolder:
    """Return the run that only a commit tells of, as in another clone; else raise ``error``."""
    known = text == "@last" or any(each.startswith(text) for each in there.ids())
    recorded = None if known else _in_commits(text)
    if recorded is None:
        raise error
    from launcher.adopt import adopt  # noqa: PLC0415 - seldom

    return adopt(there, recorded)


def rerun(run: str, *overrides: str, runs_dir: str | None = None, **values: Any) -> Run:
    """Submit a recorded run again and return the new one; as ``submit``, on top of its record.

    ``run`` is an id, a unique prefix of one, or @last.
    """
    from launcher.app import Request  # noqa: PLC0415

    request = Request(overrides=overrides, values=values)
    return repeat(run, request, runs_dir).submit(_say)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def store(runs_dir: str | None = None) -> Store:
    """Return the runs below ``runs_dir``; by default of LAUNCHER_RUNS, or of ./runs."""
    return Store(os.path.abspath(runs_dir or os.environ.get("LAUNCHER_RUNS") or "runs"))


def runs(runs_dir: str | None = None) -> list[Run]:
    """Return all runs, oldest first."""
    there = store(runs_dir)
    return [Run(there.folder(run_id)) for run_id in there.ids()]
