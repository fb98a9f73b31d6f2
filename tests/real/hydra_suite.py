"""Hydra's own tests of launchers, against ours: run by test_hydra_app.py, once for each compute.

The environment variable SUITE_OVERRIDES has what chooses the compute.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import (
    BatchedSweeperTestSuite,
    IntegrationTestSuite,
    LauncherTestSuite,
)

if TYPE_CHECKING:
    from pathlib import Path

NAME = "training"
OVERRIDES = [*os.environ["SUITE_OVERRIDES"].split(), "hydra.launcher.wait=true"]
pytestmark = pytest.mark.filterwarnings("default")  # its own tests warn of its own changes


@pytest.fixture(autouse=True)
def _apart(tmpdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test runs of its own: what another one has launched would not run again."""
    monkeypatch.setenv("LAUNCHER_RUNS", f"{tmpdir}-runs")
    monkeypatch.setenv("LAUNCHER_STORE", f"{tmpdir}-store.git")


def test_is_found() -> None:
    found = [each.__name__ for each in Plugins.instance().discover(Launcher)]
    assert "TrainingLauncher" in found


@pytest.mark.parametrize(("launcher_name", "overrides"), [(NAME, OVERRIDES)])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize(
    ("launcher_name", "overrides"), [(NAME, [*OVERRIDES, "hydra.sweeper.max_batch_size=2"])]
)
class TestBatches(BatchedSweeperTestSuite):
    pass


@pytest.mark.parametrize(
    ("task_launcher_cfg", "extra_flags"),
    [
        ({}, ["-m", f"hydra/launcher={NAME}", *OVERRIDES]),
        (
            {"defaults": [{"override hydra/launcher": NAME}], "hydra": {"launcher": {"nodes": 1}}},
            ["-m", *OVERRIDES],
        ),
    ],
    ids=["command line", "configuration"],
)
class TestIntegration(IntegrationTestSuite):
    pass
