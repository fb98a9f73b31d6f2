"""Recorded runs, in real repositories."""

from __future__ import annotations

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from launcher import process, record, snapshot
from launcher.errors import StoreError, SubmitError
from launcher.record import RunRecordInput

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "config.yaml": "lr: 0.1\n# ünï\n",
    "run.json": '{"prefix": ""}\n',
    "empty": "",
    'sub/od"d \\n\nna\tme': "no newline at the end",
    "raw": "\udcff\udcfe\0\r\n",  # bytes that are no UTF-8, as process.run hands them over
}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a home of its own: no configuration, no store."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [*os.environ]:
        if name.startswith(("GIT_", "LAUNCHER_", "XDG_")) or name == "EMAIL":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (home / ".gitconfig").write_text(
        "[user]\nname = Ada\nemail = ada@example.org\n[core]\nfsync = none\n"
    )


def git(where: str | Path, *words: str) -> str:
    """Return what git printed there, less the last newline."""
    done = subprocess.run(("git", *words), cwd=where, capture_output=True, check=True)
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    top = tmp_path / "repo"
    (top / ".launcher").mkdir(parents=True)
    (top / ".launcher" / "old.yaml").write_text("of another run\n")
    (top / "train.py").write_text("print()\n")
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "first")
    (top / "new.py").write_text("new\n")
    return top


@pytest.fixture
def taken(repo: Path) -> snapshot.Snapshot:
    return snapshot.take(str(repo))


def run(taken: snapshot.Snapshot, run_id: str = "r1", message: str = "run r1\n") -> RunRecordInput:
    return RunRecordInput(run_id=run_id, snapshot=taken, message=message, files=FILES)


def test_the_commit_of_a_run(repo: Path, taken: snapshot.Snapshot) -> None:
    before = (git(repo, "status", "--porcelain"), git(repo, "for-each-ref", "refs/heads"))
    commit = record.commit_run(run(taken, message="run r1 (ünï)\n\nwhy\n"))
    assert git(repo, "rev-parse", "refs/launcher/runs/r1") == commit
    assert git(repo, "log", "-1", "--format=%P %B", commit) == f"{taken.head} run r1 (ünï)\n\nwhy\n"
    changed = git(repo, "diff", "--name-status", "--no-renames", f"{commit}^", commit).splitlines()
    assert [line for line in changed if ".launcher" not in line] == ["A\tnew.py"]
    assert "D\t.launcher/old.yaml" in changed
    assert git(repo, "fsck", "--strict", "--no-dangling") == ""
    assert (git(repo, "status", "--porcelain"), git(repo, "for-each-ref", "refs/heads")) == before


def test_what_was_recorded_is_read(repo: Path, taken: snapshot.Snapshot) -> None:
    commit = record.commit_run(run(taken))
    found = record.read_run(taken.git_dir, "r1")
    assert found.files == FILES
    assert (found.commit, found.tip, found.head) == (commit, commit, taken.head)
    assert found.tree == git(repo, "rev-parse", f"{commit}^{{tree}}")
    assert (found.git_dir, found.run_id) == (taken.git_dir, "r1")


def test_a_run_from_a_plain_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/train.py").write_text("print()\n")
    taken = snapshot.take(str(tmp_path / "plain"))
    commit = record.commit_run(run(taken))
    found = record.read_run(taken.git_dir, "r1")
    assert (found.commit, found.head, found.files) == (commit, None, FILES)
    assert git(taken.git_dir, "ls-tree", "--name-only", commit) == ".launcher\ntrain.py"


def test_a_run_survives_gc(repo: Path, taken: snapshot.Snapshot) -> None:
    commit = record.commit_run(run(taken))
    git(repo, "gc", "-q", "--prune=now", "--aggressive")
    assert git(repo, "show", f"{commit}:new.py") == "new"
    assert record.read_run(taken.git_dir, "r1").files == FILES


# Many runs, and the same run twice


def test_many_runs_are_one_import(
    taken: snapshot.Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    real = subprocess.check_output(["which", "git"], text=True).strip()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/asked"\nexec "{real}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    runs = [run(taken, f"r{number:03}", f"run {number}") for number in range(200)]
    commits = record.commit_runs(taken.git_dir, runs)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 3
    assert [" fast-import " in f" {line} " for line in asked].count(True) == 1
    assert len(set(commits)) == 200
    for number in (0, 99, 199):
        assert record.read_run(taken.git_dir, f"r{number:03}").commit == commits[number]
    assert record.commit_runs(taken.git_dir, []) == []


def test_an_id_that_is_taken(repo: Path, taken: snapshot.Snapshot) -> None:
    first = record.commit_run(run(taken))
    runs = [run(taken, "r0"), run(taken), run(taken, "r2")]
    with pytest.raises(SubmitError, match="r1 is taken") as error:
        record.commit_runs(taken.git_dir, runs)
    assert error.value.hint
    with pytest.raises(SubmitError, match="r3 is taken"):
        record.commit_runs(taken.git_dir, [run(taken, "r3"), run(taken, "r3", "other")])
    assert git(repo, "for-each-ref", "--format=%(refname)", "refs/launcher") == (
        "refs/launcher/runs/r1"
    )
    assert git(repo, "rev-parse", "refs/launcher/runs/r1") == first
    git(repo, "pack-refs", "--all")
    with pytest.raises(SubmitError, match="r1 is taken"):
        record.commit_run(run(taken))


@pytest.mark.parametrize(
    "run_id", ["", "a/b", "../x", "a..b", ".a", "a.", "a.lock", "a b", "-a", "a\n", "ü", "a~1", "*"]
)
def test_an_id_that_is_no_name(taken: snapshot.Snapshot, run_id: str) -> None:
    with pytest.raises(SubmitError, match="is no run id"):
        record.commit_run(run(taken, run_id))
    with pytest.raises(StoreError, match="is no run id"):
        record.read_run(taken.git_dir, run_id)


@pytest.mark.parametrize("run_id", ["2026-01-31_12.30-ab_c", "a.b.locks", "0", "A--_"])
def test_an_id_that_is_a_name(taken: snapshot.Snapshot, run_id: str) -> None:
    record.commit_run(run(taken, run_id))
    assert record.find(taken.git_dir, run_id) == [run_id]


def test_the_code_lies_elsewhere(taken: snapshot.Snapshot, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="is not in"):
        record.commit_runs(str(tmp_path), [run(taken)])


def test_a_tree_that_is_not_there(repo: Path) -> None:
    gone = snapshot.Snapshot(
        git_dir=str(repo / ".git"), tree="1" * 40, prefix="", head=None, branch="", dirty=True
    )
    with pytest.raises(SubmitError, match="cannot record the run") as error:
        record.commit_run(run(gone))
    assert error.value.exit_status == 128
    assert error.value.argv[0] == "git"
    assert not list((repo / ".git").glob("fast_import_crash*"))


def test_launches_at_the_same_time(taken: snapshot.Snapshot) -> None:
    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(lambda n: record.commit_run(run(taken, f"r{n}")), range(16)))
    for number, commit in enumerate(commits):
        assert record.read_run(taken.git_dir, f"r{number}").commit == commit


# Whose commit it is


def people(where: str | Path, commit: str) -> str:
    return git(where, "log", "-1", "--format=%an <%ae> / %cn <%ce>", commit)


def test_the_identity_is_gits(
    repo: Path, taken: snapshot.Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = "Ada <ada@example.org>", "Bob <bob@example.org>"
    assert people(repo, record.commit_run(run(taken, "r1"))) == f"{ada} / {ada}"
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Bob")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "bob@example.org")
    assert people(repo, record.commit_run(run(taken, "r2"))) == f"{bob} / {ada}"
    git(repo, "config", "user.name", "Local")
    assert people(repo, record.commit_run(run(taken, "r3"))).endswith("/ Local <ada@example.org>")


def test_without_an_identity_it_is_user_and_host(
    repo: Path, taken: snapshot.Snapshot, tmp_path: Path
) -> None:
    (tmp_path / "home/.gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    commit = record.commit_run(run(taken))
    one = f"{process.user()} <{process.user()}@{os.uname().nodename}>"
    assert people(repo, commit) == f"{one} / {one}"
    assert abs(int(git(repo, "log", "-1", "--format=%ct", commit)) - time.time()) < 60


# How it ended


def outcome(taken: snapshot.Snapshot, message: str = "done\n", **values: object) -> str:
    return record.record_outcome(taken.git_dir, "r1", values, message)


def test_the_outcome_is_a_commit_on_top(repo: Path, taken: snapshot.Snapshot) -> None:
    commit = record.commit_run(run(taken))
    values = {"state": "SUCCEEDED", "metrics": {"accuracy": 0.97}}
    message = "run r1 (mnist): SUCCEEDED in 34 s, accuracy 0.97\n"
    logs = {"logs/rank 0.txt": "end\n"}
    tip = record.record_outcome(taken.git_dir, "r1", values, message, logs)
    assert git(repo, "rev-parse", "refs/launcher/runs/r1", f"{tip}^").splitlines() == [tip, commit]
    assert git(repo, "log", "-1", "--format=%B", tip) == message
    assert set(git(repo, "diff", "--name-status", commit, tip).splitlines()) == {
        "A\t.launcher/outcome.json",
        "A\t.launcher/logs/rank 0.txt",
    }
    found = record.read_run(taken.git_dir, "r1")
    assert json.loads(found.files.pop("outcome.json")) == values
    assert found.files == {**FILES, **logs}
    assert (found.commit, found.tip, found.head) == (commit, tip, taken.head)
    assert found.tree == git(repo, "rev-parse", f"{commit}^{{tree}}")


def test_the_same_outcome_is_recorded_once(repo: Path, taken: snapshot.Snapshot) -> None:
    commit = record.commit_run(run(taken))
    tip = outcome(taken, a=1, b="x")
    assert outcome(taken, "again\n", b="x", a=1) == tip
    other = outcome(taken, a=2)
    assert git(repo, "rev-list", f"{commit}..refs/launcher/runs/r1").split() == [other, tip]
    found = record.read_run(taken.git_dir, "r1")
    assert (found.commit, found.tip) == (commit, other)


def test_a_run_of_a_run_is_told_from_it(repo: Path, taken: snapshot.Snapshot) -> None:
    record.commit_run(run(taken))
    tip = outcome(taken, a=1)
    git(repo, "checkout", "-q", "-f", tip)
    again = record.commit_run(run(snapshot.take(str(repo)), "r2"))
    found = record.read_run(taken.git_dir, "r2")
    assert (found.commit, found.head) == (again, tip)
    assert "outcome.json" not in found.files


def test_outcomes_at_the_same_time(repo: Path, taken: snapshot.Snapshot) -> None:
    commit = record.commit_run(run(taken))
    with ThreadPoolExecutor(3) as pool:
        tips = set(pool.map(lambda number: outcome(taken, a=number), range(3)))
    assert len(tips) == 3
    assert set(git(repo, "rev-list", f"{commit}..refs/launcher/runs/r1").split()) == tips


def test_the_outcome_of_no_run(taken: snapshot.Snapshot, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="r1 is not recorded in"):
        outcome(taken)
    with pytest.raises(StoreError, match="cannot read"):
        record.record_outcome(str(tmp_path), "r1", {}, "m")


# Reading


def test_runs_are_found_by_their_beginning(taken: snapshot.Snapshot, tmp_path: Path) -> None:
    record.commit_runs(
        taken.git_dir, [run(taken, each) for each in ("b1", "a2", "a1", "a11", "ab")]
    )
    git(taken.git_dir, "pack-refs", "--all")
    assert record.find(taken.git_dir, "a") == ["a1", "a11", "a2", "ab"]
    assert record.find(taken.git_dir, "a1") == ["a1"]
    assert record.find(taken.git_dir, "a11") == ["a11"]
    assert record.find(taken.git_dir, "") == ["a1", "a11", "a2", "ab", "b1"]
    assert record.find(taken.git_dir, "a*") == []
    with pytest.raises(StoreError, match="cannot read"):
        record.find(str(tmp_path), "a")


def test_no_such_run(taken: snapshot.Snapshot) -> None:
    with pytest.raises(StoreError, match="r9 is not recorded in") as error:
        record.read_run(taken.git_dir, "r9")
    assert error.value.hint


def test_the_command_that_shows_a_run(
    taken: snapshot.Snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record.commit_run(run(taken))
    outcome(taken, "it SUCCEEDED\n")
    monkeypatch.chdir(tmp_path)
    done = process.run(record.log_command(taken.git_dir, "r1"))
    assert done.status == 0
    assert "it SUCCEEDED" in done.stdout
    assert "run r1" in done.stdout
    assert "new.py" in done.stdout


def test_a_forgotten_run_is_gone(taken: snapshot.Snapshot) -> None:
    record.commit_runs(taken.git_dir, [run(taken, "r1"), run(taken, "r2")])
    record.forget(taken.git_dir, "r1")
    record.forget(taken.git_dir, "r1")
    assert record.find(taken.git_dir, "") == ["r2"]
    assert record.commit_run(run(taken))


def test_no_git(taken: snapshot.Snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record.commit_run(run(taken))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match="git was not found"):
        outcome(taken, a=1)
    with pytest.raises(StoreError, match="git was not found"):
        record.read_run(taken.git_dir, "r1")
    with pytest.raises(SubmitError, match="git was not found"):
        record.commit_run(run(taken, "r2"))
