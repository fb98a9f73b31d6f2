"""What Hydra applications have written into a source directory is none of its source."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_OF_A_JOB, _OF_A_SWEEP = "/.hydra/hydra.yaml", "/multirun.yaml"


def written_by_hydra(untracked: Iterable[str]) -> set[str]:
    """Return the names, of files that git does not track, that lie in folders of Hydra's outputs.

    Such a folder has Hydra's own record in it: outputs/DATE/TIME, multirun/DATE/TIME.
    """
    names = set(untracked)
    folders = {
        name.removesuffix(mark)
        for name in names
        for mark in (_OF_A_JOB, _OF_A_SWEEP)
        if name.endswith(mark)
    }
    return {name for name in names if folders and not folders.isdisjoint(_above(name))}


def _above(name: str) -> set[str]:
    """Return the folders that a name is in."""
    found = set()
    while name := os.path.dirname(name):
        found.add(name)
    return found
