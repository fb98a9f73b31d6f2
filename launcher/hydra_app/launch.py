"""Points of a Hydra application -> runs -> what they returned."""

from __future__ import annotations

import contextlib
import os
import pickle
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.utils import get_class
from omegaconf import open_dict

from launcher.cli.words import runs_dir_option, say
from launcher.errors import ConfigError, LaunchError, PlanError
from launcher.hydra_app.callback import RETURN
from launcher.hydra_app.entry import entry
from launcher.hydra_app.jobs import directory, job_of, node
from launcher.job import RunState
from launcher.overrides import parts
from launcher.plan import check
from launcher.run import Run
from launcher.store import RunFolder, new_run_id, write_atomically
from launcher.sweep import show
from launcher.sweep.places import Places
from launcher.sweep.plan import Draft, Planner
from launcher.sweep.submit import Sweep, submit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from launcher.api import Prepared
    from launcher.hydra_app.entry import Entry
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
        hide(str(self._config.hydra.sweep.dir))
        try:
            with entry(self._function, self._loader, self._config) as script:
                sweep = self._sweep([list(each) for each in points], first, script)
                done = submit(sweep, say)
            *queued, verbs = show.queued_lines(sweep, done, runs_dir_option(sweep.runs_dir))
            for line in (*queued, *([] if first else [verbs])):
                say(line)
            runs = {each.point: each.run for each in done.folder.entries()}
            folders = [RunFolder(done.folder.run_path(runs[e.number])) for e in sweep.drafts]
            for draft, folder in zip(sweep.drafts, folders, strict=True):
                _show(folder, draft.job.outputs)
        except LaunchError as error:
            raise CompactHydraException(f"launcher: {_placed(error)}\n") from error
        return self._returned(done.folder, folders, points) if sweep.wait else []

    def _returned(
        self, sweep: SweepFolder, folders: Sequence[RunFolder], points: Sequence[Sequence[str]]
    ) -> list[JobReturn]:
        from launcher.sweep.live import watched  # noqa: PLC0415 - rich, for who waits

        if watched(sweep, say, "", self._told) is None:
            raise KeyboardInterrupt
        return [returned(each, words) for each, words in zip(folders, points, strict=True)]

    def _sweep(self, points: list[list[str]], first: int, script: Entry) -> Sweep:
        places, planner = Places(), Planner()
        typed = [str(each) for each in self._config.hydra.overrides.task]
        drafts = []
        for number, overrides in enumerate(points, first):
            point = self._loader.load_sweep_config(self._config, overrides)
            with open_dict(point.hydra.job):
                point.hydra.job.num = number
                point.hydra.job.id = f"{self._id}-{number:04}"
            try:
                job, secrets = job_of(point, overrides, script, directory(point))
                check(job)
                facts = places.facts(job)
                varying = _varying(overrides, typed)
                draft = Draft(number=number, values=varying, job=job, facts=facts, secrets=secrets)
                planner.plan(draft, "")
            except LaunchError as error:
                named = f"point {number} ({' '.join(overrides)}): {error.message}"
                raise type(error)(named, hint=error.hint) from error
            drafts.append(draft)
        settings = node(point)
        return Sweep(
            id=self._id,
            name=drafts[0].job.name,
            runs_dir=drafts[0].job.runs_dir,
            overrides=tuple(typed),
            keys=tuple(dict.fromkeys(key for draft in drafts for key in draft.values)),
            rerun_policy=settings["rerun_policy"],
            wait=self._waits(settings),
            drafts=tuple(drafts),
            left=(),
            sources=places.sources,
        )

    def _waits(self, settings: dict[str, Any]) -> bool:
        """Return whether values are handed back: where nobody says, if the sweeper needs them."""
        if settings["wait"] is not None or settings["detach"] is not None:
            return bool(settings["wait"]) or settings["detach"] is False
        return not issubclass(get_class(self._config.hydra.sweeper["_target_"]), BasicSweeper)


def launch_alone(config: DictConfig, function: TaskFunction) -> int:
    """Launch the one job that Hydra is about to run in this process; return its exit status."""
    from launcher.cli import jobs, report  # noqa: PLC0415

    os.chdir(config.hydra.runtime.cwd)  # it may have entered the job's own folder
    hide(str(config.hydra.runtime.output_dir))

    def carried_out() -> int:
        try:
            made, run = _alone(config, function)
        except LaunchError as error:
            raise _placed(error) from error
        return jobs.follow(run, wait=made.job.wait)

    return report(carried_out)


def _alone(config: DictConfig, function: TaskFunction) -> tuple[Prepared, Run]:
    from launcher.api import prepared  # noqa: PLC0415

    loader = GlobalHydra.instance().config_loader()
    with entry(function, loader, config) as script:
        overrides = [str(each) for each in config.hydra.overrides.task]
        outputs = str(config.hydra.runtime.output_dir)
        made = prepared(*job_of(config, overrides, script, outputs))
        return made, made.submit(say)


def _placed(error: LaunchError) -> LaunchError:
    """Return the error with where the keys that it names stand in such an application."""
    if isinstance(error, (ConfigError, PlanError)):
        error.hint = f"{error.hint}\n  {_KEYS}" if error.hint else _KEYS
    return error


def _varying(overrides: Sequence[str], typed: Sequence[str]) -> dict[str, str]:
    """Return what a sweeper chose for a point: what was not typed so."""
    chosen = (parts(each) for each in overrides if each not in typed)
    return {key: value or "" for _, key, value in chosen}


def _show(folder: RunFolder, outputs: str) -> None:
    """Let the outputs of a run that was there before be found where Hydra would have put them."""
    there = os.path.realpath(folder.file("outputs"))
    if outputs and not os.path.lexists(outputs) and os.path.isdir(there):
        os.makedirs(os.path.dirname(outputs), exist_ok=True)
        os.symlink(there, outputs)


def hide(folder: str) -> None:
    """Keep a folder of outputs that was just made out of git, and so out of the next snapshot."""
    with contextlib.suppress(OSError):
        there = {name for name in os.listdir(folder) if not name.endswith(".log")}
        if there <= {"multirun.yaml", ".hydra"}:
            write_atomically(os.path.join(folder, ".gitignore"), "*\n")


def returned(folder: RunFolder, overrides: Sequence[str]) -> JobReturn:
    """Return what a run that has ended handed back; an error where it handed nothing back."""
    status = Run(folder).status
    done = JobReturn()
    try:
        with open(folder.file(RETURN), "rb") as file:
            done = pickle.load(file)  # noqa: S301 - of a run of our own
        reason = ""
    except (OSError, ImportError, AttributeError, ValueError, pickle.UnpicklingError) as error:
        reason = f"what it returned cannot be read: {error}"
    failed = status.state is not RunState.SUCCEEDED
    if reason or (failed and done.status is not JobStatus.FAILED):
        told = status.reason or reason if failed else reason
        message = f"run {folder.id} {status.state.value}: {told}"
        done.return_value = LaunchError(message, hint=f"launcher show {folder.id}")
        done.status = JobStatus.FAILED
    done.overrides = list(overrides)
    return done
