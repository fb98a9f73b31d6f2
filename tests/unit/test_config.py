from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from launcher import app, config
from launcher.errors import ConfigError, LaunchError

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.job import JobSpec
    from tests.conftest import Project


def resolved(*overrides: str, **values: Any) -> JobSpec:
    values = {"entry_script": "train.py", **values}
    request = app.Request(overrides=overrides, values=values)
    return config.resolve(app.compose(request), overrides)[0]


def test_defaults(project: Project) -> None:
    job = resolved()
    assert job.name == "train"
    assert job.entry == ("train.py",)
    assert job.args == ()
    assert job.source_directory == str(project.path)
    assert job.runs_dir == str(project.path / "runs")
    assert (job.compute.kind, job.dist.kind, job.environment.kind) == ("local", "single", "cpu")
    assert job.environment.torch == "torch==2.13.0"
    assert job.resources.world_size == 1
    assert job.resources.gpus_per_proc == 0


def test_group_options(project: Project) -> None:
    job = resolved("compute=slurm", "environment=gpu", "dist=mpi", "nodes=2", "procs_per_node=4")
    assert (job.compute.kind, job.dist.kind, job.environment.kind) == ("slurm", "mpi", "gpu")
    assert job.resources.world_size == 8
    assert job.resources.gpus_per_proc == 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("env.LEVEL=0.10", "0.10"),
        ("env.LEVEL=true", "true"),
        ("env.LEVEL='a,b'", "a,b"),
        ("env.LEVEL=1e3", "1e3"),
        ("env.LEVEL=a b", "a b"),
        ("env.LEVEL=", ""),
        ("+env.LEVEL=0.10", "0.10"),
        ("env={LEVEL: true}", "true"),
    ],
)
def test_a_variable_is_the_text_that_was_typed(
    project: Project, override: str, expected: str
) -> None:
    assert resolved(override).env == {"LEVEL": expected}


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("script_params.v=1.10", "1.10"),
        ("script_params.v=1e-3", "1e-3"),
        ("script_params.v=007", "007"),
        ("script_params.v=1_000", "1_000"),
        ("script_params.v=1234e56", "1234e56"),
        ("script_params.v=-0.5", "-0.5"),
        ("script_params.v=it's", "it's"),
        ("script_params.v=h\u00e9\u65e5", "h\u00e9\u65e5"),
        ("script_params.v=a=b (c)", "a=b (c)"),
        ("script_params.v='x y'", "x y"),
    ],
)
def test_an_argument_is_the_text_that_was_typed(project: Project, override: str, word: str) -> None:
    assert resolved(override).args == ("--v", word)


def test_requirements_need_no_quotes(project: Project) -> None:
    words = (
        "environment.torch=torch==2.13.0+cpu",
        "environment.pip_packages=[numpy>=1.26,six==1.16]",
    )
    environment = resolved(*words).environment
    assert environment.torch == "torch==2.13.0+cpu"
    assert environment.pip_packages == ("numpy>=1.26", "six==1.16")


def test_an_absolute_entry_script_inside_the_source(project: Project) -> None:
    assert resolved(entry_script=str(project.path / "sub" / "train.py")).entry == ("sub/train.py",)


def test_composing_in_threads(project: Project) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda n: resolved(f"script_params.n={n}"), range(8)))
    assert [job.args[1] for job in jobs] == [str(n) for n in range(8)]


def test_upload_is_of_no_effect_where_data_are_used_as_they_lie(project: Project) -> None:
    words = ("data.d={path: d.csv, upload: true}", "script_params.f='see ${data:d}'")
    for compute in ("local", "slurm"):
        job = resolved(f"compute={compute}", *words)
        assert job.args == ("--f", f"see {project.path / 'd.csv'}")
        assert job.data == {"d": str(project.path / "d.csv")}
        assert job.uploads == {}


def test_a_variable_that_is_null_is_left_out(project: Project) -> None:
    assert resolved("env.LEVEL=null").env == {}


def test_values_from_python_are_literal(project: Project) -> None:
    text = "${oc.env:HOME} \\${x} $HOME"
    job = resolved(script_params={"text": text, "n": 3}, env={"A": "${b}"})
    assert job.args == ("--text", text, "--n", "3")
    assert job.env == {"A": "${b}"}


def test_data_by_name(project: Project) -> None:
    project.write("digits.csv", "1,2\n")
    job = resolved("data.digits.path=digits.csv", "script_params.data=${data:digits}")
    assert job.args == ("--data", str(project.path / "digits.csv"))
    assert job.data == {"digits": str(project.path / "digits.csv")}


def test_runs_dir_from_the_environment(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "elsewhere"))
    assert resolved("runs_dir=here").runs_dir == str(tmp_path / "elsewhere")


def test_a_projects_own_conf_extends_ours(project: Project) -> None:
    project.write("conf/config.yaml", "their: own application\n")
    project.write("conf/compute/mine.yaml", "defaults: [slurm]\npartition: long\n")
    project.write(
        "conf/experiment/big.yaml",
        "# @package _global_\ndefaults:\n  - override /compute: mine\nscript_params:\n  lr: 0.5\n",
    )
    job = resolved("experiment=big")
    assert job.compute.partition == "long"  # type: ignore[attr-defined]
    assert job.args == ("--lr", "0.5")


def test_a_projects_own_option_replaces_ours(project: Project) -> None:
    project.write("other/environment/cpu.yaml", "defaults: [gpu]\ntorch: null\n")
    request = app.Request(overrides=("entry_script=train.py",), config_dir="other")
    job, _ = config.resolve(app.compose(request))
    assert job.environment.torch is None
    with pytest.raises(ConfigError, match="no such folder"):
        app.compose(app.Request(config_dir="nowhere"))


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (("nods=2",), "nods: there is no such key (given 2)", "Did you mean 'nodes'"),
        (("partition=x",), "partition: there is no such key", "'compute.partition'"),
        (("dist.horovd=false", "dist=mpi"), "dist.horovd", "Did you mean 'horovod'"),
        (("compute.tyme=3",), "compute.tyme", "Did you mean 'time'"),
        (("nodes=two",), "nodes=two", ""),
        (("nodes=0",), "nodes=0: must be 1 or more", ""),
        (("params_style=clic",), "params_style=clic", ""),
        (("compute=slrum",), "compute=slrum", "Did you mean 'slurm'? Allowed: local, slurm, ssh"),
        (("experiment=none_such",), "experiment=none_such", "conf/experiment/none_such.yaml"),
        (("data.x=3",), "data.x=3", "data.x.path"),
        (("data.x.pth=3",), "data.x", "data.x.path"),
        (("data.x={path: /a, uplod: true}",), "data.x.uplod=True", "Did you mean 'upload'"),
        (("data.x={path: /a, upload: 1}",), "data.x.upload=1", "true:"),
        (("data.x={path: /a, upload: true, digest: ab}",), "data.x.digest=ab", "null"),
        (
            (
                *("compute=ssh", "compute.hosts=[a]", "data.x={path: /a, upload: true}"),
                "environment.setup=['source ${data:x}']",
            ),
            "environment: ${data:...}",
            "once the hosts",
        ),
        (
            (
                *("compute=ssh", "compute.hosts=[a]", "data.x={path: /a, upload: true}"),
                "env.A_TOKEN=${data:x}",
            ),
            "env.A_TOKEN",
            "of another name",
        ),
        (("script_params.x=a,b",), "a value with commas is a sweep", "Quote it"),
        (("script_params.x=[1",), "cannot be read", "between quotes"),
        (("compute.hosts=[a]",), "compute.hosts", "belongs to compute=ssh"),
        (("compute=ssh", "compute.hosts=[a,a]"), "a is named twice", "procs_per_node=2"),
        (("compute=ssh", "compute.hosts=['a b']"), "compute.hosts[0]='a b'", "no space"),
        (("compute=ssh", "compute.hosts=['me@-oX']"), "compute.hosts[0]", "leading dash"),
        (("compute=ssh", "compute.hosts=[{host: a, port: 2}]"), "no such key port", "user@host"),
        (("compute=ssh", "compute.hosts=[{host: a, slot: 2}]"), "compute.hosts[0]", "'slots'"),
        (("compute=ssh", "compute.workdir='/a b'"), "compute.workdir=/a b", "Letters"),
        (("compute=ssh", "compute.workdir='/a:b'"), "compute.workdir=/a:b", "Letters"),
        (("compute=ssh", "compute.host_timeout_s=5"), "compute.host_timeout_s=5", ""),
        (("dist.mca.btl=tcp",), "dist.mca", "belongs to dist=mpi"),
        (("script_param.lr=1",), "script_param.lr", "Did you mean 'script_params'"),
        (("points=a.jsonl",), "points: there is no such key", "'sweep.points'"),
        (("zip=[a,b]",), "zip: there is no such key", "'sweep.zip'"),
        (("samples=5",), "samples: there is no such key", "'sweep.samples'"),
        (("params.lr=1",), "params.lr: there is no such key", "'sweep.params.lr'"),
        (("seed=1",), "seed: there is no such key", "'sweep.seed'"),
        (("seed=1",), "seed: there is no such key", "script_params.seed"),
        (("lr=0.1",), "lr: there is no such key", "script_params.lr"),
        (("+epochs=5",), "epochs: there is no such key", "script_params.epochs"),
        (("hydra.job.name=x",), "hydra.job.name", ""),
        (("~nodes",), "~nodes", ""),
        (("compute=null",), "compute=null", "local, slurm, ssh"),
        (("secrets=HF_TOKEN",), "secrets=HF_TOKEN: a list is wanted", "secrets=[HF_TOKEN"),
        (("script_params=3",), "script_params=3: a mapping is wanted", "script_params.name"),
        (("data.x=/tmp", "script_params.d=${data:x}"), "data.x=/tmp", "data.x.path="),
        (("entry_script=-m",), "entry_script=-m", "-m package.module"),
        (("entry_script=",), "entry_script=", ""),
        (("runs_dir=.",), "runs_dir=.", "runs"),
        (("runs_dir=",), "runs_dir=", "runs"),
        (("compute.cpus_per_proc=0",), "compute.cpus_per_proc=0", ""),
        (("script_params.x=[{a: 1}]",), "script_params.x", "plain values"),
        (("script_params.x=${nothing}",), "nothing", "interpolation"),
        (("script_params.d=${data:digits}",), "no data entry 'digits'", "data.digits.path"),
        (("entry_script=/etc/passwd",), "entry_script=/etc/passwd", "source_directory"),
        (("entry_script=../x.py",), "entry_script=../x.py", "source_directory"),
        (("name=a/b",), "name=a/b", "Letters"),
        (("env.A-B=1",), "env.A-B", "Letters"),
        (("env.LAUNCHER_X=1",), "env.LAUNCHER_X", "launcher's own"),
        (("secrets=[a b]",), "secrets: 'a b'", "names"),
        (("compute.time=soon",), "compute.time=soon", "HH:MM:SS"),
        (("environment.provision=docker",), "environment.provision=docker", ""),
        (("environment.pip_packages=[a b]",), "environment.pip_packages", ""),
        (("environment._target_=no.such.Class",), "environment._target_", "class"),
    ],
)
def test_what_is_wrong_is_named(
    project: Project, overrides: tuple[str, ...], message: str, hint: str
) -> None:
    values = {} if "entry_script" in overrides[0] else {"entry_script": "train.py"}
    request = app.Request(overrides=overrides, values=values)
    with pytest.raises(LaunchError) as caught:
        config.resolve(app.compose(request), overrides)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.status == 2
    assert os.listdir(project.path) == []


def test_an_entry_script_is_needed(project: Project) -> None:
    with pytest.raises(ConfigError, match="entry_script") as caught:
        config.resolve(app.compose(app.Request()))
    assert "entry_script=train.py" in caught.value.hint


def test_an_unknown_value_from_python(project: Project) -> None:
    with pytest.raises(ConfigError, match="nods") as caught:
        app.compose(app.Request(values={"nods": 2}))
    assert "nodes" in caught.value.hint
    with pytest.raises(ConfigError, match="nodes='two'"):
        app.compose(app.Request(values={"nodes": "two"}))


def test_secrets_stay_out_of_the_job(project: Project) -> None:
    overrides = ("env.MY_API_KEY=sesame", "env.PLAIN=seen", "secrets=[PASS_ON]")
    request = app.Request(overrides=("entry_script=train.py", *overrides))
    job, given = config.resolve(app.compose(request), request.overrides)
    assert job.secrets == ("MY_API_KEY", "PASS_ON")
    assert given == {"MY_API_KEY": "sesame"}
    assert job.env == {"PLAIN": "seen"}
    assert "sesame" not in repr(job)
    assert "env.MY_API_KEY=***" in job.overrides
    twice = ("env.MY_API_KEY=sesame", "env.MY_API_KEY=null")
    assert "sesame" not in repr(resolved(*twice))
    assert "sesame" not in repr(resolved("env={MY_API_KEY: sesame, A: b}"))


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("WANDB_API_KEY", True),
        ("HF_TOKEN", True),
        ("DB_PASSWORD", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("GOOGLE_APPLICATION_CREDENTIALS", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
        ("SORT_KEY", False),
        ("PGPASSWORD", True),
        ("MAX_TOKENS", False),
    ],
)
def test_what_looks_like_a_secret(project: Project, name: str, secret: bool) -> None:
    job = resolved(f"env.{name}=sesame")
    assert (name in job.secrets) is secret


@pytest.mark.parametrize(
    "override",
    [
        "script_params.key=${env.MY_TOKEN}",
        "env.OTHER=x-${env.MY_TOKEN}",
        "script_params.key=handed-on",
        "script_params.key=${oc.env:HANDED_ON}",
        "script_params.pin=12345678",
    ],
)
def test_a_secret_is_never_carried_elsewhere(
    project: Project, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDED_ON", "handed-on")
    with pytest.raises(ConfigError, match="holds the value of the secret") as caught:
        resolved("env.MY_TOKEN=sesame", "secrets=[HANDED_ON,PIN]", "env.PIN=12345678", override)
    assert "sesame" not in str(caught.value)


def test_a_recorded_configuration_is_the_start_of_another(project: Project) -> None:
    first = resolved("compute=slurm", "compute.partition=long", script_params={"t": "${x}\\${y}"})
    again = app.compose(app.Request(recorded=first.config))
    assert config.resolve(again)[0].config == first.config
    changed = app.Request(recorded=first.config, overrides=("compute=local", "script_params.lr=1"))
    job, _ = config.resolve(app.compose(changed))
    assert job.compute.kind == "local"
    assert job.args == ("--t", "${x}\\${y}", "--lr", "1")
    with pytest.raises(ConfigError, match="nods"):
        app.compose(app.Request(recorded=first.config, overrides=("nods=1",)))
