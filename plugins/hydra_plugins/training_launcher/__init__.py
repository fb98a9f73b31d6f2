"""hydra/launcher=training: a Hydra application's points as runs of the launcher.

Every Hydra program of the environment imports this: what costs time is imported when it is needed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from launcher.schema import register_application

if TYPE_CHECKING:
    from launcher.hydra_app.launch import Launch

register_application()


class TrainingLauncher(Launcher):
    """Launches points; each has its own node hydra.launcher, so what is given here is not used."""

    def __init__(self, **_: object) -> None:
        self._launch: Launch | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from launcher.hydra_app.launch import Launch

        self._launch = Launch(hydra_context, task_function, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self._launch is not None
        return self._launch.points(job_overrides, initial_job_idx)
