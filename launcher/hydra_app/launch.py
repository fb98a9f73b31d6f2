"""Points of a Hydra application -> runs -> what they returned."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.utils import get_class
from omegaconf import open_dict

from launcher.cli.words import runs_dir_option, say
from launcher.data import located
from launcher.errors import ConfigError, LaunchError, PlanError
from launcher.hydra_app import outputs
from launcher.hydra_app.callback import RETURN
from launcher.hydra_app.entry import entry, typed
from launcher.hydra_app.jobs import directory, job_of, node
from launcher.job import RunState
from launcher.overrides import parts
from launcher.plan import check
from launcher.run import Run
from launcher.show import plan_text
from launcher.store import RunFolder, new_run_id
from launcher.sweep import show
from launcher.sweep.places import Places
from launcher.sweep.plan import Draft, Planner
from launcher.sweep.submit import Sweep, submit
from launcher.variables import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from launcher.api import Prepared
    from launcher.hydra_app.entry import Entry
    from launcher.job import JobSpec
    from launcher.sweep.store import SweepFolder


_KEYS = "A key of ours is hydra.launcher.KEY here, and a group hydra/launcher/GROUP."


class Launch:
    """The points of one sweep, of which a sweeper may give some at a time."""

    def __init__(self, context: HydraContext, function: TaskFunction, config: DictConfig) -> None:
        """Begin with no point. ``config``: what Hydra composed for the sweep as a whole."""
        self._loader = context.config_loader
        self._function = function
        self._config = config
        self._id = new_run_id()
        self._told: set[str] = set()  # runs whose end was said

    def points(self, points: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Return what the points returned, or nothing where they are not waited for.

        ``points``: the overrides of each; ``first``: the number of the first. Raise what Hydra
        shows without a traceback when they cannot be launched.
        """
        try:
            with entry(self._function, self._loader, self._config) as script:
                sweep, planned = self._sweep([list(each) for each in points], first, script)
                if planned:
                    sys.stdout.write(show.plan_text(sweep))
                    return []
                for draft in sweep.drafts:
                    outputs.vacate(_outputs(draft.job))
                done = submit(sweep, say)
            if done.room.beyond:
                raise done.room.error(done.folder.id)
        except LaunchError as error:
            raise CompactHydraException(f"launcher: {_placed(error)}\n") from error
        *queued, verbs = show.queued_lines(sweep, done, runs_dir_option(sweep.runs_dir))
        for line in (*queued, *([] if first else [verbs])):
            say(line)
        folders = [RunFolder(done.folder.run_path(run)) for run in done.runs]
        for draft, folder in zip(sweep.drafts, folders, strict=True):
            if _outputs(draft.job):
                outputs.own(folder.path, _outputs(draft.job))
                outputs.show(folder.path, _outputs(draft.job))
        return self._returned(done.folder, folders, points) if sweep.wait else []

    def _returned(
        self, sweep: SweepFolder, folders: Sequence[RunFolder], points: Sequence[Sequence[str]]
    ) -> list[JobReturn]:
        from launcher.sweep.live import watched  # noqa: PLC0415 - rich, for who waits

        if watched(sweep, say, "", self._told) is None:
            raise SystemExit(130)
        return [returned(each, words) for each, words in zip(folders, points, strict=True)]

    def _sweep(self, points: list[list[str]], first: int, script: Entry) -> tuple[Sweep, bool]:
        """Return the sweep of these points, and whether it is only to be shown."""
        places, planner, drafts = Places(), Planner(), []
        words = typed(self._config, "task")
        varying = _varying(points, words)
        for number, overrides in enumerate(points, first):
            point = self._loader.load_sweep_config(self._config, overrides)
            with open_dict(point.hydra.job):
                point.hydra.job.num = number
                point.hydra.job.id = f"{self._id}-{number:04}"
            try:
                drafts.append(_draft(point, overrides, script, places))
                planner.plan(drafts[-1], "")
            except LaunchError as error:
                named = f"point {number} ({' '.join(overrides)}): {error.message}"
                raise type(error)(named, hint=error.hint) from error
        settings = node(point)
        job = drafts[0].job
        sweep = Sweep(
            id=self._id,
            name=job.name,
            runs_dir=job.runs_dir,
            overrides=tuple(masked(each, job.secrets) for each in words),
            keys=tuple(dict.fromkeys(key for values in varying for key in values)),
            rerun_policy=settings["rerun_policy"],
            wait=self._waits(settings),
            drafts=tuple(replace(d, values=each) for d, each in zip(drafts, varying, strict=True)),
            left=(),
            sources=places.sources,
        )
        return sweep, settings["plan"]

    def _waits(self, settings: dict[str, Any]) -> bool:
        """Return whether values are handed back: where nobody says, if the sweeper needs them."""
        if settings["wait"] is not None or settings["detach"] is not None:
            return bool(settings["wait"]) or settings["detach"] is False
        return not issubclass(get_class(self._config.hydra.sweeper["_target_"]), BasicSweeper)


def launch_alone(config: DictConfig, function: TaskFunction) -> int:
    """Launch the one job that Hydra is about to run in this process; return its exit status."""
    from launcher.cli import jobs, report  # noqa: PLC0415

    os.chdir(config.hydra.runtime.cwd)  # it may have entered the job's own folder

    def carried_out() -> int:
        try:
            made, run = _alone(config, function)
        except LaunchError as error:
            raise _placed(error) from error
        if run is None:
            sys.stdout.write(plan_text(made.plan))
            return 0
        return jobs.follow(run, wait=made.job.wait)

    return report(carried_out)


def _alone(config: DictConfig, function: TaskFunction) -> tuple[Prepared, Run | None]:
    from launcher.api import prepared  # noqa: PLC0415

    loader = GlobalHydra.instance().config_loader()
    with entry(function, loader, config) as script:
        folder = str(config.hydra.runtime.output_dir)
        made = prepared(job_of(config, typed(config, "task"), script, folder), {})
        if node(config)["plan"]:
            return made, None
        outputs.vacate(_outputs(made.job))
        run = made.submit(say)
        outputs.own(run.folder.path, folder)
        return made, run


def _draft(point: DictConfig, overrides: list[str], script: Entry, places: Places) -> Draft:
    job = job_of(point, overrides, script, directory(point))
    check(job)
    number, facts = int(point.hydra.job.num), places.facts(job)
    return Draft(number=number, values={}, job=located(job, facts), facts=facts, secrets={})


def _outputs(job: JobSpec) -> str:
    return job.application.outputs if job.application else ""


def _placed(error: LaunchError) -> LaunchError:
    """Return the error with where the keys that it names stand in such an application."""
    if isinstance(error, (ConfigError, PlanError)):
        error.hint = f"{error.hint}\n  {_KEYS}" if error.hint else _KEYS
    return error


def _varying(points: Sequence[Sequence[str]], words: Sequence[str]) -> list[dict[str, str]]:
    """Return what a sweeper chose for each point: what was not typed so, nor is the same in all."""
    chosen = [[parts(each) for each in overrides if each not in words] for overrides in points]
    values: dict[str, set[str | None]] = {}
    for _, key, value in (each for point in chosen for each in point):
        values.setdefault(key, set()).add(value)
    several = {key for key, found in values.items() if len(found) > 1 or len(points) == 1}
    return [{key: value or "" for _, key, value in each if key in several} for each in chosen]


class RunFailedError(LaunchError, CompactHydraException):
    """A run did not succeed, or what it returned cannot be read: Hydra shows no traceback of it."""


def returned(folder: RunFolder, overrides: Sequence[str]) -> JobReturn:
    """Return what a run that has ended handed back; RunFailedError where it did not succeed.

    The error's cause is what the function raised, where that is known.
    """
    status = Run(folder).status
    failed = status.state is not RunState.SUCCEEDED
    done, problem = JobReturn(), ""
    try:
        done = _read(folder.file(RETURN))
    except FileNotFoundError:
        done.status = JobStatus.UNKNOWN if failed else JobStatus.COMPLETED  # it has left early
    except Exception as error:  # noqa: BLE001 - what a class of the user's raises is theirs
        problem = f"what it returned cannot be read: {error}"
    if failed or problem or done.status is JobStatus.FAILED:
        message = f"run {folder.id} {status.state.value}: {status.reason or problem}"
        told = RunFailedError(message, hint=f"launcher show {folder.id}")
        raised = done._return_value  # noqa: SLF001 - `return_value` would raise it
        told.__cause__ = raised if isinstance(raised, BaseException) else None
        done.return_value, done.status = told, JobStatus.FAILED
    done.overrides = list(overrides)
    return done


def _read(path: str) -> JobReturn:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_uid != os.getuid():
            raise PermissionError(f"{path} is another user's")
        found: JobReturn = pickle.load(file)  # noqa: S301 - of a run of our own
        return found
