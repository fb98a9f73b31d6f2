"""The script of a function that was given to Hydra and stands in no script: of a test, a notebook.

Copied beside ``task.pkl``. Its arguments are those of a Hydra application: overrides.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

RUN_DIR = "hydra.run.dir"


def main() -> int:
    """Run the function as Hydra's own launcher does; return the exit status."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "task.pkl"), "rb") as file:
        path = pickle.load(file)  # noqa: S301 - we wrote it, and git holds its hash
        sys.path += [each for each in path if each not in sys.path]
        state: dict[str, Any] = pickle.load(file)  # noqa: S301
    from hydra._internal.callbacks import Callbacks  # noqa: PLC0415 - once the path is right
    from hydra.core.singleton import Singleton  # noqa: PLC0415
    from hydra.core.utils import JobStatus, run_job, setup_globals  # noqa: PLC0415
    from hydra.types import HydraContext  # noqa: PLC0415

    setup_globals()
    Singleton.set_state(state["singletons"])
    loader = state["loader"]
    config = loader.load_sweep_config(state["config"], sys.argv[1:])
    callbacks = Callbacks(config)
    callbacks.on_run_start(config=config, config_name=config.hydra.job.config_name)
    done = run_job(
        hydra_context=HydraContext(config_loader=loader, callbacks=callbacks),
        task_function=state["function"],
        config=config,
        job_dir_key=RUN_DIR,
        job_subdir_key=None,
    )
    if done.status is JobStatus.COMPLETED:
        return 0
    print(f"{type(done._return_value).__name__}: {done._return_value}", file=sys.stderr)  # noqa: SLF001
    return 1


if __name__ == "__main__":
    sys.exit(main())
