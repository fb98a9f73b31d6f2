"""Shared parts of the tests: golden files, and a user's project to launch from."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Callable

    from xdist.remote import Producer


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


class Lanes(LoadScopeScheduling):
    """Where tests run in several processes: what shares a cluster, or the cores here, is in one."""

    def _split_scope(self, nodeid: str) -> str:
        slurm = re.search(r"\[(none|dbd)\b", nodeid)  # the parameter of `slurm_cluster`
        if slurm:
            return slurm[1]
        path = nodeid.partition("::")[0]
        if path.startswith(("tests/real/test_ssh_", "tests/real/test_leases.py")):
            return path
        shared = {"tests/cluster": "clusters", "tests/packaging": "here", "tests/real": "here"}
        return shared.get(path.rpartition("/")[0], path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    return Lanes(config, log)


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
                out, err = running.communicate(timeout=500)
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
