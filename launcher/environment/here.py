"""Build a job's environment inside the job: ``python here.py RUN_FOLDER``.

Run by the supervisor before the ranks start, by the interpreter that runs the launcher: what it
needs beside the standard library, such as virtualenv, is found there.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# In place of this file's own folder, whose modules have names that others may want.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from launcher.environment import Environment  # noqa: E402 - now it can be found
from launcher.environment.build import ensure, lock_text  # noqa: E402
from launcher.environment.locate import locate  # noqa: E402
from launcher.errors import LaunchError, ProvisionError  # noqa: E402
from launcher.store import write_atomically  # noqa: E402


def main(folder: str) -> None:
    """Build what build.json in ``folder`` asks for, and write its lock; raise ProvisionError."""
    with open(f"{folder}/build.json", encoding="utf-8") as file:
        asked = json.load(file)
    values: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each
        for name, each in asked["environment"].items()
    }
    prefix = locate(Environment(**values), horovod=asked["horovod"], mpi=asked["mpi"])
    if prefix.path != asked["path"]:
        raise ProvisionError(
            f"this node would build {prefix.path}, the plan says {asked['path']}",
            hint="The node has another Python, MPI or cache folder than the submitting machine: "
            "environment.build_on=submit builds it there.",
        )
    lock = lock_text(ensure(prefix, lambda line: print(f"launcher: {line}", flush=True)))
    write_atomically(f"{folder}/environment.lock", lock)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except LaunchError as error:
        sys.exit(f"launcher: {error}")
