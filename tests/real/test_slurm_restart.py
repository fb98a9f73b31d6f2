"""Preempted, out of time, a node gone: the run goes on, or ends in the state that is true."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.cluster import Cluster
from tests.real.conftest import events, log, until
from tests.real.slurm import SINGLE, TWO_NODES, UserProject, job_id, ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Timed = tuple[UserProject, dict[str, Path]]

# The first attempt saves and waits to be interrupted; the next one finds what it saved, and ends.
TWO_ATTEMPTS = (
    "import os, signal, sys, time\nfrom pathlib import Path\nfrom launcher import report\n"
    "attempt = int(os.environ['LAUNCHER_RESTART_COUNT'])\n"
    "folder = Path(os.environ['LAUNCHER_CHECKPOINT_DIR'])\n"
    "saved = folder / ('saved-' + os.environ.get('RANK', '0'))\n"
    "if saved.exists():\n"
    "    report(step=1, attempt=attempt)\n"
    "    print('goes on from', saved.read_text())\n    sys.exit(0)\n"
    "report(step=0, attempt=attempt)\n"
    "saved.write_text('step 0')\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(0)))\n"
    "print('ready', flush=True)\ntime.sleep(600)\n"
)
SLEEPS = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"
URGENT = ("--partition=urgent", "--nodes=2", "--exclusive")


HEARS = (
    "import os, signal, sys, time\n"
    "if os.environ['LAUNCHER_RESTART_COUNT'] != '0': print('again'); sys.exit(0)\n"
    "signal.signal(signal.SIGUSR1, lambda *_: (print('heard', flush=True), sys.exit(0)))\n"
    "print('ready', flush=True)\ntime.sleep(600)\n"
)
TIMED = {"sleeps": SLEEPS, "saves": TWO_ATTEMPTS, "hears": HEARS}
# The least that Slurm knows. It leaves 45 s to ranks, who hear of their end after 20 s: by then
# they listen.
ONE_MINUTE = ("compute.time=1", "compute.signal_before_end_s=25")


@pytest.fixture(scope="module", autouse=True)
def _timed(
    slurm_cluster: Cluster, installed: Path
) -> Iterator[tuple[UserProject, dict[str, Path]]]:
    """Runs of a minute: one only sleeps, one saves, one ends when it hears SIGUSR1.

    On a cluster of their own, so that the minute passes while the other tests run.
    """
    with Cluster(accounting=slurm_cluster.at.accounting) as own:
        user = UserProject(own.project("timed"), own, installed)
        runs = {}
        for name, script in TIMED.items():
            user.write("train.py", script)
            options = TWO_NODES if name == "hears" else SINGLE
            runs[name] = user.submit(*options, *ONE_MINUTE)
        yield user, runs


@pytest.fixture
def timed(_timed: Timed) -> dict[str, Path]:
    """Those runs, ended."""
    user, runs = _timed
    for run in runs.values():
        user.ends(run)
    return runs


def story(run: Path) -> list[str]:
    """Return the states that a run went through, as its folder tells them."""
    told = [each["state"] for each in events(run)]
    return [word for word in told if word != "SUBMITTING"]


def goes_on(user: UserProject, run: Path, ranks: int, *, told: bool = True) -> None:
    """Check that a run, interrupted once, ends well as the same run.

    ``told``: its supervisor lived to say that it will start again.
    """
    job = job_id(run)
    user.requeue_now(run)
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    waits = ["PENDING"] if told else []
    assert story(run) == ["PENDING", "RUNNING", *waits, "RUNNING", "SUCCEEDED"]
    assert [each["restart"] for each in events(run) if each["state"] == "RUNNING"] == [0, 1]
    assert job_id(run) == job
    for rank in range(ranks):
        first, _, second = log(run, rank).partition("--- restart 1 on node")
        assert first.startswith("ready\n")
        assert second.endswith("goes on from step 0\n")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["attempt"]) for line in lines] == [(0, 0), (1, 1)]
    (listed,) = json.loads(user.launch("runs", "--json").stdout)
    assert (listed["id"], listed["state"]) == (run.name, "SUCCEEDED")
    until(lambda: user.processes(run) == "")


def test_a_run_that_is_preempted(user: UserProject) -> None:
    user.write("train.py", TWO_ATTEMPTS)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    blocker = user.block(*URGENT)
    user.becomes(run, "PENDING")
    assert "preempt" in json.dumps(user.status(run))
    assert "told" in log(run, 0)
    user.ask("scancel", blocker)
    goes_on(user, run, ranks=2)


def test_a_run_that_is_preempted_once_too_often(user: UserProject) -> None:
    user.write("train.py", SLEEPS)
    run = user.submit(*SINGLE, "compute.max_restarts=0")
    ready(run)
    user.block(*URGENT)
    user.becomes(run, "FAILED")
    reason = user.status(run)["reason"]
    assert "make room for another" in reason
    assert "PREEMPTED" in reason
    assert "max_restarts" in user.launch("explain", run.name).stdout
    until(lambda: job_id(run) not in user.queued())


def test_a_run_that_must_not_start_again(user: UserProject) -> None:
    user.write("train.py", SLEEPS)
    run = user.submit(*SINGLE, "compute.requeue=false")
    ready(run)
    user.block(*URGENT)
    user.becomes(run, "FAILED")
    assert "compute.requeue is false" in user.status(run)["reason"]
    assert story(run)[-1] == "FAILED"


def test_scontrol_requeue_by_hand(user: UserProject) -> None:
    user.write("train.py", TWO_ATTEMPTS)
    run = user.submit(*SINGLE)
    ready(run)
    user.ask("scontrol", "requeue", job_id(run))
    goes_on(user, run, ranks=1)


# ------------------------------------------------------------------ a node's plug is pulled


@pytest.fixture
def second_node(user: UserProject) -> Iterator[UserProject]:
    """A user's project; the plug of node2 is in again after the test."""
    yield user
    if not user.cluster.nodes[1].pid:
        user.cluster.start_node(2)


def pull(user: UserProject) -> None:
    """Pull node2's plug, and tell Slurm at once."""
    user.cluster.kill_node(2)
    user.ask("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=its plug was pulled")


def test_the_first_node_dies_and_the_run_goes_on_elsewhere(second_node: UserProject) -> None:
    user = second_node
    user.write("train.py", TWO_ATTEMPTS)
    blocker = user.block("--nodelist=node1", "--exclusive")
    run = user.submit(*SINGLE)
    ready(run)
    pull(user)
    user.becomes(run, "PENDING")  # no node is left for it
    user.ask("scancel", blocker)
    goes_on(user, run, ranks=1, told=False)
    assert "--- restart 1 on node1" in log(run)


def test_another_node_dies_and_the_run_goes_on_when_it_is_back(second_node: UserProject) -> None:
    user = second_node
    user.write("train.py", TWO_ATTEMPTS)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    if user.cluster.at.accounting == "none":
        user.cluster.kill_node(2)  # and Slurm finds out for itself, half a minute later
    else:
        pull(user)
    user.becomes(run, "PENDING")
    assert "node2" in json.dumps(user.status(run))
    user.cluster.start_node(2)
    goes_on(user, run, ranks=2)


@pytest.mark.parametrize("first", [True, False], ids=["first", "other"])
def test_a_node_dies_and_the_run_must_not_start_again(
    second_node: UserProject, first: bool
) -> None:
    user = second_node
    user.write("train.py", SLEEPS)
    if first:
        user.block("--nodelist=node1", "--exclusive")
    words = SINGLE if first else TWO_NODES
    run = user.submit(*words, "compute.requeue=false")
    ready(run, 1 if first else 2)
    pull(user)
    user.becomes(run, "FAILED")
    assert "node2" in user.status(run)["reason"]
    assert "node2" in user.launch("explain", run.name).stdout
    assert log(run).startswith("ready\n")


# ------------------------------------------------------------------ the time limit


def test_a_run_that_saved_nothing_is_timed_out(timed: dict[str, Path]) -> None:
    run = timed["sleeps"]
    assert story(run) == ["PENDING", "RUNNING", "TIMED_OUT"]
    assert "time limit" in events(run)[-1]["reason"]  # SIGUSR1, which it does not catch, was none
    assert log(run) == "ready\n"


def test_a_run_that_saved_goes_on_after_its_time_limit(timed: dict[str, Path]) -> None:
    run = timed["saves"]
    assert story(run) == ["PENDING", "RUNNING", "PENDING", "RUNNING", "SUCCEEDED"]
    assert "told" in log(run)
    assert log(run).endswith("goes on from step 0\n")
    waits = next(each for each in events(run) if each.get("restart") == 1)
    assert "time limit" in waits["reason"]


def test_a_run_that_hears_of_its_end_goes_on(timed: dict[str, Path]) -> None:
    run = timed["hears"]
    assert story(run) == ["PENDING", "RUNNING", "PENDING", "RUNNING", "SUCCEEDED"]
    for rank in (0, 1):
        assert log(run, rank).startswith("ready\nheard\n--- restart 1 on node")
        assert log(run, rank).endswith("again\n")
    waits = next(each for each in events(run) if each.get("restart") == 1)
    assert "told that the end is near" in waits["reason"]  # it did not wait for its limit


def test_the_signals_in_their_order(user: UserProject) -> None:
    user.write(
        "train.py",
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('near', flush=True))\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "end = time.monotonic() + 600\nwhile time.monotonic() < end: time.sleep(0.05)\n",
    )
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    # As a site does with `--signal=USR1` of its own, or a user by hand.
    user.ask("scancel", "--batch", "--signal=USR1", job_id(run))
    ready(run, 2, word="near")
    user.launch("cancel", run.name)
    assert [log(run, rank) for rank in (0, 1)] == ["ready\nnear\ntold\n"] * 2
