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
    from collections.abc import Iterator

    from hydra.core.utils import JobReturn
    from hydra.types import TaskFunction

RETURN = "return.pkl"  # in the run's folder
_MISSING = object()
_SHOWN = 5  # keys that differ


class RankCallback(Callback):
    """Launches a job that Hydra would run in its own process; in a rank, hands back what it was.

    ``in_rank``: this is a rank's own configuration.
    """

    def __init__(self, *, in_rank: bool = False) -> None:
        self.in_rank = in_rank

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check that the rank's configuration is the one that was launched, and complete it."""
        if self.in_rank:
            complete(config)

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **_: Any) -> None:
        """Launch the job, and end this process with its exit status; within a run, just let it."""
        if not self.in_rank and "LAUNCHER_RUN_ID" not in os.environ:
            from launcher.hydra_app.launch import launch_alone  # noqa: PLC0415 - not in a rank

            raise SystemExit(launch_alone(config, task_function))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:  # noqa: ARG002
        """Write what the function returned or raised into the run's folder."""
        if self.in_rank:
            hand_back(job_return)


def complete(config: DictConfig) -> None:
    """Set what only the launch knew: the job's number, where it was launched, the time.

    SystemExit when the configuration is another one than was launched. A rerun has overrides of
    its own, and nothing to be compared with.
    """
    outputs = os.path.realpath(os.environ["LAUNCHER_OUTPUT_DIR"])
    values: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError), open(_in_run("application.json"), "rb") as file:
        values = json.load(file)
        _compare(values["config"], config)
    with read_write(config), open_dict(config):
        config.hydra.run.dir = outputs
        if values.get("num") is not None:
            config.hydra.job.num = values["num"]
            config.hydra.job.id = values["id"]
        config.hydra.runtime.cwd = values.get("cwd") or config.hydra.runtime.cwd
    cache = OmegaConf.get_cache(config)
    for form, text in values.get("now", ()):
        cache["now"][(form,)] = text
    OmegaConf.set_cache(config, cache)


def _compare(launched: dict[str, Any], config: DictConfig) -> None:
    here = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(here, dict)  # noqa: S101 - a configuration is one
    del here["hydra"]
    here = json.loads(json.dumps(here, default=str))
    if here == launched:
        return
    told = [f"  {key}: {one} launched, {two} here" for key, one, two in _differ(launched, here)]
    more = f"\n  and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    raise SystemExit(
        "launcher: the run's code composes another configuration than was launched:\n"
        + "\n".join(told[:_SHOWN])
        + f"{more}\n  A file that git ignores, or one outside source_directory, is in no snapshot."
    )


def _differ(one: Any, two: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield the key of each value that differs, and what it is in both."""
    if isinstance(one, dict) and isinstance(two, dict):
        for key in dict.fromkeys((*one, *two)):
            name = f"{path}.{key}" if path else str(key)
            yield from _differ(one.get(key, _MISSING), two.get(key, _MISSING), name)
    elif one != two:
        told = ["nothing" if each is _MISSING else repr(each) for each in (one, two)]
        yield path, told[0], told[1]


def hand_back(done: JobReturn) -> None:
    """Write ``done`` into the run's folder, from rank 0 only; its configurations as plain ones.

    Hydra executes plugins twice: a configuration whose types are theirs cannot be pickled.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    done = copy.copy(done)
    done.cfg, done.hydra_cfg = _plain(done.cfg), _plain(done.hydra_cfg)
    try:
        data = _dumped(done)
        pickle.loads(data)  # noqa: S301 - some exceptions can be written and not be read
    except Exception as error:  # noqa: BLE001 - a class of the user's may raise anything
        what = done._return_value  # noqa: SLF001 - what `return_value` would raise is wanted too
        raised = isinstance(what, BaseException)
        if not raised:
            name = type(what).__name__
            print(f"launcher: {name} cannot be handed back: {error}", file=sys.stderr)
        done.return_value = RuntimeError(f"{type(what).__name__}: {what}") if raised else None
        data = _dumped(done)
    new = _in_run(f"{RETURN}.{os.getpid()}.new")
    with open(new, "wb") as file:
        file.write(data)
    os.replace(new, _in_run(RETURN))


def _dumped(done: JobReturn) -> bytes:
    try:
        import cloudpickle  # noqa: PLC0415 - where it is there, classes of scripts travel too
    except ImportError:
        return pickle.dumps(done)
    return bytes(cloudpickle.dumps(done))


def _plain(config: DictConfig | None) -> DictConfig | None:
    if config is None:
        return None
    return DictConfig(OmegaConf.to_container(config, enum_to_str=True))


def _in_run(name: str) -> str:
    return os.path.join(os.environ["LAUNCHER_RUN_DIR"], name)
