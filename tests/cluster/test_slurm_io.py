"""What launcher/slurm asks a real cluster, and tells it; on one with accounts and one without."""

from __future__ import annotations

import itertools
import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import PlanError, StateError, SubmitError
from launcher.slurm import batch, cluster, fit, queue
from tests.cluster.site import ROOT
from tests.real.conftest import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.slurm.queue import JobView
    from tests.cluster.cluster import Cluster

_names = itertools.count(1)
INSIDE = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from launcher.slurm.inside import Allocation
here = Allocation.from_environment(os.environ)
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})  # as a supervisor does
def say(*words):
    with open(f"{{sys.argv[1]}}/{{here.restarts}}", "a") as file:
        print(*words, file=file)
say(*here.nodes)
if here.restarts == 0 and "requeue" in sys.argv:
    say(here.requeue())
told = here.restarts == 0 and signal.sigwait({{signal.SIGTERM}})
why = here.why() if told else None
say(why and why.kind, why and why.node)
if "cancel" in sys.argv:
    say(here.cancel())
"""


@pytest.fixture(params=["cluster", "cluster_dbd"])
def up(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found: Cluster = request.getfixturevalue(request.param)
    monkeypatch.setenv("SLURM_CONF", found.env["SLURM_CONF"])
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAUNCHER_POLL_S", "0")
    monkeypatch.setattr(batch, "_PAUSES_S", (0.1, 0.2, 0.4))
    return found


@pytest.fixture
def folder(up: Cluster) -> Path:
    return up.project(f"io-{next(_names)}", user="root")


def submit(folder: Path, command: str, say: Callable[[str], None] = print, **options: Any) -> str:
    named = {"job-name": f"io-{os.getpid()}-{next(_names)}", **options}
    parameters = {"output": batch.literal(f"{folder}/log"), **named}
    script = folder / "job.sh"
    script.write_text(batch.text(parameters, command, str(folder)))
    env = batch.environment(parameters, os.environ)
    return batch.submit(("sbatch", str(script)), named["job-name"], env, say)


def ended(job_id: str) -> JobView | None:
    found = queue.look({job_id: 0.0})[job_id]
    return None if found.state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED") else found


def scontrol(up: Cluster, *words: str) -> str:
    return up.run(("scontrol", *words), user="root").stdout


@pytest.mark.parametrize(
    "value",
    [
        "it's",
        'a "b" c',
        "$HOME `id` $(id) ; & | <",
        "# no comment",
        "100%j %% %A",
        "back\\slash \\\\ end\\",
        "%a\\b",
        "' # \"",
        "é漢 *?~!",
    ],
)
def test_a_hostile_value_arrives_as_it_is(value: str, up: Cluster, folder: Path) -> None:
    inner = folder / value
    inner.mkdir()
    log = batch.literal(f"{inner}/log")
    options = {"comment": value, "job-name": f"n {value}", "output": log}
    job_id = submit(folder, "exec echo said", **options)
    assert batch.find(f"n {value}") == job_id
    until(lambda: ended(job_id))
    shown = scontrol(up, "--oneliner", "show", "job", job_id)
    assert f" JobName=n {value} UserId=" in shown
    assert f" Comment={value} " in shown
    assert (inner / "log").read_text() == "said\n"


def test_a_job_from_its_queue_to_its_end(up: Cluster, folder: Path) -> None:
    held = submit(folder, "exec sleep 600", hold=True)
    until(lambda: queue.look({held: 0.0})[held].reason == "JobHeldUser")
    runs = submit(folder, "exec sleep 600")
    until(lambda: queue.look({runs: 0.0})[runs].state == "RUNNING")
    assert queue.look({runs: 0.0})[runs].nodes in ("node1", "node2")
    up.run(("scancel", held, runs), user="root")
    fails = submit(folder, "exit 3")
    states = {each: until(lambda each=each: ended(each)) for each in (held, runs, fails)}
    assert (states[held].state, states[runs].state) == ("CANCELLED", "CANCELLED")
    assert (states[fails].state, states[fails].exit_status) == ("FAILED", 3)
    assert queue.look({"99999999": 0.0}) == {}


def test_a_job_is_found_by_its_name(up: Cluster, folder: Path) -> None:
    assert batch.find("nothing-like-it") is None
    job_id = submit(folder, "exec sleep 600", **{"job-name": "found-1"})
    assert batch.find("found-1") == job_id
    up.run(("scancel", job_id), user="root")
    assert batch.find("found-1") == job_id


def test_sacct_tells_of_a_job_that_squeue_forgot(
    up: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(folder, "exit 3")
    until(lambda: ended(job_id))
    monkeypatch.setattr(queue, "queued", lambda _: {})  # as if MinJobAge had passed
    if up.at.accounting == "none":
        assert queue.look({job_id: 0.0}) == {}
        return

    def accounted() -> JobView | None:  # some seconds late
        found = queue.look({job_id: 0.0}).get(job_id)
        return found if found and found.state == "FAILED" else None

    found = until(accounted)
    assert (found.source, found.exit_status) == ("sacct", 3)


def test_the_expected_start(up: Cluster, folder: Path) -> None:
    script = folder / "job.sh"
    script.write_text(batch.text({"nodes": 1, "output": "/dev/null"}, "exec true", "/tmp"))
    up.wait_idle()
    start = batch.estimate(("sbatch", str(script)), batch.environment((), os.environ)).result(120)
    assert start is not None
    assert abs(start - time.time()) < 300


def test_what_the_cluster_has(up: Cluster) -> None:
    keys = ("partition", "qos", "reservation", "exclude", "constraint")
    compute = SimpleNamespace(
        **dict.fromkeys(keys), account="x", nodelist="node1", extra={}, launch="auto"
    )
    seen = cluster.probe(SimpleNamespace(compute=compute))  # type: ignore[arg-type]
    assert seen is not None
    assert seen.version.startswith("2")
    assert seen.names == ("node1", "node2")
    assert {each.partition for each in seen.groups} >= {"debug", "short"}
    assert (seen.accounts is None) == (up.at.accounting == "none")
    assert fit.starter("auto", "auto", seen, False) == ("srun", "pmix")
    compute.account, compute.partition = None, "shorts"
    with pytest.raises(PlanError, match=r"compute\.partition=shorts"):
        fit.refuse(SimpleNamespace(compute=compute), seen)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"partition": "nope"}, "compute.partition=nope: "),
        ({"constraint": "a&nope"}, "compute.constraint=a&nope: "),
        ({"begin": "no time"}, "compute.extra.begin=no time: "),
    ],
)
def test_a_refusal_names_the_key(
    options: dict[str, str], key: str, up: Cluster, folder: Path
) -> None:
    assert up
    with pytest.raises(SubmitError) as error:
        submit(folder, "exec true", **options)
    assert error.value.message.startswith(key)
    assert not error.value.transient


def test_a_controller_that_is_away_for_a_while(up: Cluster, folder: Path) -> None:
    said: list[str] = []

    def back(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            up.start_controller()

    up.stop_controller()
    try:
        with pytest.raises(StateError, match="does not answer"):
            queue.look({"1": 0.0})
        job_id = submit(folder, "exec true", back, **{"job-name": "away-1"})
        assert "trying again" in said[0]
    finally:
        if not said:
            up.start_controller()
    words = ("--noheader", "--states=all", "--name=away-1", "--format=%i")
    assert up.run(("squeue", *words), user="root").stdout.split() == [job_id]
    up.wait_idle()


# -- inside -------------------------------------------------------------------------------------


def inside(folder: Path, *words: str, **options: Any) -> tuple[str, Path]:
    """Submit a job that writes down what it is told; return its id and its first words' file."""
    script = folder / "inside.py"
    script.write_text(INSIDE)
    command = f"exec /usr/bin/python3 -I -S {script} {folder} {' '.join(words)}"
    job_id = submit(folder, command, **{"open-mode": "append", **options})
    first = folder / "0"
    until(lambda: first.exists() and first.read_text())
    return job_id, first


@pytest.fixture
def slow(up: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the signal that a job asked for come before the answer to that, as on a busy node."""
    for name in ("scancel", "scontrol"):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        real = up.run(("sh", "-c", f"command -v {name}"), user="root").stdout.strip()
        program.write_text(f'#!/bin/bash\n{real} "$@"\nstatus=$?\nsleep 1\nexit $status\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def told(file: Path, lines: int) -> list[str]:
    """Return what a job wrote down after its first line, once there are so many lines more."""
    until(lambda: file.read_text().count("\n") > lines)
    return file.read_text().splitlines()[1:]


def test_a_cancelled_job_knows_it(up: Cluster, folder: Path) -> None:
    job_id, file = inside(folder, nodes=2)
    assert file.read_text() == "node1 node2\n"
    up.run(("scancel", job_id), user="root")
    assert told(file, 1) == ["cancelled "]
    assert until(lambda: ended(job_id)).state == "CANCELLED"


@pytest.mark.usefixtures("slow")
def test_a_job_that_cancels_itself_is_cancelled(up: Cluster, folder: Path) -> None:
    job_id, file = inside(folder, "cancel")
    up.run(("scancel", "--batch", "--signal=TERM", job_id), user="root")
    assert told(file, 2) == ["cancelled ", "None"]
    assert until(lambda: ended(job_id)).state == "CANCELLED"


@pytest.mark.usefixtures("slow")
def test_a_job_has_itself_queued_again(up: Cluster, folder: Path) -> None:
    job_id, file = inside(folder, "requeue", requeue=True)
    assert told(file, 2) == ["None", "requeued "]
    until((folder / "1").exists)
    assert queue.look({job_id: 0.0})[job_id].restarts == 1
    assert until(lambda: ended(job_id)).state == "COMPLETED"
    assert up


def test_a_job_that_may_not_is_told_why(up: Cluster, folder: Path) -> None:
    job_id, file = inside(folder, "requeue", **{"no-requeue": True})
    assert told(file, 1)[0].startswith("Requested operation is presently disabled")
    up.run(("scancel", job_id), user="root")
    until(lambda: ended(job_id))


def test_a_preempted_job_knows_it_and_can_end_for_good(up: Cluster, folder: Path) -> None:
    up.wait_idle()
    job_id, file = inside(folder, "cancel", nodes=2, exclusive=True, requeue=True)
    more = up.project(f"io-{next(_names)}", user="root")
    urgent = submit(more, "exec true", partition="urgent", nodes=2, exclusive=True)
    assert told(file, 2) == ["preempted ", "None"]
    assert until(lambda: ended(job_id)).state == "CANCELLED"
    assert until(lambda: ended(urgent)).state == "COMPLETED"


@pytest.mark.parametrize("again", [True, False])
def test_a_job_whose_node_failed_knows_which(up: Cluster, folder: Path, again: bool) -> None:
    up.wait_idle()
    job_id, file = inside(folder, nodes=2, **{"requeue" if again else "no-requeue": True})
    up.kill_node(2)  # else it would be back at once
    try:
        scontrol(up, "update", "NodeName=node2", "State=DOWN", "Reason=test")
        assert told(file, 1) == ["node failure node2"]
    finally:
        up.start_node(2)
    end = until(lambda: ended(job_id))
    assert end.state == ("COMPLETED" if again else "NODE_FAIL")
    up.wait_idle()
