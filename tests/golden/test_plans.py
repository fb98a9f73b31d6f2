"""Whole plans, compared to the byte: what users' machines will run, for review to see."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher import app, config
from launcher.data import Dataset, Upload, located
from launcher.environment.locate import Prefix
from launcher.errors import PlanError
from launcher.hosts import Host, Hosts
from launcher.job import Facts, LaunchPlan
from launcher.plan import plan
from launcher.show import plan_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Project

GOLDEN = Path(__file__).parent / "plans"
HOSTILE = "a b'c\"d$HOME`id`\\ \n;&|*?<>()[]{}~#!é,=\t"
SECRET = "env.MY_API_KEY=sesame-open"

CASES: dict[str, tuple[str, ...]] = {
    f"{compute}-{environment}-{dist}": (
        f"compute={compute}",
        f"environment={environment}",
        f"dist={dist}",
        *(("compute.hosts=[hosta,me@hostb:2222]",) if compute == "ssh" else ()),
        *(("procs_per_node=2",) if dist == "mpi" else ()),
        *(("nodes=2",) if dist == "mpi" and compute != "local" else ()),
        "script_params.lr=0.1",
    )
    for compute in ("local", "slurm", "ssh")
    for environment in ("cpu", "gpu")
    for dist in ("single", "mpi")
}
CASES |= {
    "module-and-hydra-style": ("entry_script=-m pkg.train", "params_style=hydra", "name=exp-1"),
    "secret-and-setup": (
        SECRET,
        "secrets=[HF_TOKEN]",
        "environment.setup=['module load cuda']",
        "dist=mpi",
        "compute=slurm",
        "nodes=2",
        "compute.launch=mpirun",
    ),
    "slurm-options": (
        "compute=slurm",
        "compute.partition=long",
        "compute.time='1-00:00:00'",
        "compute.extra.reservation=big one",
        "compute.extra.exclusive=true",
        "compute.cpus_per_proc=4",
        "compute.setup=['module load openmpi']",
    ),
    "slurm-all-options": (
        "compute=slurm",
        "dist=mpi",
        "nodes=2",
        "procs_per_node=4",
        "environment=gpu",
        "compute.account=research",
        "compute.qos=high",
        "compute.mem=64G",
        "compute.gres='gpu:a100:4'",
        "compute.constraint='a100|h100'",
        "compute.nodelist='node[1-4]'",
        "compute.exclude=node3",
        "compute.exclusive=true",
        "compute.comment='50% of $HOME, \"it\\'s\" # mine'",
        "compute.mail_type=END",
        "compute.mail_user=me@example.org",
        "compute.requeue=false",
        "compute.signal_before_end_s=120",
        "compute.stage=scratch",
        "compute.extra.nice=100",
    ),
    "ssh-data": (
        "compute=ssh",
        "compute.hosts=[hosta,me@hostb:2222]",
        "dist=mpi",
        "nodes=2",
        "data.digits={path: /home/me/digits.csv, upload: true}",
        "data.there.path=/srv/images",
        "script_params.train='${data:digits}'",
        "script_params.images='${data:there}'",
        "env.LIST='a:${data:digits}'",
    ),
    "slurm-mpirun": ("compute=slurm", "dist=mpi", "nodes=2", "compute.launch=mpirun"),
}
VALUES = {"hostile": {"script_params": {"text": HOSTILE, "-x": ["", ":", HOSTILE]}}}


def facts(**changes: object) -> Facts:
    prefix = Prefix(
        kind="venv",
        key="0123456789abcdef",
        path="/home/me/.cache/launcher/envs/0123456789abcdef",
        python="/home/me/.cache/launcher/envs/0123456789abcdef/bin/python",
        mpirun="/home/me/.cache/launcher/envs/0123456789abcdef/bin/mpirun",
        mpi_version=(5, 0, 11),
        ready=True,
    )
    values: dict[str, object] = {
        "user": "me",
        "uid": 1000,
        "host": "box",
        "cpus": 8,
        "python": "/home/me/venv/bin/python",
        "package_root": "/home/me/venv/lib/python3.11/site-packages",
        "git_dir": "/home/me/my project/.git",
        "source_prefix": "",
        "prefix": prefix,
    }
    return Facts(**{**values, **changes})  # type: ignore[arg-type]


def ssh_facts(nodes: int) -> Facts:
    """What a look at two hosts finds: the launcher's own code is there by its content."""
    first = Host(name="hosta", address="10.0.0.1", user="me", port=22, hostname="a", cpus=8, gpus=2)
    other = replace(first, name="me@hostb:2222", address="hostb", port=2222, hostname="b")
    there = Hosts(
        hosts=(first, other)[:nodes],
        workdir="/home/me/.launcher",
        config="/home/me/my project/ssh config",
        python="python3",
        connect_timeout_s=10.0,
    )
    prefix = replace(
        facts().prefix,
        path="/home/me/.launcher/cache/envs/0123456789abcdef",
        python="/home/me/.launcher/cache/envs/0123456789abcdef/bin/python",
        mpirun="/home/me/.launcher/cache/envs/0123456789abcdef/bin/mpirun",
    )
    root = "/home/me/.launcher/lib/0123456789012345678901234567890123456789"
    return facts(hosts=there, prefix=prefix, python="/usr/bin/python3", package_root=root, gpus=2)


def dataset(upload: Upload) -> Dataset:
    digest = "0123456789abcdef" * 4
    return Dataset(
        name="digits",
        digest=digest,
        source=upload.path,
        path=f"/home/me/.launcher/data/{digest}/digits.csv",
        files=1,
        size=1_500_000,
        lacking=("me@hostb:2222",),
    )


def planned(overrides: tuple[str, ...], **values: object) -> LaunchPlan:
    request = app.Request(overrides=("entry_script=train.py", *overrides), values=values)
    job, _ = config.resolve(app.compose(request), request.overrides)
    seen = ssh_facts(job.resources.nodes) if job.compute.kind == "ssh" else facts()
    seen = replace(seen, data=tuple(map(dataset, job.uploads.values())))
    return plan(located(job, seen), seen, "261123-120000-abcd")


@pytest.mark.parametrize("case", [*CASES, *VALUES])
def test_plan(
    case: str,
    golden: Callable[[Path, str], None],
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", "/home/me/my project/runs")
    made = planned(CASES.get(case, ()), **VALUES.get(case, {}))
    golden(GOLDEN / f"{case}.txt", plan_text(made))
    for file in made.files:
        if file.path.endswith(".sh"):
            checked = subprocess.run(["bash", "-n"], input=file.text, text=True, check=False)
            assert checked.returncode == 0
    assert "sesame-open" not in str(made)


@pytest.mark.parametrize(
    ("overrides", "key", "hint"),
    [
        (("nodes=2",), "nodes=2", "dist=mpi"),
        (("procs_per_node=3",), "procs_per_node=3", "dist=mpi"),
        (("nodes=2", "dist=mpi"), "nodes=2", "procs_per_node=2"),
        (("compute=ssh",), "compute.hosts", "compute.hosts=[hosta,hostb]"),
        (("compute=slurm", "compute.extra.job-name=x"), "compute.extra.job-name", "name="),
        (("compute=slurm", "compute.extra.array=1-3"), "compute.extra.array", "sweeps"),
        (("compute=slurm", "compute.time='00:00:14'"), "compute.time=00:00:14", "15 s"),
        (
            ("compute=slurm", "compute.time=1", "compute.signal_before_end_s=50"),
            "compute.signal_before_end_s=50",
            "less than 45",
        ),
        (("dist=mpi", "environment.horovod=null"), "environment.horovod", "dist.horovod=false"),
    ],
)
def test_what_cannot_be_expressed(
    project: Project, overrides: tuple[str, ...], key: str, hint: str
) -> None:
    with pytest.raises(PlanError) as caught:
        planned(overrides)
    assert key in caught.value.message
    assert hint in caught.value.hint


def test_mpi_without_an_mpirun(project: Project) -> None:
    request = app.Request(overrides=("entry_script=train.py", "dist=mpi"))
    job, _ = config.resolve(app.compose(request))
    bare = Prefix(
        kind="current", key="", path="", python="/p", mpirun="", mpi_version=(), ready=True
    )
    with pytest.raises(PlanError, match="mpirun"):
        plan(job, facts(prefix=bare), "261123-120000-abcd")


def test_a_source_directory_below_its_repository(
    golden: Callable[[Path, str], None], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_RUNS", "/home/me/my project/runs")
    request = app.Request(overrides=("entry_script=train.py",))
    job, _ = config.resolve(app.compose(request))
    made = plan(job, facts(source_prefix="it's/below"), "261123-120000-abcd")
    golden(GOLDEN / "below-the-root.txt", plan_text(made))


def test_open_mpi_4_calls_shared_memory_vader(project: Project) -> None:
    request = app.Request(overrides=("entry_script=train.py", "dist=mpi"))
    job, _ = config.resolve(app.compose(request))
    old = Prefix(
        kind="current",
        key="",
        path="",
        python="/usr/bin/python3",
        mpirun="/usr/bin/mpirun",
        mpi_version=(4, 1, 4),
        ready=True,
    )
    assert plan(job, facts(prefix=old), "261123-120000-abcd").env["OMPI_MCA_btl"] == "self,vader"
