"""What Hydra calls in the processes of an application that has hydra/launcher=training.

Why a callback: without -m Hydra runs a job in its own process, and asks no launcher. Copied into
the run's folder: a rank needs nothing of the launcher but this and schema.py.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import TaskFunction

RETURN = "return.pkl"  # in the run's folder


class RankCallback(Callback):
    """Launches a job that Hydra would run in its own process; in a rank, hands back what it was.

    ``in_rank``: this is a rank. ``cwd``: where the application was started; "": on another machine.
    """

    def __init__(self, *, in_rank: bool = False, cwd: str = "") -> None:
        self.in_rank = in_rank
        self.cwd = cwd

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Let the rank's configuration say of the job what the sweep's does."""
        if self.in_rank:
            complete(config, self.cwd)

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **_: Any) -> None:
        """Launch the job, and end this process with its exit status."""
        if not self.in_rank:
            from launcher.hydra_app.launch import launch_alone  # noqa: PLC0415 - not in a rank

            raise SystemExit(launch_alone(config, task_function))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:  # noqa: ARG002
        """Write what the function returned or raised into the run's folder."""
        if self.in_rank:
            hand_back(job_return)


def complete(config: DictConfig, cwd: str) -> None:
    """Set what only the run knows: the job's number and id, and where it was launched."""
    with open(_in_run("run.json"), encoding="utf-8") as file:
        run = json.load(file)
    with read_write(config), open_dict(config):
        config.hydra.job.id = run["id"]
        config.hydra.job.num = run["point"] or 0
        config.hydra.runtime.cwd = cwd or config.hydra.runtime.cwd


def hand_back(done: JobReturn) -> None:
    """Write ``done`` into the run's folder, from rank 0 only; its configurations as plain ones.

    Hydra executes plugins twice: a configuration whose types are theirs cannot be pickled.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    done = copy.copy(done)
    done.cfg, done.hydra_cfg = _plain(done.cfg), _plain(done.hydra_cfg)
    try:
        data = pickle.dumps(done)
    except Exception as error:  # noqa: BLE001 - a class of the user's may raise anything
        what = done._return_value  # noqa: SLF001 - what `return_value` would raise is wanted too
        print(f"launcher: {type(what).__name__} cannot be handed back: {error}", file=sys.stderr)
        raised = isinstance(what, BaseException)
        done.return_value = RuntimeError(f"{type(what).__name__}: {what}") if raised else None
        data = pickle.dumps(done)
    new = _in_run(f"{RETURN}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    with open(new, "wb") as file:
        file.write(data)
    os.replace(new, _in_run(RETURN))


def _plain(config: DictConfig | None) -> DictConfig | None:
    if config is None:
        return None
    return DictConfig(OmegaConf.to_container(config, enum_to_str=True))


def _in_run(name: str) -> str:
    return os.path.join(os.environ["LAUNCHER_RUN_DIR"], name)
