"""Ranks on two real nodes, started by srun and by mpirun: what they see, and what they train."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.conftest import events, log, until
from tests.real.slurm import HOROVOD, PRINTS_VARIABLES, RANKS, UserProject, job_id, ready, records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.cluster import Cluster

WAYS = ("srun", "mpirun")
BOTH = pytest.mark.parametrize("by", WAYS)
SHAPES = [  # nodes, ranks a node, cores a rank, GPUs a rank
    *((1, 1, 1, 0), (1, 4, 1, 0), (2, 1, 1, 0), (2, 3, 1, 0)),
    *((2, 2, 2, 0), (2, 2, 1, 2), (1, 2, 2, 1)),
]
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=["x".join(map(str, s)) for s in SHAPES])
OF_EACH_START = ("MASTER_PORT", "SLURM_JOB_ID", "LAUNCHER_RUN_DIR")

Seen = dict[tuple[tuple[int, ...], str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def seen(slurm_cluster: Cluster, installed: Path) -> Iterator[Seen]:
    """The variables of every rank of every shape, by either way; all were queued at once."""
    user = UserProject(slurm_cluster.project("shapes"), slurm_cluster, installed)
    user.write("train.py", PRINTS_VARIABLES)
    runs = {}
    for shape in SHAPES:
        nodes, procs, cpus, gpus = shape
        words = (
            *(f"nodes={nodes}", f"procs_per_node={procs}", f"compute.cpus_per_proc={cpus}"),
            *(f"environment.gpus_per_proc={gpus}",),
        )
        for by in WAYS:
            runs[shape, by] = user.submit(*RANKS, *words, f"compute.launch={by}")
    found: Seen = {}
    for (shape, by), run in runs.items():
        assert user.ends(run) == "SUCCEEDED", user.everything(run)
        step = (run / "launch.sh").read_text().splitlines()[-1]
        assert re.search(rf"\b{by} ", step), step
        found[shape, by] = records(run, shape[0] * shape[1])
        for each in found[shape, by]:  # as the run's folder differs from run to run
            for name, value in each.items():
                each[name] = str(value).replace(str(run), "RUN")
    yield found
    user.clean()


@BOTH
@EACH_SHAPE
def test_ranks_know_who_they_are(seen: Seen, shape: tuple[int, int, int, int], by: str) -> None:
    nodes, procs, cpus, _ = shape
    for rank, each in enumerate(seen[shape, by]):
        node, local = divmod(rank, procs)
        expected = {
            "RANK": rank,
            "LOCAL_RANK": local,
            "NODE_RANK": node,
            "WORLD_SIZE": nodes * procs,
            "LOCAL_WORLD_SIZE": procs,
            "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_SIZE": nodes * procs,
            "OMPI_COMM_WORLD_LOCAL_RANK": local,
            "OMPI_COMM_WORLD_LOCAL_SIZE": procs,
            "OMP_NUM_THREADS": cpus,
            "MASTER_ADDR": "node1",
            "LAUNCHER_RESTART_COUNT": 0,
            "host": f"node{node + 1}",
            "LAUNCHER_CHECKPOINT_DIR": "RUN/checkpoints",
        }
        if each["host"] != f"node{node + 1}" and nodes == 1:  # a single node may be either one
            expected["host"] = expected["MASTER_ADDR"] = each["host"]
        assert {name: each.get(name) for name in expected} == {
            name: str(value) for name, value in expected.items()
        }
        assert int(each["MASTER_PORT"]) > 1024


@EACH_SHAPE
def test_srun_and_mpirun_give_the_same_variables(
    seen: Seen, shape: tuple[int, int, int, int]
) -> None:
    for one, other in zip(seen[shape, "srun"], seen[shape, "mpirun"], strict=True):
        away = {*OF_EACH_START, *(("host", "MASTER_ADDR") if shape[0] == 1 else ())}
        differs = {name: (one.get(name), other.get(name)) for name in {*one, *other} - away}
        assert {name: both for name, both in differs.items() if both[0] != both[1]} == {}


@BOTH
def test_each_rank_has_its_gpus(seen: Seen, by: str) -> None:
    for shape in SHAPES:
        _, procs, _, gpus = shape
        for rank, each in enumerate(seen[shape, by]):
            visible = [part for part in each.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
            if gpus == 0:
                assert visible in ([], ["NoDevFiles"])
                continue
            # A rank's own, or those of the node's ranks, of which it takes its share by local rank.
            assert len(visible) in (gpus, gpus * procs)
            others = seen[shape, by][rank - rank % procs : rank - rank % procs + procs]
            of_the_node = {gpu for one in others for gpu in one["CUDA_VISIBLE_DEVICES"].split(",")}
            assert len(of_the_node) == gpus * procs


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def digits(
    slurm_cluster: Cluster, installed: Path, horovod_python: str
) -> Iterator[dict[str, Path]]:
    """examples/digits, trained on 2 nodes x 2 ranks by srun, then by mpirun."""
    user = UserProject(slurm_cluster.project("digits"), slurm_cluster, installed)
    user.copy_example("digits")
    runs = {}
    for by in WAYS:
        done = user.launch(*HOROVOD, f"compute.launch={by}", "wait=true", "script_params.epochs=3")
        assert done.returncode == 0, done.stderr + user.everything(user.runs[-1])
        assert "epoch 2" in done.stdout
        runs[by] = user.runs[-1]
    yield runs
    user.clean()


@BOTH
def test_digits_learn_on_two_nodes(digits: dict[str, Path], by: str) -> None:
    lines = [json.loads(line) for line in (digits[by] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert lines[-1]["accuracy"] > 0.4  # of ten classes, after three epochs
    hosts = [json.loads((digits[by] / f"ranks/{n}.json").read_text())["host"] for n in range(4)]
    assert hosts == ["node1", "node1", "node2", "node2"]


def test_srun_and_mpirun_give_the_same_weights(
    digits: dict[str, Path], horovod_python: str
) -> None:
    assert difference(horovod_python, *(digits[by] for by in WAYS)) < 1e-4


def difference(python: str, one: Path, other: Path) -> float:
    """Return the largest difference of two runs' final weights."""
    script = (
        "import sys, torch\n"
        "a, b = (torch.load(f'{run}/checkpoints/last.pt')['model'] for run in sys.argv[1:])\n"
        "print(max((a[name] - b[name]).abs().max().item() for name in a))\n"
    )
    words = (python, "-c", script, str(one), str(other))
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_digits_that_are_preempted_end_with_the_same_weights(
    user: UserProject, digits: dict[str, Path], horovod_python: str
) -> None:
    user.copy_example("digits")
    text = (user.path / "train_horovod.py").read_text()
    wait = "    while epoch == 0 and os.environ['LAUNCHER_RESTART_COUNT'] == '0': pass\n"
    last = text.index("    report(step=epoch")
    user.write("train_horovod.py", text[:last] + wait + text[last:])
    run = user.submit(*HOROVOD, "compute.launch=srun", "script_params.epochs=3")
    ready(run, 1, word="epoch 0:")
    until((run / "checkpoints" / "last.pt").exists)
    blocker = user.block("--partition=urgent", "--nodes=2", "--exclusive")
    user.ask("scancel", blocker)
    user.requeue_now(run)
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    assert "going on from epoch 1" in log(run)
    assert difference(horovod_python, digits["srun"], run) < 1e-4


def test_torch_distributed_across_nodes(user: UserProject, horovod_python: str) -> None:
    user.write(
        "train.py",
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "value = torch.tensor(float(dist.get_rank() + 1))\n"
        "dist.all_reduce(value)\n"
        "print(dist.get_world_size(), value.item())\n"
        "dist.destroy_process_group()\n",
    )
    there = (f"environment.python={horovod_python}", "environment.provision=current")
    done = user.launch(*RANKS, *there, "nodes=2", "wait=true")
    assert done.returncode == 0, done.stderr + user.everything(user.run)
    assert all(log(user.run, rank).endswith("2 3.0\n") for rank in (0, 1))


@pytest.mark.usefixtures("horovod_python")
def test_ranks_that_do_not_see_each_other_are_stopped(user: UserProject) -> None:
    user.write("train.py", "print('epoch 0')\n")
    words = ("entry_script=train.py", "compute.launch=srun", "compute.mpi=none", "wait=true")
    done = user.launch(*HOROVOD, *words)
    assert done.returncode == 1
    last = events(user.run)[-1]
    assert (last["state"], last["exit_status"]) == ("FAILED", 86), user.everything(user.run)
    assert "4 were asked for, each saw 1" in last["reason"]
    logs = (user.run / "logs").glob("rank-*.log")  # of those that had begun
    assert all("epoch" not in each.read_text() for each in logs)
    until(lambda: user.processes(user.run) == "")


@BOTH
def test_when_one_rank_fails_all_end(user: UserProject, by: str) -> None:
    user.write(
        "train.py",
        "import os, sys, time\nprint('about to', flush=True)\n"
        "if os.environ['RANK'] == '2': raise ValueError('bad lr')\ntime.sleep(600)\n",
    )
    words = ("nodes=2", "procs_per_node=2", f"compute.launch={by}", "wait=true")
    done = user.launch(*RANKS, *words)
    assert done.returncode == 1
    last = events(user.run)[-1]
    assert (last["state"], last["exit_status"]) == ("FAILED", 1)
    assert last["failed"]["rank"] == 2
    assert "rank 2 on node2 failed first" in last["reason"]
    assert "ValueError: bad lr" in done.stderr
    until(lambda: user.processes(user.run) == "")


def test_what_starts_the_ranks_is_found_out(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    none = 'case "$*" in *--mpi=list*) echo "MPI plugin types are..."; echo none; exit;; esac\n'
    user.write("bin/srun", f'#!/bin/sh\n{none}exec /usr/bin/srun "$@"\n').chmod(0o755)
    path = {"PATH": f"{user.path}/bin:{user.env['PATH']}"}
    words = (*RANKS, "nodes=2", "environment.provision=current")
    planned = user.launch("plan", *words, **path)
    assert "/bin/mpirun -n 2" in planned.stdout, planned.stderr
    assert user.ends(user.submit(*words, **path)) == "SUCCEEDED"
    refused = user.launch("plan", *words, "compute.launch=srun", **path)
    assert refused.returncode == 2
    assert "no PMIx plugin" in refused.stderr
    assert "compute.launch=mpirun" in refused.stderr


def test_hostile_arguments_variables_and_comments(user: UserProject) -> None:
    nasty = 'it\'s $HOME `id` "x" \\ %j %% #, ;&|*?~ é'
    user.write(
        "train.py",
        "import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['NASTY']]))\n",
    )
    user.write(
        "go.py",
        "import launcher, sys\n"
        "run = launcher.submit('compute=slurm', 'dist=mpi', 'dist.horovod=false', 'nodes=2',\n"
        "    'environment.torch=null', entry_script='train.py', env={'NASTY': sys.argv[1]},\n"
        "    script_params={'word': sys.argv[1], 'lines': sys.argv[1] + '\\n\\t'},\n"
        "    compute={'comment': sys.argv[1]})\n"
        "assert run.wait().value == 'SUCCEEDED', run.logs()\n",
    )
    done = user.cluster.run(("python", "go.py", nasty), cwd=user.path, env=user.env)
    assert done.returncode == 0, done.stderr
    words = ["--word", nasty, "--lines", f"{nasty}\n\t"]
    assert [json.loads(log(user.run, rank)) for rank in (0, 1)] == [[words, nasty]] * 2
    assert f"Comment={nasty}" in user.ask("scontrol", "show", "job", job_id(user.run))
