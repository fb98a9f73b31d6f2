"""Building an environment: the planned commands, in order, under a lock -> a ready Prefix."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from launcher import process
from launcher.environment import answers, lock, wheel
from launcher.environment.locate import LOCK, MARKER, locate, read
from launcher.environment.locked import held
from launcher.environment.machine import mpi_line, mpi_version
from launcher.environment.steps import WHEEL_ROLES, Step, steps
from launcher.errors import ProvisionError
from launcher.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.environment.locate import Prefix
    from launcher.environment.recipe import Recipe

_LAST_LINES, _FIRST_LINES = 20, 5
_ERROR = re.compile(r"CMake Error|\b(?:error|Error): (?!subprocess-exited)")
_HINTS = {
    "create": "environment.python says which interpreter it is made from.",
    "install": "environment.torch, pip_packages and pip_args say what is installed; pip's own "
    "configuration says from where.",
    "wheel": "environment.horovod and environment.mpi say what is built. To use a Horovod that you "
    "installed yourself: environment.provision=current.",
}
_FULL = os.strerror(errno.ENOSPC)
_HINT_FULL = "LAUNCHER_CACHE, on ssh hosts compute.workdir=/path, names a folder with room for it."


def ensure(prefix: Prefix, say: Callable[[str], None]) -> Prefix:
    """Return ``prefix`` ready: built with its own commands when it is not there.

    ``say`` gets one line a step. Two that build the same at once: one builds, the other waits.
    ProvisionError: a command failed; the log is kept, what was built is not.
    """
    recipe = prefix.recipe
    if recipe is None:
        return prefix
    if prefix.ready:
        _remember(recipe)
        if prefix.path:
            answers.touch(Path(prefix.path) / MARKER)
        return prefix
    log = Path(recipe.log)
    try:
        with held(
            log, lambda: say(f"waiting for another build of {recipe.key} (log: {log})")
        ) as to:
            found = read(recipe)
            if found:
                return found
            started = time.monotonic()
            Build(recipe=recipe, log=to, say=say).run()
            _remember(recipe)
            say(f"environment {recipe.key}: done in {time.monotonic() - started:.0f} s")
    except OSError as error:
        raise ProvisionError(
            f"an environment cannot be built in {recipe.machine.cache}: {error}",
            hint=_HINT_FULL,
        ) from error
    return replace(read(recipe) or prefix, ready=True)


def lock_text(prefix: Prefix) -> str:
    """Return everything that is installed in a ready ``prefix``, as JSON text in stable order."""
    if prefix.path:
        return (Path(prefix.path) / LOCK).read_text("utf-8")
    recipe = prefix.recipe
    if recipe is None:
        return ""
    question = f"lock of {prefix.python} with {prefix.mpirun}"
    about = (prefix.python, prefix.mpirun, *recipe.machine.python.site)
    text = answers.recall(question, about)
    if not text:
        text = lock.of_current(recipe, prefix.mpirun)
        answers.keep(question, about, text)
    return text


def _remember(recipe: Recipe) -> None:
    """Look once more, and keep what other programs answered: the next launch need not ask."""
    locate(recipe.environment, horovod=recipe.horovod, mpi=recipe.mpi, remember=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One build, whose lock is held."""

    recipe: Recipe
    log: IO[bytes]
    say: Callable[[str], None]

    def run(self) -> None:
        """Build and publish; on any failure leave nothing but the log."""
        recipe = self.recipe
        self.log.truncate(0)
        self._clear()  # what a killed build left
        if recipe.needs_horovod and not wheel.is_likely(recipe):
            wheel.check(recipe)
        self.say(f"environment {recipe.key} is built, once (log: {recipe.log})")
        planned = steps(recipe)
        try:
            for step in planned:
                if step.role == WHEEL_ROLES[0]:
                    self._wheel([each for each in planned if each.role in WHEEL_ROLES])
                elif step.role not in WHEEL_ROLES:
                    self._run(step)
            self._publish()
        except BaseException:
            self._clear()
            raise
        shutil.rmtree(recipe.work, ignore_errors=True)

    def _wheel(self, making: list[Step]) -> None:
        """Have Horovod's wheel: from the cache, or built here and put into it."""
        recipe = self.recipe
        if recipe.environment.kind == "gpu":
            wheel.check_gpu(recipe)
        folder = wheel.folder(recipe)
        lock_file = folder.with_name(f"{folder.name}.lock")
        with held(lock_file, lambda: self.say("waiting for another build of Horovod's wheel")):
            if wheel.fetch(recipe):
                self.say("Horovod's wheel: from the cache")
                return
            wheel.check(recipe)
            started = time.monotonic()
            for step in making:
                self._run(step)
            wheel.publish(recipe, seconds=time.monotonic() - started)

    def _run(self, step: Step) -> None:
        self.say(f"{step.says} ...")
        self.log.write(f"$ {shell_line(step.argv)}\n".encode("utf-8", "surrogateescape"))
        started = time.monotonic()

        def still() -> None:
            self.say(f"{step.says}: {(time.monotonic() - started) / 60:.0f} min so far")

        status = process.run_logged(step.argv, log=self.log, env={}, still=still)
        if status:
            end = _end(Path(self.recipe.log).read_text("utf-8", "replace"))
            hint = _HINT_FULL if _FULL in end else _HINTS.get(step.role, _HINTS["install"])
            raise ProvisionError(
                f"{step.says}: failed with exit status {status}; the log {self.recipe.log} ends\n"
                f"{end}",
                hint=hint,
            )

    def _publish(self) -> None:
        """Write the lock, and last of all the marker: then the environment is there."""
        recipe = self.recipe
        folder = Path(recipe.path)
        mpirun = f"{recipe.path}/bin/mpirun" if recipe.own_mpi else recipe.machine.mpirun
        mpirun = mpirun if recipe.mpi else ""
        answers.write(folder / LOCK, lock.of_built(recipe, mpirun))
        marker = {
            "path": recipe.path,
            "key": recipe.key,
            "content": recipe.content,
            "mpi_version": mpi_version(mpi_line(mpirun, remember=True)),
            "created": time.time(),
            "bytes": _size(folder),
        }
        answers.write(folder / MARKER, json.dumps(marker, indent=1) + "\n")

    def _clear(self) -> None:
        shutil.rmtree(self.recipe.path, ignore_errors=True)
        shutil.rmtree(self.recipe.work, ignore_errors=True)


def _end(log: str) -> str:
    """Return the last lines of the last command in ``log``, after its first error if that is above.

    A compiler's message stands hundreds of lines above the traceback of the tool that ran it.
    """
    lines = log.rpartition("\n$ ")[2].splitlines()
    last = lines[-_LAST_LINES:]
    above = [n for n, line in enumerate(lines[:-_LAST_LINES]) if _ERROR.search(line)]
    if above:
        last = [*lines[above[0] : above[0] + _FIRST_LINES], "...", *last]
    return "\n".join(f"  {line}" for line in last)


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
