"""The folders that Hydra gives to points, and the runs whose outputs lie there.

Why a mark in them: a sweep may have the folder of an earlier one (hydra.sweep.dir=results). What an
earlier run wrote there is its own, and goes into that run's folder before another one comes.
"""

from __future__ import annotations

import contextlib
import os
import shutil

_MARK = ".launcher-run"


def vacate(outputs: str) -> None:
    """Have nothing of an earlier run in a folder of outputs; what no run wrote stays."""
    if os.path.islink(outputs):
        os.unlink(outputs)
        return
    try:
        with open(os.path.join(outputs, _MARK), encoding="utf-8") as file:
            owner = file.read().strip()
    except OSError:
        return
    link = os.path.join(owner, "outputs")
    if os.path.islink(link) and os.path.realpath(link) == os.path.realpath(outputs):
        os.unlink(link)
        shutil.move(outputs, link)


def own(run: str, outputs: str) -> None:
    """Mark a folder of outputs as a run's; ``run``: that run's folder."""
    if os.path.realpath(os.path.join(run, "outputs")) == os.path.realpath(outputs):
        with contextlib.suppress(OSError), open(os.path.join(outputs, _MARK), "w") as file:
            file.write(f"{run}\n")


def show(run: str, outputs: str) -> None:
    """Let the outputs of a run that was there before be found in the folder of a new point."""
    there = os.path.realpath(os.path.join(run, "outputs"))
    if there == os.path.realpath(outputs) or not os.path.isdir(there):
        return
    vacate(outputs)
    if not os.path.lexists(outputs):
        os.makedirs(os.path.dirname(outputs), exist_ok=True)
        os.symlink(there, outputs)
