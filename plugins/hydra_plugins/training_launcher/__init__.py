"""hydra/launcher=training: a Hydra application's points as runs of the launcher.

Every Hydra program of the environment imports this: what costs time is imported when it is needed,
and a folder of the user's that has our package's name is no trouble unless we are asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from launcher.hydra_app.launch import Launch

try:
    from launcher.schema import register_application
except ImportError:  # it is hidden: setup() says by what, as soon as somebody wants us
    _NODE = {"_target_": f"{__name__}.TrainingLauncher"}
    ConfigStore.instance().store(group="hydra/launcher", name="training", node=_NODE)
else:
    register_application()


class TrainingLauncher(Launcher):
    """Launches points; each has its own node hydra.launcher, so what is given here is not used."""

    def __init__(self, **_: object) -> None:
        self._launch: Launch | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        import launcher

        try:
            from launcher.hydra_app.launch import Launch
        except ImportError as error:
            raise ImportError(
                f"hydra/launcher=training: {launcher.__file__} hides the launcher's own package, "
                "or that is not installed whole: rename it, or start the script from elsewhere"
            ) from error
        self._launch = Launch(hydra_context, task_function, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        assert self._launch is not None
        return self._launch.points(job_overrides, initial_job_idx)
