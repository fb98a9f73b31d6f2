"""The tests' own Slurm cluster is a real one, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.claim import CLAIMS, PREFIX, claim
from tests.cluster.cluster import ACCOUNT, Cluster
from tests.cluster.site import ROOT
from tests.cluster.user import USER
from tests.real.conftest import until


def said(cluster: Cluster, *argv: str, **how: Any) -> str:
    done = cluster.run(argv, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def states(cluster: Cluster) -> list[str]:
    words = ("--noheader", "--Node", "--partition=debug", "--format=%N %T")
    return said(cluster, "sinfo", *words).splitlines()


def processes(folder: Path) -> list[int]:
    """Return what has a site's folder in its words or environment, or a file there open."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        text = b""
        with contextlib.suppress(OSError):
            text += (each / "cmdline").read_bytes() + (each / "environ").read_bytes()
            for fd in (each / "fd").iterdir():
                with contextlib.suppress(OSError):  # closed by now
                    text += os.fsencode(os.readlink(fd)) + b" "
        if f"{folder}/".encode() in text:
            found.append(int(each.name))
    return found


def words(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []


def links(bridge: str) -> list[str]:
    names = [name for _, name in socket.if_nameindex()]
    return [name for name in names if name == bridge or name.startswith(f"{bridge}-")]


def test_its_nodes_are_idle(cluster: Cluster) -> None:
    cluster.wait_idle()
    assert [each.split()[0] for each in states(cluster)] == ["node1", "node2"]


def test_a_step_runs_on_both_nodes(cluster: Cluster) -> None:
    assert sorted(said(cluster, "srun", "-N2", "-n2", "hostname").split()) == ["node1", "node2"]


def test_ranks_can_be_started_by_pmix(cluster: Cluster) -> None:
    assert "pmix" in said(cluster, "srun", "--mpi=list").split()
    ranks = said(cluster, "srun", "--mpi=pmix", "-N2", "-n4", "printenv", "PMIX_RANK")
    assert sorted(ranks.split()) == ["0", "1", "2", "3"]


def test_a_plain_user_s_batch_job(cluster: Cluster, user_project: Path) -> None:
    script = user_project / "job.sh"
    script.write_text("#!/bin/sh\nid -un\nhostname\npwd\n")
    words = ("--parsable", "--output=out-%j", "--nodelist=node1", str(script))
    job = said(cluster, "sbatch", *words, cwd=user_project)
    out = user_project / f"out-{job}"
    until(lambda: out.exists() and out.read_text().count("\n") == 3)
    assert out.read_text().split() == [USER, "node1", str(user_project)]
    assert out.owner() == USER


def test_only_the_shared_file_system_is_shared(cluster: Cluster, user_project: Path) -> None:
    write = f"hostname > {user_project}/$SLURM_PROCID; hostname > /tmp/mine; cat /tmp/mine"
    assert sorted(said(cluster, "srun", "-N2", "sh", "-c", write).split()) == ["node1", "node2"]
    assert sorted(path.read_text() for path in user_project.iterdir()) == ["node1\n", "node2\n"]
    for node in (1, 2):
        mine = cluster.node_exec(node, ["cat", "/tmp/mine"])
        assert mine.stdout == f"node{node}\n", mine.stderr
    assert not Path("/tmp/mine").exists()


def test_gpus_are_scheduled(cluster: Cluster) -> None:
    ask = ("srun", "-N1", "-n2", "--gpus-per-task=2", "printenv", "CUDA_VISIBLE_DEVICES")
    assert sorted(said(cluster, *ask).split()) == ["0,1", "2,3"]
    refused = cluster.run(["srun", "-N1", "--gpus-per-node=5", "true"])
    assert "Requested node configuration is not available" in refused.stderr


def test_accounts_are_kept(cluster_dbd: Cluster, user_project_dbd: Path) -> None:
    words = ("--parsable", "--output=/dev/null", "--gpus=1", "--wrap=exit 7")
    job = said(cluster_dbd, "sbatch", *words, cwd=user_project_dbd)
    ask = ("sacct", "-nXP", "-j", job, "--format=State,ExitCode,User,Account,AllocTRES")
    answer = until(lambda: (text := said(cluster_dbd, *ask)).startswith("FAILED") and text)
    *rest, resources = answer.split("|")
    assert rest == ["FAILED", "7:0", USER, ACCOUNT]
    assert "gres/gpu=1" in resources


def test_no_accounts_are_kept(cluster: Cluster) -> None:
    done = cluster.run(["sacct"])
    assert done.returncode == 1
    assert "Slurm accounting storage is disabled" in done.stderr


@pytest.mark.usefixtures("_root")
def test_a_node_s_plug_is_pulled() -> None:
    soon = {"SlurmdTimeout": "5", "MessageTimeout": "5"}  # seen after 12 s, not 17 to 30
    with Cluster(settings=soon) as own:
        own.kill_node(2)
        until(lambda: states(own)[1].startswith("node2 down"))
        own.start_node(2)
        own.wait_idle()
        assert sorted(said(own, "srun", "-N2", "hostname").split()) == ["node1", "node2"]


@pytest.mark.usefixtures("_root")
def test_a_controller_stops_and_goes_on() -> None:
    with Cluster() as own:
        job = said(own, "sbatch", "--parsable", "--output=/dev/null", "--wrap=exec sleep 600")
        state = ("squeue", "--noheader", "--format=%T %N", f"--jobs={job}")
        until(lambda: said(own, *state) == "RUNNING node1")
        own.stop_controller()
        assert " is DOWN" in own.run(["scontrol", "ping"]).stdout
        own.start_controller()
        assert said(own, *state) == "RUNNING node1"


def test_it_goes_without_a_trace(cluster: Cluster) -> None:
    with Cluster(nodes=1, accounting="dbd") as other:
        assert other.claim.number != cluster.claim.number
        # A job that Slurm would not find: its own session, no parent, deaf to SIGTERM.
        deaf = "trap '' TERM; setsid sleep 600 & setsid sleep 600"
        said(other, "sbatch", f"--wrap={deaf}", "--output=/dev/null")
        sleepers = [b"sleep", b"600", b""]
        started = until(lambda: [p for p in processes(other.folder) if words(p) == sleepers])
        ours = os.stat("/proc/self/ns/net")
        everything = processes(other.folder)
        assert set(started) < set(everything)
        for pid in everything:  # so nothing listens where others could meet it
            with contextlib.suppress(OSError):  # it has ended
                assert os.stat(f"/proc/{pid}/ns/net") != ours
        assert links(other.claim.bridge)
    assert not processes(other.folder)
    assert not links(other.claim.bridge)
    assert not (CLAIMS / str(other.claim.number)).exists()
    assert str(other.folder) not in Path("/proc/self/mountinfo").read_text()
    assert not other.folder.exists()
    cluster.wait_idle()


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("site", ["cluster.Cluster", "ssh_hosts.SshHosts"])
def test_what_a_killed_test_run_left_is_removed(site: str) -> None:
    module, _, kind = site.partition(".")
    script = (
        f"import time; from tests.cluster.{module} import {kind}\n"
        f"with {kind}() as up: print(up.folder, up.claim.number, flush=True); time.sleep(999)"
    )
    words = (sys.executable, "-c", script)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        folder, number = killed.stdout.readline().split()
        assert len(processes(Path(folder))) > 4
        killed.send_signal(signal.SIGKILL)
    until(lambda: not processes(Path(folder)))
    with claim() as mine:  # as does every cluster; another test run may have been quicker
        assert not Path(folder).exists()
        assert not [name for name in links(mine.bridge) if name != mine.bridge]
    assert not links(PREFIX + number) or (CLAIMS / number).exists()
