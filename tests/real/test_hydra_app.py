"""Hydra applications of a user's own, whose points are launched by hydra/launcher=training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.api import rerun
from tests.real.conftest import log, state, until

if TYPE_CHECKING:
    from tests.conftest import Project
    from tests.real.slurm import UserProject

SUITE = Path(__file__).with_name("hydra_suite.py")
ROOT = Path(__file__).parents[2]
TRAINING = "hydra/launcher=training"
APP = """\
import os
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    job = HydraConfig.get()
    num = OmegaConf.select(job, "job.num", throw_on_missing=False)
    with open(os.path.join(job.runtime.output_dir, "said"), "a") as file:
        file.write(f"{os.environ['LAUNCHER_RUN_ID']} {os.environ.get('RANK', '0')} {cfg.lr}\\n")
    print("lr", cfg.lr, "of", os.environ.get("WORLD_SIZE", "1"), "job", num, flush=True)
    if cfg.lr < 0:
        raise ValueError("lr below 0")
    return cfg.lr * 2

if __name__ == "__main__":
    main()
"""


def application(project: Project, config: str = "lr: 1\nnodes: 1\n") -> None:
    project.write("app.py", APP)
    project.write("conf/config.yaml", config)


def start(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    words = (sys.executable, "app.py", *words)
    return subprocess.run(words, cwd=project.path, capture_output=True, text=True, check=False)


def said(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "said").read_text().splitlines()]


def passed(done: subprocess.CompletedProcess[str]) -> None:
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "33 passed" in last, last
    assert "skipped" not in last


def test_hydras_own_tests_of_launchers(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE))
    env = {**os.environ, "SUITE_OVERRIDES": "hydra/launcher/compute=local"}
    words = (*words, "--basetemp", str(tmp_path / "suite"), "--rootdir", str(tmp_path))
    passed(
        subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    )


@pytest.mark.parametrize("slurm_cluster", ["none"], indirect=True)
def test_hydras_own_tests_of_launchers_on_slurm(user: UserProject) -> None:
    user.write("hydra_suite.py", SUITE.read_text())
    env = {"SUITE_OVERRIDES": "hydra/launcher/compute=slurm", "PYTHONDONTWRITEBYTECODE": "1"}
    words = (user.venv / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    words = (*words, "hydra_suite.py", "--basetemp", user.path / "suite")
    passed(user.cluster.run(words, cwd=user.path, env={**user.env, **env}, timeout_s=1100))


def test_one_job_without_a_sweep_is_a_run(project: Project) -> None:
    application(project)
    done = start(project, TRAINING, "lr=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "lr 3 of 1 job None\n"
    (output,) = project.path.glob("outputs/*/*")
    assert said(output) == [[project.run.name, "0", "3"]]
    assert state(project.run) == "SUCCEEDED"
    # Also where the application's own configuration chooses us.
    application(project, "defaults:\n  - override hydra/launcher: training\n  - _self_\nlr: 1\n")
    failed = start(project, "lr=-1")
    assert failed.returncode == 1
    assert "ValueError: lr below 0" in failed.stdout
    assert len(project.runs) == 2


def test_points_are_runs_and_none_is_launched_twice(project: Project) -> None:
    application(project)
    done = start(project, "-m", TRAINING, "lr=1,2", "hydra.launcher.wait=true")
    assert done.returncode == 0, done.stderr
    (sweep,) = project.path.glob("multirun/*/*")
    first = [run.name for run in project.runs]
    assert said(sweep / "0") == [[first[0], "0", "1"]]
    assert said(sweep / "1") == [[first[1], "0", "2"]]
    assert (sweep / "0" / ".hydra" / "overrides.yaml").read_text() == "- lr=1\n"
    # The folder of another sweep bears another second's name.
    until(lambda: time.strftime("%Y-%m-%d/%H-%M-%S") != "/".join(sweep.parts[-2:]))
    again = start(project, "-m", TRAINING, "lr=2,3", "hydra.launcher.wait=true")
    assert "1 point is there already (1 SUCCEEDED)" in again.stderr
    second = [each for each in project.path.glob("multirun/*/*") if each != sweep]
    assert said(second[0] / "0") == said(sweep / "1")  # found where Hydra would have put it
    assert len(project.runs) == 3
    listed = project.launch("runs", "--sweep", "@last", "--json")
    assert [each["values"] for each in json.loads(listed.stdout)] == [{"lr": "2"}, {"lr": "3"}]


def test_it_returns_at_once_where_nobody_waits(project: Project) -> None:
    application(project)
    done = start(project, "-m", TRAINING, "lr=1,2")
    assert done.returncode == 0, done.stderr
    assert project.launch("wait", *[run.name for run in project.runs]).returncode == 0
    assert [state(run) for run in project.runs] == ["SUCCEEDED"] * 2


def test_a_point_that_fails_fails_the_sweep(project: Project) -> None:
    application(project)
    done = start(project, "-m", TRAINING, "lr=1,-1", "hydra.launcher.wait=true")
    assert done.returncode == 1
    assert "lr below 0" in done.stderr
    assert [state(run) for run in project.runs] == ["SUCCEEDED", "FAILED"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("hydra.launcher.nodes=2",), ("nodes=2: dist=single is one process", "point 0 (lr=1)")),
        (("hydra.launcher.dist=null",), ("dist=None: an option is needed", "hydra/launcher/GROUP")),
        (("hydra.launcher.node=2",), ("node", "hydra.launcher")),
        (("hydra/launcher/compute=slurn",), ("slurn", "slurm")),
        (("hydra.launcher.compute.time=soon",), ("compute.time=soon: not a time",)),
        (("hydra.launcher.source_directory=conf",), ("not a file inside source_directory",)),
    ],
)
def test_what_cannot_be_launched_leaves_nothing(
    project: Project, words: tuple[str, ...], told: tuple[str, ...]
) -> None:
    application(project)
    for how in ((), ("-m",)):
        done = start(project, *how, TRAINING, "lr=1", *words)
        assert done.returncode in (1, 2)
        for each in told:
            assert each in done.stderr or (not how and each.startswith("point"))
        assert "Traceback" not in done.stderr
    assert project.runs == []


def test_a_point_runs_again_with_another_value(project: Project) -> None:
    application(project)
    assert start(project, TRAINING, "lr=3").returncode == 0
    (output,) = project.path.glob("outputs/*/*")
    (project.path / "app.py").unlink()
    again = rerun("@last", "script_params.lr=5")
    assert again.wait(300).value == "SUCCEEDED"
    assert again.logs() == "lr 5 of 1 job None\n"
    own = Path(again.folder.file("outputs"))
    assert said(own) == [[again.id, "0", "5"]]
    assert len(said(output)) == 1  # what it repeats is left alone


def test_an_application_that_is_a_module(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/train.py", APP)
    project.write("pkg/conf/other.yaml", "lr: 7\n")
    words = (sys.executable, "-m", "pkg.train", "--config-name", "other", TRAINING)
    done = subprocess.run(words, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.stdout == "lr 7 of 1 job None\n", done.stderr


@pytest.mark.parametrize("slurm_cluster", ["none"], indirect=True)
def test_each_point_has_its_own_resources(user: UserProject) -> None:
    application(user)
    words = (TRAINING, "nodes=1,2", "hydra/launcher/compute=slurm", "hydra/launcher/dist=mpi")
    words += ("hydra.launcher.nodes=${nodes}", "hydra.launcher.dist.horovod=false")
    python = user.venv / "bin" / "python"
    line = (python, "app.py", "-m", *words, "hydra.launcher.wait=true")
    done = user.cluster.run(line, cwd=user.path, env=user.env)
    assert done.returncode == 0, done.stderr
    assert "2 runs queued as 2 job arrays" in done.stderr
    (sweep,) = user.path.glob("multirun/*/*")
    assert len(said(sweep / "0")) == 1
    assert sorted(rank for _, rank, _ in said(sweep / "1")) == ["0", "1"]
    assert "lr 1 of 2 job 1" in log(user.runs[1], 1)


def test_ranks_with_horovod_in_an_environment_of_their_own(project: Project) -> None:
    """Built, with Hydra and without the launcher: what ranks need of it is in the run's folder."""
    application(project)
    words = (TRAINING, "hydra/launcher/environment=cpu", "hydra/launcher/dist=mpi")
    seen = "__import__('horovod.torch').torch.size()"
    project.write("app.py", APP.replace('"job", num', f'"job", {seen}'))
    done = start(project, *words, "hydra.launcher.procs_per_node=2", "lr=2")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] lr 2 of 2 job 2", "[1] lr 2 of 2 job 2"]
    python = (project.run / "launch.sh").read_text().partition("exec ")[2]
    assert "/envs/" in python
    found = "import importlib.util as u; print(u.find_spec('launcher'))"
    (path,) = {word for word in python.split() if word.endswith("/bin/python")}
    assert subprocess.check_output((path, "-c", found)) == b"None\n"


def test_a_sweeper_that_needs_values(project: Project, tmp_path: Path) -> None:
    """Optuna's, in an environment of its own: every program here would load it otherwise."""
    venv = tmp_path / "venv"
    subprocess.run((sys.executable, "-m", "virtualenv", "-q", str(venv)), check=True)
    words = (
        str(venv / "bin" / "pip"),
        "install",
        "-q",
        "hydra-optuna-sweeper>=1.3",
        "-e",
        str(ROOT),
    )
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    application(project)
    words = (str(venv / "bin" / "python"), "app.py", "-m", TRAINING, "lr=interval(0,5)")
    words += ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")
    done = subprocess.run(words, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (results,) = project.path.glob("multirun/*/*/optimization_results.yaml")
    lowest = min(float(said(run / "outputs")[0][2]) for run in project.runs)
    best = float(results.read_text().rpartition("best_value:")[2])
    assert best == pytest.approx(2 * lowest)
    assert len(project.runs) == 4
    assert done.stdout.count("SUCCEEDED") == 4  # each is told once


# ------------------------------------------------------------------ what a rank composes


def text_of_everything(project: Project) -> str:
    """Return all that is in the folders of runs and of outputs, and in all commits."""
    words = ("git", "--git-dir", os.environ["LAUNCHER_STORE"], "rev-list", "--all", "--objects")
    listed = subprocess.check_output(words, text=True).split("\n")
    names = "\n".join(line.partition(" ")[0] for line in listed)
    batch = (*words[:3], "cat-file", "--batch")
    objects = subprocess.run(batch, input=names.encode(), capture_output=True, check=True).stdout
    files = [each for each in project.path.rglob("*") if each.is_file()]
    return b"".join([objects, *(each.read_bytes() for each in files)]).decode("latin-1")


def test_no_secret_is_written_anywhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    application(project)
    print_it = APP.replace('print("lr"', 'print(os.environ["MY_TOKEN"][:4], cfg.get("key"), "lr"')
    project.write("app.py", print_it)
    given = start(project, TRAINING, "+hydra.launcher.env.MY_TOKEN=TOPSECRET88")
    assert given.returncode == 2
    assert "hydra.launcher.secrets=[MY_TOKEN]" in given.stderr
    monkeypatch.setenv("MY_TOKEN", "TOPSECRET88")
    words = (TRAINING, "+key=${oc.env:MY_TOKEN}", "hydra.launcher.secrets=[MY_TOKEN]")
    for how in ((), ("-m", "hydra.launcher.wait=true")):
        done = start(project, *how, *words)
        assert done.returncode == 0, done.stderr
    assert log(project.runs[0], 0).startswith("TOPS ***")
    shutil.rmtree(project.path / "outputs", ignore_errors=True)  # of the refused one, by Hydra
    assert "TOPSECRET88" not in text_of_everything(project)


def test_a_configuration_that_is_not_in_the_snapshot_fails(git_project: Project) -> None:
    application(git_project, "defaults:\n  - optional local: default\n  - _self_\nlr: 1\n")
    git_project.write("conf/local/default.yaml", "rate: 77\n")
    git_project.write(".gitignore", "conf/local/\n")
    done = start(git_project, TRAINING)
    assert done.returncode == 1
    assert "local: {'rate': 77} launched, nothing here" in done.stdout
    assert "git ignores" in done.stdout
    assert not list(git_project.path.glob("outputs/*/*/said"))


def test_what_is_composed_from_elsewhere_makes_another_point(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    application(project, "lr: 1\nfrom_env: ${oc.env:LRV,none}\nwhen: ${now:%f}\n")
    (tmp_path / "more" / "db").mkdir(parents=True)
    file = tmp_path / "more" / "db" / "a.yaml"
    words = ("--config-dir", str(tmp_path / "more"), "-m", TRAINING, "+db=a")
    words = (*words, "hydra.launcher.wait=true")
    for count, (text, variable) in enumerate(
        [("d: one", "1"), ("d: one", "1"), ("d: two", "1"), ("d: two", "2")]
    ):
        file.write_text(f"{text}\n")
        monkeypatch.setenv("LRV", variable)
        done = start(project, *words)
        assert done.returncode == 0, done.stderr
        assert len(project.runs) == max(1, count)


def test_other_launchers_outputs_are_no_source(project: Project) -> None:
    application(project)
    line = ("-m", TRAINING, "lr=1,2", "hydra.launcher.wait=true")
    assert start(project, *line).returncode == 0
    project.write("outputs/mine/.hydra/hydra.yaml", "a: 1\n")
    project.write("outputs/mine/large.bin", "x" * 1000)
    assert "2 points are there already" in start(project, *line).stderr


def test_a_folder_of_outputs_that_several_sweeps_have(project: Project) -> None:
    application(project)
    words = ("-m", TRAINING, "hydra.sweep.dir=results", "hydra.launcher.wait=true")
    for values in ("1,2", "2,3"):
        done = start(project, *words, f"lr={values}")
        assert done.returncode == 0, done.stderr
    one, two, three = project.runs
    results = project.path / "results"
    assert [said(results / str(n)) for n in (0, 1)] == [
        [[two.name, "0", "2"]],
        [[three.name, "0", "3"]],
    ]
    for run, lr in ((one, "1"), (two, "2"), (three, "3")):
        assert said(run / "outputs") == [[run.name, "0", lr]]
    shutil.rmtree(results)
    assert start(project, *words, "lr=1,3").returncode == 0
    assert len(project.runs) == 4  # what was removed is made again; lr=1 has its own folder


def test_ranks_have_the_same_instant(project: Project) -> None:
    application(project, "lr: 1\nname: r-${now:%f}\n")
    project.write("app.py", APP.replace('print("lr"', 'print(cfg.name, "lr"'))
    words = ("hydra/launcher/dist=mpi", "hydra.launcher.dist.horovod=false")
    done = start(project, TRAINING, *words, "hydra.launcher.procs_per_node=2")
    assert done.returncode == 0, done.stderr
    names = {line.split()[1] for line in done.stdout.splitlines()}
    assert len(names) == 1


def test_settings_of_ours_wherever_they_stand(project: Project) -> None:
    """In an experiment, where the group that they belong to is chosen at the prompt."""
    application(project, "defaults:\n  - _self_\n  - experiment: null\nlr: 1\n")
    project.write(
        "conf/experiment/two.yaml",
        "# @package _global_\nlr: 4\nranks: ${hydra:launcher.procs_per_node}\n"
        "hydra:\n  launcher:\n    procs_per_node: 2\n    dist:\n      horovod: false\n",
    )
    project.write("app.py", APP.replace('"of"', 'cfg.ranks, "of"'))
    done = start(project, TRAINING, "experiment=two", "hydra/launcher/dist=mpi")
    assert done.returncode == 0, done.stderr
    said_by_ranks = sorted(done.stdout.splitlines())
    assert said_by_ranks == [f"[{rank}] lr 4 2 of 2 job None" for rank in (0, 1)]


def test_words_that_the_script_takes_for_itself(project: Project) -> None:
    application(project)
    head = (
        "import argparse, sys\nown = argparse.ArgumentParser()\n"
        "own.add_argument('--seed', type=int, default=0)\n"
        "known, rest = own.parse_known_args()\nsys.argv[1:] = rest\n"
    )
    project.write("app.py", head + APP.replace('print("lr"', 'print("seed", known.seed, "lr"'))
    done = start(project, "--seed", "5", TRAINING, "lr=2")
    assert done.stdout == "seed 5 lr 2 of 1 job None\n", done.stderr


def test_a_console_script(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/cli.py", APP)
    project.write("pkg/conf/__init__.py", "")
    project.write("pkg/conf/config.yaml", "lr: 6\n")
    words = (sys.executable, "-c", "from pkg.cli import main; main()", TRAINING)
    done = subprocess.run(words, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.stdout == "lr 6 of 1 job None\n", done.stderr
    ranks = json.loads((project.run / "ranks.json").read_text())
    assert ranks["entry"] == ["-m", "launcher.hydra_app.call"]
    assert ranks["args"][0] == "pkg.cli:main"


def test_a_point_that_a_sweeper_proposes_again(project: Project) -> None:
    application(project)
    words = ("hydra.sweeper.max_batch_size=1", "hydra.launcher.wait=true")
    done = start(project, "-m", TRAINING, "lr=1,2,1", *words)
    assert done.returncode == 0, done.stderr
    assert len(project.runs) == 2
    assert len(list(project.path.glob("multirun/*/*/[012]/said"))) == 3


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("raise Bad(1, 2)", 1, "Bad: 1 and 2"),
        ("import sys; sys.exit(0)", 0, ""),
        ("import sys; sys.exit(3)", 1, "FAILED"),
        ("return lambda: 1", 0, ""),
        ("import threading; return threading.Lock()", 0, "cannot be handed back"),
    ],
)
def test_what_a_function_may_do(project: Project, body: str, status: int, told: str) -> None:
    application(project)
    bad = (
        "class Bad(Exception):\n    def __init__(self, a, b):\n"
        "        super().__init__(f'{a} and {b}')\n"
    )
    project.write("app.py", bad + APP.replace("return cfg.lr * 2", body))
    done = start(project, "-m", TRAINING, "hydra.launcher.wait=true")
    assert done.returncode == status, done.stderr
    assert told in done.stderr + log(project.run, 0)
    assert "site-packages" not in done.stderr


def test_within_a_run_hydra_runs_the_job_itself(project: Project) -> None:
    application(project, "defaults:\n  - override hydra/launcher: training\n  - _self_\nlr: 1\n")
    options = ("entry_script=app.py", "params_style=hydra", "environment.torch=null")
    done = project.launch(*options, "environment.provision=current", "script_params.lr=8")
    assert done.stdout == "lr 8 of 1 job None\n", done.stderr
    assert len(list(project.path.rglob("run.json"))) == 1


def test_a_package_of_the_users_that_hides_ours(project: Project) -> None:
    application(project)
    project.write("launcher.py", "")
    # Installed, and not by way of a finder that comes first: as a plain folder behind theirs.
    env = {**os.environ, "PYTHONPATH": f"{project.path}:{ROOT}:{ROOT / 'plugins'}"}
    program = (
        "import runpy, sys; sys.path += [sys.argv.pop(1)]; "
        "runpy.run_path('app.py', run_name='__main__')"
    )
    words = (sys.executable, "-S", "-c", program)
    site = next(each for each in sys.path if each.endswith("site-packages"))
    for override, told in (("lr=2", "LAUNCHER_RUN_ID"), (TRAINING, "hides the launcher's own")):
        how = ("-m",) if override == TRAINING else ()
        line = (*words, site, *how, override)
        done = subprocess.run(
            line, cwd=project.path, env=env, capture_output=True, text=True, check=False
        )
        assert told in done.stderr
        assert "incompatible" not in done.stderr


def test_what_would_be_launched_can_be_seen(project: Project) -> None:
    application(project)
    for how in ((), ("-m",)):
        done = start(project, *how, TRAINING, "lr=2", "hydra.launcher.plan=true")
        assert done.returncode == 0, done.stderr
        assert "# commands" in done.stdout
    assert project.runs == []
