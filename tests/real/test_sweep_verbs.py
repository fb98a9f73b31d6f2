"""The verbs that take sweeps, on real runs of this machine; a terminal is a pseudo-terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import TYPE_CHECKING

import launcher
from launcher.run import Run
from launcher.store import Store
from launcher.sweep.store import Entry, SweepRecord, Sweeps
from tests.real.conftest import PLAIN, log, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Project
    from tests.real.terminal import Terminal

SWEEP = "261124-101112-swee"
TRAIN = """
import argparse
from launcher import report
options = argparse.ArgumentParser()
options.add_argument("--lr", type=float)
lr = options.parse_args().lr
for step in range(3):
    print("step", step)
    report(step=step, accuracy=1 - lr / (step + 1))
if lr > 0.5: raise SystemExit("too large")
"""
# Waits for the file "go" in the project's folder.
WAITS = """
import os, sys, time
print("ready", flush=True)
while not os.path.exists(os.environ["PLACE"] + "/go"): time.sleep(0.02)
print("went", flush=True)
"""
# Ends on SIGTERM only when all three have been told.
TOGETHER = """
import os, signal, sys, time
def told(*_):
    open(os.environ["PLACE"] + f"/told-{os.getpid()}", "w").close()
    while sum(name.startswith("told-") for name in os.listdir(os.environ["PLACE"])) < 3:
        time.sleep(0.02)
    print("all were told", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
time.sleep(120)
"""


def sweep_of(project: Project, key: str, values: list[str], *options: str) -> list[str]:
    """Launch a run a value, write the sweep down, and return the runs' ids."""
    runs = [
        launcher.submit(*PLAIN, "entry_script=train.py", *options, f"{key}={value}")
        for value in values
    ]
    entries = [
        Entry(point=number, run=run.id, signature=str(number), values={key: value})
        for number, (run, value) in enumerate(zip(runs, values, strict=True))
    ]
    entries.append(Entry(point=len(runs), run="", signature="", values={key: "0"}))
    record = SweepRecord(
        id=SWEEP,
        name="train",
        created=time.time(),
        user="me",
        host="box",
        overrides=options,
        keys=(key,),
        digest="",
    )
    folder = Sweeps(Store(str(project.path / "runs"))).folder(SWEEP)
    folder.create(record, entries, lambda _: None)
    return [run.id for run in runs]


def waiting_sweep(project: Project, script: str, count: int) -> list[str]:
    """Launch runs that run until something happens, and wait until all of them do."""
    project.write("train.py", script)
    numbers = list(map(str, range(count)))
    ids = sweep_of(project, "env.NUMBER", numbers, f"env.PLACE={project.path}")
    for run in ids:
        until(lambda run=run: "ready" in Run(Store("runs").folder(run)).logs())
    return ids


def test_a_sweep_is_read(project: Project) -> None:
    project.write("train.py", TRAIN)
    runs = sweep_of(project, "script_params.lr", ["0.3", "9e-1", "0.06"])
    waited = project.launch("wait", SWEEP)
    assert waited.returncode == 1
    states = ("SUCCEEDED", "FAILED", "SUCCEEDED")
    lines = [f"{run} {state}" for run, state in zip(runs, states, strict=True)]
    assert sorted(waited.stdout.splitlines()) == sorted(lines)
    why, without = waited.stderr.splitlines()
    assert why.startswith(f"launcher: {runs[1]}: the script failed")
    assert without == "launcher: 1 of 4 points have no run"

    listed = project.launch("sweeps").stdout.splitlines()
    assert listed[0].split() == [
        "ID",
        "NAME",
        "CREATED",
        "POINTS",
        "SUCCEEDED",
        "FAILED",
        "NOT",
        "RUN",
    ]
    assert listed[1].split()[-4:] == ["4", "2", "1", "1"]
    assert json.loads(project.launch("sweeps", "--json").stdout)[0]["points"] == 4

    table = project.launch("runs", "--sweep", "@last", "--sort", "-accuracy").stdout.splitlines()
    assert table[0].split() == ["ID", "STATE", "lr", "step", "accuracy", "DURATION", "WHY"]
    assert [line.split()[0] for line in table[1:4]] == [runs[2], runs[0], runs[1]]
    assert table[4].split() == ["(point", "3)", "NOT", "RUN", "0"]
    text = project.launch("runs", "--sweep", SWEEP[:9], "--csv", "--sort", "lr", "-n", "1").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["point"], row["id"]) == ("3", "")
    told = json.loads(project.launch("runs", "--sweep", SWEEP, "--json").stdout)
    assert told[1]["values"] == {"script_params.lr": "9e-1"}
    assert told[1]["exit_status"] == 1
    assert len(project.launch("runs", "--sort", "accuracy").stdout.splitlines()) == 4

    output = project.launch("logs", SWEEP).stdout.splitlines()
    assert output[:3] == [f"[0 lr=0.3] step {step}" for step in range(3)]
    assert "[1 lr=9e-1] too large" in output
    for verb in ("show", "explain"):
        done = project.launch(verb, SWEEP)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"launcher runs --sweep {SWEEP} lists its runs." in done.stderr
    done = project.launch("cancel", SWEEP)
    assert (done.returncode, done.stdout) == (0, f"{SWEEP} 2 SUCCEEDED, 1 FAILED, 1 NOT RUN\n")


def test_a_sweep_is_plotted(project: Project) -> None:
    project.write("train.py", TRAIN)
    sweep_of(project, "script_params.lr", ["0.3", "0.06"])
    project.launch("wait", SWEEP)
    done = project.launch("plot", "--x", "lr", "--y", "accuracy", "--log-x")
    path = project.path / "runs" / ".sweeps" / SWEEP / f"{SWEEP}-accuracy-by-lr.png"
    assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
    assert done.stderr == "launcher: 1 of 3 points left out, no accuracy: 2\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    done = project.launch(
        *("plot", SWEEP, "--x", "step", "--y", "accuracy", "--group-by", "lr", "--out", "c.png")
    )
    assert done.returncode == 0, done.stderr
    assert (project.path / "c.png").read_bytes().startswith(b"\x89PNG")
    project.write("none/matplotlib.py", "raise ImportError('none here')\n")
    done = project.launch("plot", "--x", "lr", "--y", "accuracy", PYTHONPATH="none")
    assert done.returncode == 2
    assert "pip install 'training-launcher[plot]'" in done.stderr


def test_all_runs_of_a_sweep_are_cancelled_at_once(project: Project) -> None:
    runs = waiting_sweep(project, TOGETHER, 3)
    done = project.launch("cancel", SWEEP)
    assert (done.returncode, done.stdout) == (0, f"{SWEEP} 3 CANCELLED, 1 NOT RUN\n"), done.stderr
    for run in runs:
        assert log(project.path / "runs" / run).splitlines()[-1] == "all were told"
    assert project.launch("wait", SWEEP).returncode == 130


def test_output_is_followed_until_all_have_ended(project: Project) -> None:
    waiting_sweep(project, WAITS, 2)
    with project.start("logs", "-f", SWEEP) as following:
        assert following.stdout
        lines = [following.stdout.readline() for _ in range(2)]
        (project.path / "go").touch()
        lines += following.stdout.readlines()
        assert following.wait(60) == 0
    assert sorted(lines[:2]) == ["[0 NUMBER=0] ready\n", "[1 NUMBER=1] ready\n"]
    assert sorted(lines[2:]) == ["[0 NUMBER=0] went\n", "[1 NUMBER=1] went\n"]


def test_a_sweep_is_watched_on_a_terminal(
    project: Project, terminal: Callable[..., Terminal]
) -> None:
    waiting_sweep(project, WAITS, 2)
    watching = terminal("wait", SWEEP)
    watching.until("3 points: 2 running, 1 not run")
    watching.until("1  RUNNING  1")
    (project.path / "go").touch()
    assert watching.end() == 0
    last = watching.text.rpartition("3 points: ")[2]
    assert last.startswith("2 succeeded, 1 not run")
    assert "\x1b[32m" in last  # green
    assert "\x1b[?25h" in watching.text  # the cursor is there again


def test_ctrl_c_ends_the_watching_not_the_sweep(
    project: Project, terminal: Callable[..., Terminal]
) -> None:
    runs = waiting_sweep(project, WAITS, 2)
    watching = terminal("wait", SWEEP, NO_COLOR="1")
    watching.until("2 running")
    watching.type(b"\x03")
    assert watching.end() == 130
    assert f"sweep {SWEEP} goes on without us" in watching.text
    assert f"launcher wait {SWEEP}   launcher cancel {SWEEP}" in watching.text
    assert not re.search(r"\x1b\[3\d", watching.text)
    store = Store("runs")
    assert [Run(store.folder(run)).state.value for run in runs] == ["RUNNING"] * 2
    (project.path / "go").touch()
    assert project.launch("wait", SWEEP).returncode == 0


def test_points_that_are_the_same_are_told(project: Project) -> None:
    project.write("train.py", "pass\n")
    words = ("entry_script=train.py", "environment.torch=null", "name=a,b")
    done = project.launch("-m", *words, "wait=true")
    assert done.returncode == 0, done.stderr
    assert "1 point is the same as others" in done.stderr
    assert len(project.runs) == 1
