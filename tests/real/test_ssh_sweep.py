"""Sweeps on real ssh hosts: as many at once as there are slots, nothing twice, nothing lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import events, log, state, until
from tests.real.pools import free
from tests.real.ssh import SINGLE, SshProject

SLOTS = "compute.hosts=[{host: hosta, slots: 2}, {host: hostb, slots: 2}]"
SWEEP = ("-m", *SINGLE, SLOTS)
RANKS = ("dist=mpi", "dist.horovod=false")
FINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "LOST"}
# Says when it had its slots, on which hosts; it ends once its host has a file `open` in the home.
WORKS = (
    "import json, os, time, launcher\n"
    "begun = time.time()\n"
    "launcher.report(n=1)\n"
    "print('ready', flush=True)\n"
    "while not os.path.exists(os.path.expanduser('~/open')): time.sleep(0.05)\n"
    "time.sleep(0.2)\n"
    "print(json.dumps({'host': os.uname().nodename, 'begun': begun, 'ended': time.time(),\n"
    "  'rank': int(os.environ.get('RANK', 0)), 'size': int(os.environ.get('WORLD_SIZE', 1)),\n"
    "  'master': os.environ.get('MASTER_ADDR')}))\n"
)
# Says that it has begun, and ends once its host has a file `open` in the home.
WAITS = (
    "import os, time\nprint('ready', flush=True)\n"
    "while not os.path.exists(os.path.expanduser('~/open')): time.sleep(0.05)\n"
)


@pytest.fixture
def pool(box: SshProject) -> SshProject:
    """A project whose runs tell when they had what; no host has slots taken."""
    box.write("train.py", WORKS)
    for host in box.hosts.all:
        for name in ("open", "ran"):
            (host.user_home / name).unlink(missing_ok=True)
    return box


def sweep(pool: SshProject, *words: str) -> tuple[str, str]:
    """Return the id of a sweep that was queued, and what its submit said."""
    done = pool.launch(*SWEEP, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def ended(pool: SshProject, sweep_id: str) -> dict[str, str]:
    """Return the state of each run of a sweep, by id, once all have ended."""
    done = pool.launch("wait", sweep_id)
    assert done.returncode in (0, 1, 130), done.stderr
    return {run.name: state(run) for run in pool.runs}


def told(pool: SshProject) -> list[dict[str, Any]]:
    """Return what each rank has printed, with its run."""
    found = []
    for run in pool.runs:
        for path in sorted((run / "logs").glob("rank-*.log")):
            found += [{**json.loads(path.read_text().splitlines()[-1]), "run": run.name}]
    return found


def most_at_once(told: list[dict[str, Any]], host: str) -> int:
    """Return how many ranks a host had at once."""
    here = [each for each in told if each["host"] == host]
    return max(
        (sum(o["begun"] <= each["begun"] < o["ended"] for o in here) for each in here), default=0
    )


def nothing_is_left(pool: SshProject) -> None:
    until(lambda: pool.running() == [] and all(free(host) for host in pool.hosts.all))


# ------------------------------------------------------------------ as many as there are slots


def test_six_points_on_two_hosts_of_two_slots(pool: SshProject) -> None:
    first, said = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    assert "6 runs queued as 1 pool" in said
    running(pool, 4)
    let_go(pool)
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}
    seen = told(pool)
    assert len(seen) == 6
    assert {most_at_once(seen, host) for host in ("hosta", "hostb")} == {2}
    for run in pool.runs:
        hosts = next(each["hosts"] for each in reversed(events(run)) if "hosts" in each)
        assert hosts == [next(each["host"] for each in seen if each["run"] == run.name)]
        assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])["n"] == 1
    nothing_is_left(pool)

    again, said = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    assert again == first
    assert "6 points are there already (6 SUCCEEDED)" in said
    assert len(pool.runs) == 6
    other = "compute.hosts=[hosta]"  # where a run is put does not decide how it ends
    wider, said = sweep(pool, other, "script_params.lr=1,2,3,4,5,6,7")
    assert "1 run queued" in said
    assert set(ended(pool, wider).values()) == {"SUCCEEDED"}
    assert len(pool.runs) == 7


def test_points_of_two_hosts_among_points_of_one(pool: SshProject) -> None:
    words = (*RANKS, "nodes=1,2", "script_params.lr=1,2,3")
    first, _ = sweep(pool, *words)
    running(pool, 3)
    let_go(pool)
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}
    seen = told(pool)
    assert len(seen) == 3 + 6
    assert max(most_at_once(seen, host) for host in ("hosta", "hostb")) == 2
    both = [each for each in seen if each["size"] == 2]
    assert sorted((each["rank"], each["host"]) for each in both) == [
        *[(0, "hosta")] * 3,
        *[(1, "hostb")] * 3,
    ]
    assert {each["master"] for each in both} == {pool.hosts.hosta.address}
    nothing_is_left(pool)


def test_the_hosts_are_used_in_the_order_of_the_list(pool: SshProject) -> None:
    let_go(pool)
    hosts = "compute.hosts=[{host: hostb, slots: 1}, {host: hosta, slots: 1}]"
    first, _ = sweep(pool, *RANKS, hosts, "nodes=2", "script_params.lr=1,2")
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}
    assert {(each["rank"], each["host"]) for each in told(pool)} == {(0, "hostb"), (1, "hosta")}
    other, _ = sweep(pool, hosts, "compute.max_parallel=1", "script_params.lr=3,4")
    assert set(ended(pool, other).values()) == {"SUCCEEDED"}
    alone = [each for each in told(pool) if each["size"] == 1]
    assert {each["host"] for each in alone} == {"hostb"}
    assert alone[0]["ended"] < alone[1]["begun"] or alone[1]["ended"] < alone[0]["begun"]


def test_data_are_on_each_host_before_a_run_starts(pool: SshProject) -> None:
    shows = "import sys\nprint(os.uname().nodename, open(sys.argv[2]).read())\n"
    pool.write("train.py", WAITS + shows)
    pool.write("words.txt", "of this machine")
    words = ("data.d.path=words.txt", "data.d.upload=true", "script_params.f=${data:d}")
    first, _ = sweep(pool, *words, "script_params.lr=1,2,3,4")
    running(pool, 4)
    let_go(pool)
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}
    said = {log(run) for run in pool.runs}
    assert said == {f"ready\n{host} of this machine\n" for host in ("hosta", "hostb")}
    again, _ = sweep(pool, *words, "script_params.lr=1,2,3,4")
    assert again == first
    pool.write("words.txt", "changed")
    other, said_now = sweep(pool, *words, "script_params.lr=1,2,3,4")
    assert (other != first, "4 runs queued" in said_now) == (True, True)
    assert set(ended(pool, other).values()) == {"SUCCEEDED"}


def test_a_sweep_is_cleaned_away(pool: SshProject) -> None:
    pool.write("train.py", WAITS)
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5")
    running(pool, 4)
    clean = ("clean", "compute=ssh", "compute.hosts=[hosta,hostb]", "--older-than=0s", "--yes")
    done = pool.launch(*clean)
    assert done.returncode == 0, done.stderr
    assert all(pool.there(run).is_dir() for run in pool.runs), done.stdout
    let_go(pool)
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}
    until(lambda: pool.running() == [])
    done = pool.launch(*clean)
    assert done.returncode == 0, done.stderr
    for host in pool.hosts.all[:2]:
        assert not any(pool.there(run, host).exists() for run in pool.runs), done.stdout
        assert not (pool.there(pool.runs[0], host).parent / ".sweeps" / first).exists(), done.stdout


# ------------------------------------------------------------------ ended, killed, away


def running(pool: SshProject, count: int) -> None:
    """Wait until so many runs have said that they are ready."""
    until(lambda: sum("ready" in said for said in _said(pool)) == count)


def _said(pool: SshProject) -> list[str]:
    return [pool.said(run, host=host) for run in pool.runs for host in pool.hosts.all]


def test_a_cancelled_sweep_leaves_nothing(pool: SshProject) -> None:
    pool.write("train.py", WAITS)
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    running(pool, 4)
    done = pool.launch("cancel", first)
    assert done.returncode == 0, done.stderr
    assert [state(run) for run in pool.runs] == ["CANCELLED"] * 6
    assert sum("ready" in log(run) for run in pool.runs if (run / "logs").exists()) == 4
    nothing_is_left(pool)


def test_a_run_that_waits_is_cancelled_alone(pool: SshProject) -> None:
    pool.write("train.py", WAITS)
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    running(pool, 4)
    waits, goes = pool.runs[5], pool.runs[0]
    assert pool.status(waits)["state"] == "PENDING"
    assert pool.launch("cancel", waits.name).stdout == f"{waits.name} CANCELLED\n"
    assert pool.launch("cancel", goes.name).stdout == f"{goes.name} CANCELLED\n"
    let_go(pool)
    states = ended(pool, first)
    assert [states[run.name] for run in (waits, goes)] == ["CANCELLED"] * 2
    assert [*states.values()].count("SUCCEEDED") == 4
    nothing_is_left(pool)


def test_what_waits_says_for_what_and_is_followed(pool: SshProject) -> None:
    pool.write("train.py", WAITS + "print('end', flush=True)\n")
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5")
    running(pool, 4)
    last = pool.runs[4]
    words = "the run waits until there is room for it on hosta, hostb"
    assert pool.launch("explain", last.name).stdout == f"{words}\n"
    assert pool.status(last)["reason"] == words
    with pool.start("logs", "-f", last.name) as following:
        let_go(pool)
        assert following.communicate(timeout=180)[0] == "ready\nend\n"
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}


def test_secrets_are_on_no_disk_of_any_host(pool: SshProject) -> None:
    pool.write("train.py", "import os, time\nprint(len(os.environ['MY_TOKEN']))\ntime.sleep(1)\n")
    done = pool.launch(*SWEEP, "secrets=[MY_TOKEN]", "script_params.lr=1,2,3", MY_TOKEN="sesame'1")
    assert done.returncode == 0, done.stderr
    words = [each for host in pool.hosts.all for each in host.processes().values()]
    assert not any("sesame" in each for each in words)
    assert set(ended(pool, done.stdout.strip()).values()) == {"SUCCEEDED"}
    assert {log(run) for run in pool.runs} == {"8\n"}
    until(lambda: pool.running() == [])  # no file goes while we read
    for place in (pool.path, *(host.user_home for host in pool.hosts.all)):
        for each in place.rglob("*"):
            assert not each.is_file() or b"sesame" not in each.read_bytes(), each


def test_what_cannot_be_is_refused_before_anything_is_sent(pool: SshProject) -> None:
    for hosts, words in (
        ("[{host: hosta, slots: 0}]", "compute.hosts[0].slots=0: must be 1 or more"),
        ("[{host: hosta, slots: two}]", "compute.hosts[0].slots=two: must be 1 or more"),
        ("[{host: hosta, cores: 2}]", "{host: ..., slots: ..., gpus: ..., address: ...}"),
        ("[{host: hosta, slots: 1}]", "procs_per_node=2: hosta has slots: 1 in compute.hosts"),
    ):
        options = (*SWEEP, *RANKS, "procs_per_node=2", f"compute.hosts={hosts}")
        pool.refused(*options, "script_params.lr=1,2", status=2, words=(words,))


def let_go(pool: SshProject) -> None:
    for host in pool.hosts.all:
        (host.user_home / "open").touch()


def test_a_submit_that_is_killed_is_typed_again(pool: SshProject) -> None:
    pool.write(
        "train.py",
        "import os, sys\n"
        "with open(os.path.expanduser('~/ran'), 'a') as file: print(*sys.argv[1:], file=file)\n",
    )
    for name in ("kills.py", "kills_ssh.py"):
        pool.write(name, Path(__file__).with_name(name).read_text())
    argv = ("python", "kills_ssh.py", "12", *pool.known(SWEEP), "script_params.lr=1,2")
    done = pool.hosts.run(argv, cwd=pool.path, env=pool.env, timeout_s=500)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert any(each["killed"] == -signal.SIGKILL for each in trials)
    assert [(each["status"], each["runs"]) for each in trials] == [(0, 2)] * 12, trials
    nothing_is_left(pool)
    files = [host.user_home / "ran" for host in pool.hosts.all]
    ran = [file.read_text() for file in files if file.exists()]
    lines = sorted("".join(ran).splitlines())
    wanted = [f"--lr {lr} --trial {trial}" for lr in (1, 2) for trial in range(-1, 12)]
    assert [*map(sorted, map(str.split, lines))] == [*map(sorted, map(str.split, sorted(wanted)))]


def test_nobody_is_needed_here(pool: SshProject) -> None:
    let_go(pool)
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    until(lambda: pool.running() == [])  # nothing of ours runs here meanwhile
    assert {state(run) for run in pool.runs} == {"SUBMITTING"}
    assert set(ended(pool, first).values()) == {"SUCCEEDED"}
    assert len(told(pool)) == 6


# ------------------------------------------------------------------ hosts that go away


def test_a_host_goes_away_and_the_others_go_on(pool: SshProject) -> None:
    pool.write("train.py", WAITS)
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    running(pool, 4)
    pool.hosts.hostb.kill()
    let_go(pool)

    def states() -> list[str]:
        return [each["state"] for each in json.loads(pool.launch("runs", "--json").stdout)]

    until(lambda: states().count("SUCCEEDED") == 4)
    pool.hosts.hostb.start()
    ends = ended(pool, first).values()
    assert sorted(ends) == ["FAILED"] * 2 + ["SUCCEEDED"] * 4, pool.launch("runs", "--json").stdout
    failed = [events(run)[-1] for run in pool.runs if state(run) == "FAILED"]
    assert all("hostb was started again" in each["reason"] for each in failed)
    again, said = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    assert (again, "2 runs queued" in said) == (first, True)
    let_go(pool)
    assert [*ended(pool, first).values()].count("SUCCEEDED") == 6


def test_the_first_host_goes_away(pool: SshProject) -> None:
    pool.write("train.py", WAITS)
    first, _ = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    running(pool, 4)
    pool.hosts.hosta.kill()
    let_go(pool)
    pool.hosts.hosta.start()
    let_go(pool)
    done = pool.launch("wait", first)
    assert done.returncode == 1, done.stderr
    told = json.loads(pool.launch("runs", "--json").stdout)
    states = sorted(each["state"] for each in told)
    assert states == ["FAILED"] * 2 + ["LOST"] * 2 + ["SUCCEEDED"] * 2
    lost = [each["reason"] for each in told if each["state"] == "LOST"]
    assert all("the pool on hosta that was to start it is gone" in each for each in lost)
    again, said = sweep(pool, "script_params.lr=1,2,3,4,5,6")
    assert (again, "4 runs queued" in said) == (first, True)
    assert [*ended(pool, first).values()].count("SUCCEEDED") == 6


def test_a_sweep_whose_host_is_gone_for_good(pool: SshProject) -> None:
    pool.write("train.py", WAITS)
    given = ("compute.connect_timeout_s=1", "compute.hosts=[{host: hosta, slots: 2}]")
    first, _ = sweep(pool, *given, "script_params.lr=1,2,3")
    running(pool, 2)
    until(lambda: pool.launch("runs").stdout.count("RUNNING") == 2)
    pool.hosts.hosta.kill()
    refused = pool.launch("cancel", first)
    assert refused.returncode == 1
    assert "3 runs of sweep" in refused.stderr
    assert "hosta cannot be reached" in refused.stderr
    assert f"launcher cancel --give-up {first}" in refused.stderr
    done = pool.launch("cancel", "--give-up", first)
    assert done.stdout == f"{first} 3 CANCELLED\n", done.stderr
    told = json.loads(pool.launch("runs", "--json").stdout)
    assert {each["state"] for each in told} == {"CANCELLED"}
    assert all("hosta cannot be reached" in each["reason"] for each in told)
