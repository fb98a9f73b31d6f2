"""Shared parts of the tests: golden files, and a user's project to launch from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


# A cluster, or the ssh hosts, are up once for all files that use them.
pytest_plugins = (
    "tests.cluster.fixtures",
    "tests.real.slurm",
    "tests.real.ssh",
    "tests.real.terminal",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")


def pytest_configure() -> None:
    # A shell starts what it puts in the background deaf to Ctrl-C, and so all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _lane(item: pytest.Item) -> str:
    """Return the name of what has to run in one process: it shares a cluster, or the cores here."""
    fixtures: list[str] = getattr(item, "fixturenames", [])
    if "slurm_cluster" in fixtures:
        return f"slurm-{item.callspec.params['slurm_cluster']}"  # type: ignore[attr-defined]
    if "ssh_hosts" in fixtures:
        return str(item.path)
    shared = {"cluster": "clusters", "packaging": "here", "real": "here"}
    return shared.get(item.path.parent.name, str(item.path))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist itself looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell pytest-xdist, where it runs the tests in several processes, what stays together."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_lane(item)))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare text with a golden file to the byte; a missing file fails."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        assert path.exists(), f"{path} is missing: pytest --update-golden writes it"
        assert text == path.read_text("utf-8")

    return compare


def _first_line(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0]


@dataclass(frozen=True)
class Project:
    """A user's project folder, and the launcher's command line run in it."""

    path: Path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    def copy_example(self, name: str) -> None:
        source = Path(__file__).parents[1] / "examples" / name
        leave = shutil.ignore_patterns("runs", "__pycache__")  # of somebody's first run there
        shutil.copytree(source, self.path, dirs_exist_ok=True, ignore=leave)

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher", *words],
            cwd=self.path,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def launch(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **env) as running:
            try:
                out, err = running.communicate(timeout=300)
            except BaseException:
                running.kill()
                raise
        return subprocess.CompletedProcess(words, running.returncode, out, err)

    @property
    def runs(self) -> list[Path]:
        """The folders of runs that are recorded or on their way, in the order of their submits."""
        events = self.path.glob("runs/*/events.jsonl")
        found = [each.parent for each in events if "\n" in each.read_text("utf-8")]
        return sorted(found, key=lambda run: json.loads(_first_line(run / "events.jsonl"))["time"])

    @property
    def run(self) -> Path:
        (only,) = self.runs
        return only


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep runs and stores apart from the user's; the cache of environments is shared."""
    monkeypatch.setenv("LAUNCHER_STORE", str(tmp_path / "store.git"))
    monkeypatch.delenv("LAUNCHER_RUNS", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty folder, which is the current one too."""
    path = tmp_path / "project"
    path.mkdir()
    monkeypatch.chdir(path)
    return Project(path)


@pytest.fixture
def git_project(project: Project) -> Project:
    """A project that is a git repository with one commit."""
    project.write("train.py", "print('hello')\n")
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        ("-c", "user.name=u", "-c", "user.email=u@example.org", "commit", "-qm", "first"),
    ):
        subprocess.run(["git", *words], cwd=project.path, check=True)
    return project
