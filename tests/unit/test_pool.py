"""Leases of cores, and a pool's own program, with supervisors that say what they were given."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from launcher.compute.local import Local
from launcher.environment.locate import Prefix
from launcher.errors import PlanError
from launcher.job import Facts, Resources
from launcher.pool.claim import claim
from launcher.pool.cores import LEASED, Leases, devices, share
from launcher.sweep.store import GroupFolder

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "launcher" / "pool_runs.py"
TOLD = (
    "import json, os, sys, time; begun = time.time(); time.sleep(0.05); "
    "told = [begun, time.time(), sorted(os.sched_getaffinity(0)), "
    "os.environ.get('CUDA_VISIBLE_DEVICES')]; "
    "open(sys.argv[1] + '/told', 'w').write(json.dumps(told)); "
    "open(sys.argv[1] + '/events.jsonl', 'a').write(json.dumps({'state': 'RUNNING'}) + '\\n')"
)
CORES = sorted(os.sched_getaffinity(0))
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Queue:
    """A store with one group of runs that wait."""

    path: Path

    @property
    def group(self) -> GroupFolder:
        return GroupFolder(str(self.path / ".sweeps" / "s" / "groups" / "0"))

    def fill(self, *needs: dict[str, Any]) -> None:
        os.makedirs(self.group.path)
        runs = [f"run-{number}" for number, _ in enumerate(needs)]
        usual = {"cores": 1, "gpus": 0, "max_parallel": None}
        values = {"runs": runs, "needs": [usual | need for need in needs]}
        Path(self.group.file("group.json")).write_text(json.dumps(values))
        for run in runs:
            (self.path / run).mkdir()
            (self.path / run / "events.jsonl").write_text('{"state": "SUBMITTING"}\n')

    def start(self, *supervisor: str, told: bytes = b"!", **env: str) -> None:
        """Run the pool to its end."""
        words = supervisor or (sys.executable, "-I", "-S", "-c", TOLD)
        subprocess.run(
            [sys.executable, "-I", "-S", str(PROGRAM), self.group.path, *words],
            input=told,
            env={**os.environ, **env},
            check=True,
        )

    def told(self, task: int) -> list[Any]:
        found: list[Any] = json.loads((self.path / f"run-{task}" / "told").read_text())
        return found

    def last(self, task: int) -> dict[str, Any]:
        lines = (self.path / f"run-{task}" / "events.jsonl").read_text().splitlines()
        found: dict[str, Any] = json.loads(lines[-1])
        return found


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv(LEASED, own_share())
    return Queue(tmp_path / "runs")


def own_share() -> str:
    """Return what no other test shares."""
    return f"test-{os.getpid()}-{next(NUMBERS)}"


@pytest.fixture
def shared() -> str:
    return own_share()


def leases(shared: str, cores: int = 2, gpus: tuple[str, ...] = ()) -> Leases:
    return Leases(shared, range(cores), gpus)


def test_a_core_is_leased_once_and_again_when_it_is_free(shared: str) -> None:
    ours, theirs = leases(shared), leases(shared)
    first, second = ours.take(1, 0), theirs.take(1, 0)
    assert first
    assert second
    assert (first.cores, second.cores) == ((0,), (1,))
    assert ours.take(1, 0) is None
    second.close()
    third = ours.take(1, 0)
    assert third
    assert third.cores == (1,)
    first.close()
    third.close()


def test_more_than_there_are_is_all(shared: str) -> None:
    lease = leases(shared, gpus=("0",)).take(9, 9)
    assert lease
    assert (lease.cores, lease.gpus) == ((0, 1), ("0",))
    lease.close()


def test_a_large_run_is_not_starved_by_small_ones(shared: str) -> None:
    small, large = leases(shared), leases(shared)
    first, second = small.take(1, 0), small.take(1, 0)
    assert first
    assert second
    assert large.take(2, 0) is None  # it has its turn now
    first.close()
    assert small.take(1, 0) is None
    assert large.take(2, 0) is None
    second.close()
    lease = large.take(2, 0)
    assert lease
    lease.close()


def test_who_had_a_turn_gets_behind_those_who_wait(shared: str) -> None:
    ours, theirs = leases(shared, cores=1), leases(shared, cores=1)
    first = ours.take(1, 0)
    assert first
    assert ours.take(1, 0) is None  # our turn, no core
    assert theirs.take(1, 0) is None  # at the door
    first.close()
    second = ours.take(1, 0)
    assert second
    second.close()
    assert ours.take(1, 0) is None
    third = theirs.take(1, 0)
    assert third
    third.close()


def test_who_waits_for_a_gpu_keeps_nobody_from_cores(shared: str) -> None:
    trains, computes = leases(shared, 3, ("0",)), leases(shared, 3, ("0",))
    first = trains.take(1, 1)
    assert first
    assert trains.take(1, 1) is None
    other = computes.take(1, 0)
    assert other
    first.close()
    second = trains.take(1, 1)
    assert second
    assert (second.cores, second.gpus) == ((0,), ("0",))
    second.close()
    other.close()


def test_first_come_first_served_whoever_looks_most_often(shared: str) -> None:
    held = leases(shared, cores=1).take(1, 0)
    assert held
    waiting = [leases(shared, cores=1) for _ in range(4)]
    for each in (*waiting, *reversed(waiting)):
        assert each.take(1, 0) is None
    assert [each.ahead for each in waiting] == [0, 1, 2, 3]
    waiting.pop(2).drop()
    for count, first in enumerate(waiting):
        held.close()
        for other in waiting[count + 1 :]:
            assert other.take(1, 0) is None
        held = first.take(1, 0)
        assert held
    held.close()


def test_who_dies_has_left_the_queue_and_given_all_back(shared: str) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from launcher.pool.cores import Leases\n"
        f"ours, theirs = (Leases({shared!r}, range(2), ()) for _ in range(2))\n"
        "held = ours.take(1, 0)\nprint(theirs.take(2, 0), flush=True)\nsys.stdin.read()\n"
    )
    words = (sys.executable, "-I", "-S", "-c", program)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "None\n"
        behind = leases(shared)
        assert behind.take(1, 0) is None
        assert behind.ahead == 1
        other.kill()
        other.wait()
    lease = behind.take(2, 0)
    assert lease
    lease.close()


def test_slots_and_cores_meet(shared: str) -> None:
    slots, cores = Leases(shared, {4, 5}, (), 3), Leases(shared, {4, 5}, ())
    one, two = slots.take(1, 0), cores.take(1, 0)
    assert one
    assert two
    assert (one.cores, two.cores) == ((), (5,))
    three = slots.take(1, 0)  # it is no core
    assert three
    assert slots.take(1, 0) is None
    assert cores.take(1, 0) is None
    slots.drop()
    one.close()
    again = cores.take(1, 0)
    assert again
    assert again.cores == (4,)
    for each in (two, three, again):
        each.close()


def test_a_run_s_pools_share_what_it_has() -> None:
    assert (share({}), share({LEASED: "run"})) == ("all", "run")


def test_what_was_collected_for_a_run_that_was_cancelled_is_free(shared: str) -> None:
    ours, theirs = leases(shared), leases(shared)
    held = theirs.take(1, 0)
    assert held
    assert ours.take(2, 0) is None
    ours.drop()
    more = theirs.take(1, 0)
    assert more
    held.close()
    more.close()


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ("0,2", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("3,-1,4", ["3"]),
        (" GPU-1f ,MIG-2/1/0", ["GPU-1f", "MIG-2/1/0"]),
    ],
)
def test_devices_are_those_that_cuda_would_show(told: str, names: list[str]) -> None:
    assert devices({"CUDA_VISIBLE_DEVICES": told}) == names


def test_runs_start_in_order_and_share_no_core(queue: Queue) -> None:
    queue.fill(*[{}] * 3 * len(CORES))
    queue.start()
    told = [queue.told(task) for task in range(3 * len(CORES))]
    assert all(len(cores) == 1 for _, _, cores, _ in told)
    for core in CORES:
        spans = sorted(each[:2] for each in told if each[2] == [core])
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    claimed = [os.stat(queue.path / f"run-{task}" / "job").st_mtime_ns for task in range(len(told))]
    assert claimed == sorted(claimed)
    assert [each["state"] for each in queue.group.events()] == ["PENDING"]


def test_max_parallel_is_kept(queue: Queue) -> None:
    queue.fill(*[{"max_parallel": 1}] * 4)
    queue.start()
    spans = [queue.told(task)[:2] for task in range(4)]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_gpus_are_shared_out(queue: Queue) -> None:
    queue.fill({"gpus": 1}, {"gpus": 2}, {"gpus": 5}, {})
    queue.start(CUDA_VISIBLE_DEVICES="4,7")
    assert queue.told(0)[3] in ("4", "7")
    assert [queue.told(task)[3] for task in (1, 2, 3)] == ["4,7"] * 3
    assert queue.told(0)[1] <= queue.told(1)[0]


def test_runs_that_were_cancelled_or_removed_are_left_out(queue: Queue) -> None:
    queue.fill({}, {}, {})
    claimed = claim(GroupFolder(str(queue.path / "run-0")))
    assert claimed is not None
    os.close(claimed)
    (queue.path / "run-1" / "events.jsonl").unlink()
    (queue.path / "run-1").rmdir()
    queue.start()
    assert not (queue.path / "run-0" / "told").exists()
    assert queue.told(2)


def test_a_supervisor_that_does_not_begin_is_a_run_that_failed(queue: Queue) -> None:
    queue.fill({})
    queue.start("sh", "-c", "echo no room; exit 3")
    assert queue.last(0)["state"] == "FAILED"
    assert queue.last(0)["exit_status"] == 3
    assert "no room" in queue.last(0)["reason"]


def test_a_supervisor_that_is_not_there_is_a_run_that_failed(queue: Queue) -> None:
    queue.fill({}, {})
    queue.start("/nowhere/python")
    for task in (0, 1):
        assert queue.last(task)["exit_status"] == 127
        assert "cannot be started" in queue.last(task)["reason"]


def test_a_submit_that_dies_starts_nothing(queue: Queue) -> None:
    queue.fill({})
    queue.start(told=b"")
    assert queue.group.events() == []
    assert os.listdir(queue.path / "run-0") == ["events.jsonl"]


def facts(cpus: int) -> Facts:
    prefix = Prefix(
        kind="current", key="", path="", python="/p", mpirun="", mpi_version=(), ready=True
    )
    return Facts(
        user="me",
        uid=1000,
        host="here",
        cpus=cpus,
        python="/p/python",
        package_root="/root",
        git_dir="/g",
        source_prefix="",
        prefix=prefix,
    )


@pytest.mark.parametrize(
    ("compute", "ranks", "cores", "threads"),
    [
        (Local(), 1, 8, 8),
        (Local(), 3, 8, 2),
        (Local(), 9, 9, 1),
        (Local(max_parallel=3), 1, 2, 2),
        (Local(max_parallel=2), 3, 4, 1),
        (Local(max_parallel=20), 1, 1, 1),
        (Local(max_parallel=2, cpus_per_proc=1), 2, 2, 1),
        (Local(cpus_per_proc=6), 2, 12, 6),
    ],
)
def test_cores_of_a_run_and_threads_of_a_rank_agree(
    compute: Local, ranks: int, cores: int, threads: int
) -> None:
    resources = Resources(procs_per_node=ranks)
    assert compute.cores(resources, facts(8)) == cores
    assert compute.cpus_of_a_rank(resources, facts(8)) == threads


def test_less_than_one_run_at_once_is_refused() -> None:
    with pytest.raises(PlanError, match=r"compute\.max_parallel=0: must be 1 or more"):
        Local(max_parallel=0).check(Resources())
