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
from omegaconf import OmegaConf

from launcher.errors import ConfigError
from launcher.overrides import parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from hydra.core.config_loader import ConfigLoader
    from hydra.types import TaskFunction
    from omegaconf import DictConfig

_SCRIPT = "task.py"
_CALL = "launcher.hydra_app.call"
_VARIABLES = "hydra.launcher.env"  # a rank has them already; their values are in no argument
_ADDED = "hydra.callbacks.training_launcher.in_rank=true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is run: ``entry_script`` in ``source_directory``; None: the configured one.

    ``words``: what it needs on its command line beside overrides.
    """

    entry_script: str
    source_directory: str | None = None
    words: tuple[str, ...] = ()


@contextlib.contextmanager
def entry(function: TaskFunction, loader: ConfigLoader, config: DictConfig) -> Iterator[Entry]:
    """Yield what runs ``function``; a pickled one is there until the snapshot is taken."""
    known = _known(function)
    if known is not None:
        yield known
        return
    folder = tempfile.mkdtemp(prefix="launcher-task-")
    try:
        shutil.copyfile(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), "pickled.py"),
            os.path.join(folder, _SCRIPT),
        )
        with open(os.path.join(folder, "task.pkl"), "wb") as file:
            _pickle(function, loader, config, file)
        yield Entry(entry_script=_SCRIPT, source_directory=folder)
    finally:
        shutil.rmtree(folder)


def words(config: DictConfig, overrides: Sequence[str]) -> dict[str, str | None]:
    """Return the overrides that compose the same job in a rank, by key.

    ``overrides``: the point's own.
    """
    own = ("hydra.mode=RUN", "hydra.run.dir=${oc.env:LAUNCHER_OUTPUT_DIR}", _ADDED)
    found: dict[str, str | None] = {}
    for word in (*typed(config, "hydra"), *overrides, *own):
        mark, key, value = parts(word)
        if key != _VARIABLES and not key.startswith(f"{_VARIABLES}."):
            found[f"{mark}{key}"] = value
    return found


def typed(config: DictConfig, kind: str) -> list[str]:
    """Return the overrides of a kind, ``hydra`` or ``task``, as they were typed."""
    found = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    return list(map(str, found))  # type: ignore[arg-type]


def _known(function: TaskFunction) -> Entry | None:
    """Return how a function is run that has a script, or a name; None where it has neither."""
    main = sys.modules["__main__"]
    path: str | None = getattr(main, "__file__", None)
    name, module = getattr(function, "__name__", ""), getattr(function, "__module__", "")
    if path is not None and _decorated(main, name) is function and module == "__main__":
        spec = getattr(main, "__spec__", None)
        named = "" if spec is None else str(spec.name).removesuffix(".__main__")
        script = f"-m {named}" if named else os.path.abspath(path)
        return Entry(entry_script=script, words=_words())
    if _decorated(sys.modules.get(module), name) is function:  # a console script's
        return Entry(entry_script=f"-m {_CALL}", words=(f"{module}:{name}", *_words()))
    return None


def _decorated(module: ModuleType | None, name: str) -> object:
    """Return what ``@hydra.main`` decorates under that name."""
    return getattr(getattr(module, name, None), "__wrapped__", None)


def _words() -> tuple[str, ...]:
    """Return the words of the command line that are no overrides and that Hydra heeds not alone.

    Those that the script has taken out of ``sys.argv`` for itself come first, then what says where
    the configuration is.
    """
    left, own = list(sys.argv[1:]), []
    for word in _given():
        if word in left:
            left.remove(word)
        else:
            own.append(word)
    options, _ = get_args_parser().parse_known_args(sys.argv[1:])
    for name in ("config_name", "config_path", "config_dir"):
        if getattr(options, name) is not None:
            own += [f"--{name.replace('_', '-')}", getattr(options, name)]
    return tuple(own)


def _given() -> list[str]:
    """Return the words that followed the script's, or the module's, on the command line."""
    at = 1
    while at < len(sys.orig_argv):
        word = sys.orig_argv[at]
        at += 1
        if word in ("-m", "-c"):
            at += 1
            break
        if not word.startswith("-"):
            break
        at += word in ("-X", "-W")
    return sys.orig_argv[at:]


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
