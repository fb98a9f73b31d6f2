"""What goes wrong around a run: nothing is doubled, nothing is lost, nothing is given away."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.cluster.user import USER, account
from tests.real.conftest import events, log, state, until
from tests.real.slurm import SINGLE, TWO_NODES, WAITS, job_id, ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.slurm import UserProject

PASSING = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
TOO_MANY = "sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job"
# A program named sbatch before the real one on PATH; $TRIES counts its calls that submit.
HEAD = """#!/bin/sh
case " $* " in *" --test-only "*|*" --version "*) exec /usr/bin/sbatch "$@" ;; esac
echo "$$" >> "$TRIES"
"""
FAILS_TWICE = """[ $(wc -l < "$TRIES") -gt 2 ] || { echo "$SAYS" >&2; exit 1; }
exec /usr/bin/sbatch "$@"
"""
SAYS_FAILED_ONCE = """/usr/bin/sbatch "$@" > "$TRIES.out"; status=$?
[ $(wc -l < "$TRIES") -gt 1 ] || { echo "$SAYS" >&2; exit 1; }
cat "$TRIES.out"; exit $status
"""
HANGS_BEFORE = 'sleep 3; /usr/bin/sbatch "$@"\n'
HANGS_AFTER = '/usr/bin/sbatch "$@"; sleep 600\n'
NEVER_GETS_THERE = "exec sleep 600\n"


def with_sbatch(user: UserProject, text: str, **more: str) -> dict[str, str]:
    """Return the environment in which `sbatch` is what `text` says."""
    user.write("bin/sbatch", HEAD + text).chmod(0o755)
    path = f"{user.path}/bin:{user.env['PATH']}"
    return {"PATH": path, "TRIES": str(user.path / "tries"), **more}


# ------------------------------------------------------------------ a submit that does not go well


@pytest.mark.parametrize("says", [PASSING, TOO_MANY], ids=["timed_out", "too_many"])
def test_a_passing_error_is_tried_again(user: UserProject, says: str) -> None:
    user.write("train.py", "print('ran')\n")
    env = with_sbatch(user, FAILS_TWICE, SAYS=says)
    done = user.launch(*SINGLE, **env)
    assert done.returncode == 0, done.stderr
    assert says.rpartition(": ")[2] in done.stderr
    assert (user.path / "tries").read_text().count("\n") == 3
    assert user.ends(user.run) == "SUCCEEDED"


def test_a_job_that_got_in_although_sbatch_says_no_is_not_doubled(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    env = with_sbatch(user, SAYS_FAILED_ONCE, SAYS=PASSING)
    done = user.launch(*SINGLE, "compute.extra={hold: true}", **env)
    assert done.returncode == 0, done.stderr
    assert user.queued() == [job_id(user.run)]
    assert (user.path / "tries").read_text().count("\n") == 1


def killed(user: UserProject, text: str, *words: str, all_of_it: bool) -> Path:
    """Return the run whose submitter was killed while `sbatch` was what `text` says."""
    env = with_sbatch(user, text)
    running = user.start(*SINGLE, *words, **env)
    until((user.path / "tries").exists)
    if text is HANGS_AFTER:
        until(user.queued)
    if all_of_it:
        os.killpg(running.pid, signal.SIGKILL)
    else:
        os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    return user.run


def two_minutes_later(run: Path) -> None:
    """Let a run look as it will when no sbatch can be on its way any more."""
    told = [{**each, "time": each["time"] - 120} for each in events(run)]
    (run / "events.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in told))


def test_a_submitter_killed_before_its_job_is_queued(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    run = killed(user, NEVER_GETS_THERE, all_of_it=True)
    assert user.shown(run) == "SUBMITTING"  # the queue may tell of its job late
    two_minutes_later(run)
    assert user.shown(run) == "LOST"
    assert user.queued() == []
    assert "Traceback" not in user.launch("runs").stderr
    assert user.ends(user.submit(*SINGLE)) == "SUCCEEDED"


def test_a_submitter_killed_while_sbatch_goes_on(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = killed(user, HANGS_BEFORE, all_of_it=False)
    ready(run)  # sbatch did get there, after the launcher's end
    assert user.shown(run) == "RUNNING"
    (run / "go").touch()
    assert user.ends(run) == "SUCCEEDED"
    assert user.launch("wait", run.name).returncode == 0


def test_a_submitter_killed_after_its_job_is_queued(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = killed(user, HANGS_AFTER, "compute.extra={hold: true}", all_of_it=True)
    assert user.shown(run) == "PENDING"
    (job,) = user.queued()
    assert job_id(run) == job  # found by its name, and written down
    user.ask("scontrol", "release", job)
    ready(run)
    assert user.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    until(lambda: user.queued() == [])


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.4, 0.6])
def test_a_submitter_killed_at_any_time(user: UserProject, after_s: float) -> None:
    user.write("train.py", "print('ran')\n")
    running = user.start(*SINGLE, "compute.extra={hold: true}")
    time.sleep(after_s)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    for run in user.runs:
        two_minutes_later(run)
    listed = user.launch("runs", "--json")
    assert listed.returncode == 0, listed.stderr
    queued = user.queued()
    runs = json.loads(listed.stdout or "[]")
    assert len(queued) == len([each for each in runs if each["state"] == "PENDING"])
    for each in runs:
        assert each["state"] in ("PENDING", "LOST", "FAILED", "CANCELLED")
    assert user.launch("cancel", *[each["id"] for each in runs]).returncode == 0 if runs else True
    assert user.queued() == []


# ------------------------------------------------------------------ Slurm does not answer


@pytest.fixture
def no_controller(user: UserProject) -> Iterator[UserProject]:
    yield user
    if user.cluster._slurmctld is None:
        user.cluster.start_controller()


def test_a_submit_while_slurm_does_not_answer(no_controller: UserProject) -> None:
    user = no_controller
    user.write("train.py", "print('ran')\n")
    user.cluster.stop_controller()
    done = user.launch(*SINGLE)
    assert done.returncode == 3, done.stderr
    assert "slurmctld" in done.stderr
    assert "does not answer" in done.stderr
    assert "scontrol ping" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(user.path.glob("runs/*/events.jsonl"))
    user.cluster.start_controller()
    assert user.queued() == []
    assert user.ends(user.submit(*SINGLE)) == "SUCCEEDED"


def test_a_run_goes_on_while_slurm_does_not_answer(no_controller: UserProject) -> None:
    user = no_controller
    user.write("train.py", WAITS)
    run = user.submit(*TWO_NODES)
    held = user.submit(*SINGLE, "compute.extra={hold: true}")
    ready(run, 2)
    user.cluster.stop_controller()
    listed = json.loads(user.launch("runs", "--json").stdout)
    known = {each["id"]: each["state"] for each in listed}
    assert known == {run.name: "RUNNING", held.name: "PENDING"}
    (run / "go").touch()
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    assert user.shown(run) == "SUCCEEDED"
    assert log(run, 1) == "ready\nend\n"
    user.cluster.start_controller()
    user.becomes(held, "PENDING")
    until(lambda: user.queued() == [job_id(held)])


def test_a_run_that_was_given_up_while_it_waits_is_cancelled_later(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    run = user.submit(*SINGLE, "compute.extra={hold: true}")
    says = "scancel: error: Unable to contact slurm controller"
    user.write("bin/scancel", f"#!/bin/sh\necho '{says}' >&2; exit 1\n").chmod(0o755)
    away = {"PATH": f"{user.path}/bin:{user.env['PATH']}"}
    refused = user.launch("cancel", run.name, **away)
    assert refused.returncode == 1, refused.stderr
    assert says in refused.stderr
    done = user.launch("cancel", "--give-up", run.name, **away)
    assert done.stdout == f"{run.name} CANCELLED\n", done.stderr
    assert user.queued() == [job_id(run)]
    done = user.launch("cancel", run.name)
    assert (done.returncode, done.stdout) == (0, f"{run.name} CANCELLED\n"), done.stderr
    assert user.queued() == []


# ------------------------------------------------------------------ a full disk

# Fills the disk once what it has printed is in its log.
FILLS = (
    "import os, sys, time\nfrom launcher import report\nreport(step=0, loss=0.5)\n"
    "print('ready', flush=True)\n"
    "log = os.environ['LAUNCHER_RUN_DIR'] + '/logs/rank-0.log'\n"
    "while not (os.path.exists(log) and os.path.getsize(log)): time.sleep(0.01)\n"
    "with open(os.environ['LAUNCHER_OUTPUT_DIR'] + '/big', 'wb', buffering=0) as file:\n"
    "    while True: file.write(bytes(1 << 16))\n"
)


def on_node_1(user: UserProject, line: str) -> str:
    """Return what a shell's line says that the user runs on node1."""
    who = account(USER)
    env = {**user.env, **user.cluster.env, "HOME": str(user.cluster.home()), "USER": USER}
    words = ("setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups")
    pairs = (f"{name}={value}" for name, value in env.items())
    done = user.cluster.node_exec(
        1, ("env", *pairs, *words, "bash", "-c", f"cd {user.path} && {line}")
    )
    return done.stdout + done.stderr


def test_a_full_disk_is_told_and_nothing_is_lost(user: UserProject) -> None:
    user.write("train.py", FILLS)
    (user.path / "runs").mkdir()
    who = account(USER)
    options = f"size=16m,uid={who.pw_uid},gid={who.pw_gid}"
    mount = ("mount", "-t", "tmpfs", "-o", options, "small", str(user.path / "runs"))
    assert user.cluster.node_exec(1, mount).returncode == 0  # gone with the node, whatever happens
    try:
        said = on_node_1(user, f"launcher {' '.join(SINGLE)} compute.nodelist=node1 wait=true")
        assert "FAILED" in said, said
        assert "No space left on device" in said
        explained = on_node_1(user, "launcher explain @last")
        assert "disk" in explained
        assert on_node_1(user, "launcher logs @last").startswith("ready\n")
        listed = json.loads(on_node_1(user, "launcher runs --json"))
        assert [each["state"] for each in listed] == ["FAILED"]
        assert listed[0]["metrics"]["loss"] == 0.5
        on_node_1(user, "rm runs/*/outputs/big")
        listed = json.loads(on_node_1(user, "launcher runs --json"))
        assert [each["state"] for each in listed] == ["FAILED"]
    finally:
        user.clean()
        user.cluster.node_exec(1, ("umount", "--lazy", str(user.path / "runs")))


# ------------------------------------------------------------------ secrets


def test_a_secret_is_nowhere_but_in_the_script(user: UserProject) -> None:
    user.write(
        "train.py",
        "import os, time\nassert len(os.environ['MY_TOKEN']) == 12\n"
        "assert len(os.environ['HANDED_ON']) == 13\n"
        "print('token', os.environ['MY_TOKEN'], 'and', os.environ['HANDED_ON'], flush=True)\n"
        "while not os.path.exists(os.environ['LAUNCHER_RUN_DIR'] + '/go'): time.sleep(0.05)\n",
    )
    words = (*TWO_NODES, "env.MY_TOKEN=open-sesame1", "secrets=[HANDED_ON]")
    secrets = (b"open-sesame1", b"silent-sesame")
    run = user.submit(*words, HANDED_ON="silent-sesame")
    ready(run, 2, word="token")
    look = "cat /proc/[0-9]*/cmdline"
    seen = [user.cluster.node_exec(node, ("sh", "-c", look)).stdout.encode() for node in (1, 2)]
    seen.append(user.ask("scontrol", "show", "job", job_id(run)).encode())
    seen.append(user.ask("scontrol", "write", "batch_script", job_id(run), "-").encode())
    (run / "go").touch()
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    assert [log(run, rank) for rank in (0, 1)] == ["token *** and ***\n"] * 2
    seen += [each.read_bytes() for each in run.rglob("*") if each.is_file()]
    seen += [user.launch(verb).stdout.encode() for verb in ("show", "logs", "runs")]
    assert state(run) == events(run)[-1]["state"]
    for secret in secrets:
        assert not any(secret in each for each in seen)
    missing = user.launch("rerun", "@last")
    assert missing.returncode == 2
    assert "HANDED_ON is not set" in missing.stderr
