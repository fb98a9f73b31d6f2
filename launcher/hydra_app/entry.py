"""What a rank runs: the application's own script, or a function that stands in none.

Why the script where there is one: it is in the snapshot, so that a run can be read, run by hand
and run again with another override; a pickled function can only be run again as it was.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra._internal.utils import get_args_parser
from hydra.core.singleton import Singleton

from launcher.errors import ConfigError
from launcher.overrides import parts
from launcher.params import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydra.core.config_loader import ConfigLoader
    from hydra.types import TaskFunction
    from omegaconf import DictConfig

_SCRIPT = "task.py"
# What decides where a job runs, and which jobs there are, is no part of the job.
_OURS = (
    *("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper"),
    *("hydra.mode", "hydra.run", "hydra.sweep"),
)
_IN_RANK = "hydra.callbacks.training_launcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is run: ``entry_script`` in ``source_directory``; None: the configured one.

    ``options``: those of Hydra's command line that it needs again.
    """

    entry_script: str
    source_directory: str | None = None
    options: dict[str, str]


@contextlib.contextmanager
def entry(function: TaskFunction, loader: ConfigLoader, config: DictConfig) -> Iterator[Entry]:
    """Yield what runs ``function``; a pickled one is there until the snapshot is taken."""
    script = _script(function)
    if script is not None:
        yield Entry(entry_script=script, options=_options())
        return
    folder = tempfile.mkdtemp(prefix="launcher-task-")
    try:
        shutil.copyfile(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "pickled.py"),
            os.path.join(folder, _SCRIPT),
        )
        with open(os.path.join(folder, "task.pkl"), "wb") as file:
            _pickle(function, loader, config, file)
        yield Entry(entry_script=_SCRIPT, source_directory=folder, options={})
    finally:
        shutil.rmtree(folder)


def words(config: DictConfig, overrides: Sequence[str], cwd: str) -> dict[str, str | None]:
    """Return the overrides that compose the same job in a rank, by key.

    ``overrides``: the point's own. ``cwd``: where the application was started, as a rank sees it.
    """
    typed = [str(each) for each in config.hydra.overrides.hydra]
    kept = [each for each in typed if not _is_ours(each)]
    own = [
        "hydra/launcher=training",
        "hydra.mode=RUN",
        "hydra.run.dir=${oc.env:LAUNCHER_OUTPUT_DIR}",
        f"{_IN_RANK}.in_rank=true",
    ]
    found: dict[str, str | None] = {}
    for word in (*kept, *overrides, *own):
        mark, key, value = parts(word)
        found[f"{mark}{key}"] = value
    found[f"{_IN_RANK}.cwd"] = quoted(cwd)
    return found


def _is_ours(word: str) -> bool:
    key = parts(word)[1]
    return any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in _OURS)


def _script(function: TaskFunction) -> str | None:
    """Return the entry_script whose main function this is; None: it is of no script."""
    main = sys.modules["__main__"]
    path: str | None = getattr(main, "__file__", None)
    decorated = getattr(main, getattr(function, "__name__", ""), None)
    if path is None or getattr(decorated, "__wrapped__", None) is not function:
        return None
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return f"-m {str(spec.name).removesuffix('.__main__')}"
    return os.path.abspath(path)


def _options() -> dict[str, str]:
    """Return the options of Hydra's command line that say where its configuration is."""
    given, _ = get_args_parser().parse_known_args(sys.argv[1:])
    found = {}
    for name in ("config_name", "config_path", "config_dir"):
        value = getattr(given, name)
        if value is not None:
            found[f"--{name.replace('_', '-')}"] = value
    return found


def _pickle(function: TaskFunction, loader: ConfigLoader, config: DictConfig, file: Any) -> None:
    import cloudpickle  # noqa: PLC0415 - submitit brings it

    state = {
        "singletons": Singleton.get_state(),
        "loader": loader,
        "config": config,
        "function": function,
    }
    try:
        pickle.dump([os.path.abspath(each) for each in sys.path], file)
        cloudpickle.dump(state, file)
    except Exception as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise ConfigError(
            f"{name}: this function cannot be sent to another process: {error}",
            hint="Decorate it with @hydra.main in the script that is started.",
        ) from error
