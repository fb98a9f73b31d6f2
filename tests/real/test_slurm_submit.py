"""What a submit to a real Slurm says, writes and queues; and what it refuses."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import events, log, until
from tests.real.slurm import (
    PRINTS_VARIABLES,
    RANKS,
    SINGLE,
    TWO_NODES,
    WAITS,
    job_id,
    ready,
    records,
)
from tests.real.slurm_install import small_wheel

if TYPE_CHECKING:
    from tests.real.slurm import UserProject


def test_it_returns_when_the_job_is_queued(user: UserProject) -> None:
    user.write("train.py", WAITS)
    done = user.launch(*SINGLE, "name=first")
    assert done.returncode == 0, done.stderr
    run = user.run
    assert done.stdout == f"{run.name}\n"
    job = job_id(run)
    assert f"launcher: run {run.name}, {run}\n" in done.stderr
    assert re.search(rf"^launcher: job {job} is queued", done.stderr, re.MULTILINE)
    for verb in ("logs -f", "cancel"):
        assert f"launcher {verb} {run.name}" in done.stderr
    assert user.job(run)["JobName"] == f"first-{run.name}"
    ready(run)
    assert user.shown(run) == "RUNNING"
    (run / "go").touch()
    waited = user.launch("wait", run.name)
    assert (waited.returncode, waited.stdout) == (0, f"{run.name} SUCCEEDED\n")
    assert [each["state"] for each in events(run)] == [
        *("SUBMITTING", "SUBMITTING", "PENDING", "RUNNING", "SUCCEEDED")
    ]


def test_the_estimated_start_of_a_job_that_has_to_wait(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    user.block("--time=30", "--nodes=2", "--exclusive")
    told = r"is queued.*, expected to start at \d{4}-\d\d-\d\d \d\d:\d\d"

    def is_told() -> bool:  # a submit does not wait long for it
        done = user.launch(*SINGLE)
        assert done.returncode == 0, done.stderr
        assert "is queued" in done.stderr
        return bool(re.search(told, done.stderr))

    until(is_told)
    assert user.shown(user.runs[0]) == "PENDING"


@pytest.mark.parametrize(("status", "code", "word"), [(0, 0, "SUCCEEDED"), (7, 1, "FAILED")])
def test_wait_follows_with_logs(user: UserProject, status: int, code: int, word: str) -> None:
    user.write(
        "train.py",
        "import os, time\nprint('ready', os.environ['RANK'], flush=True)\n"
        "other = os.environ['LAUNCHER_RUN_DIR'] + '/logs/rank-0.log'\n"
        "if os.environ['RANK'] == '1':\n"
        "    while not os.path.exists(other) or not os.path.getsize(other): time.sleep(0.1)\n"
        f"    raise SystemExit({status})\n"
        f"time.sleep(600 if {status} else 0)\n",
    )
    done = user.launch(*TWO_NODES, "wait=true")
    assert done.returncode == code, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line[0] == "[")
    assert said == ["[0] ready 0", "[1] ready 1"]
    assert f"run {user.run.name} {word}" in done.stderr
    if status:
        assert "rank 1 on node2" in done.stderr
        assert "exit status 7" in done.stderr


def test_what_was_planned_is_what_is_submitted(user: UserProject) -> None:
    user.write("train.py", WAITS)
    words = (*TWO_NODES, "script_params.lr=0.1", "env.A=b c", "compute.comment=a b")
    planned = json.loads(user.launch("plan", "--json", *words).stdout)
    shown = user.launch("plan", *words).stdout
    assert user.runs == []
    run = user.submit(*words)
    for file in planned["files"]:
        path = run / file["path"]
        text = file["text"].replace(planned["run_id"], run.name)
        assert path.read_text() == text, file["path"]
        assert path.stat().st_mode & 0o777 == file["mode"]
    assert (run / "launch.sh").read_text() in shown
    job = (run / "job.sh").read_text()
    shown_id = re.search(r"\d{6}-\d{6}-\w{4}", shown)
    assert shown_id
    assert job.replace(run.name, shown_id[0]) in shown
    queued = user.ask("scontrol", "write", "batch_script", job_id(run), "-")
    assert queued.rstrip("\n") == job.rstrip("\n")


def test_launch_sh_by_hand_gives_the_same_ranks(user: UserProject) -> None:
    user.write("train.py", PRINTS_VARIABLES)
    run = user.submit(*TWO_NODES)
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    before = records(run, 2)
    for rank in (0, 1):
        (run / "logs" / f"rank-{rank}.log").unlink()
    words = ("salloc", "--nodes=2", "--ntasks-per-node=1", f"{run}/launch.sh")
    done = user.cluster.run(words, cwd=user.path, env=user.env)
    assert done.returncode == 0, done.stderr
    after = [json.loads(log(run, rank).splitlines()[-1]) for rank in (0, 1)]
    for each in (*before, *after):
        each.pop("MASTER_PORT")
        each.pop("SLURM_JOB_ID")
    assert after == before


def test_an_environment_that_is_built_inside_the_first_job(user: UserProject) -> None:
    small_wheel(user.path / "packages", "launcher_tests_word")
    user.write("train.py", "import launcher_tests_word as w, sys\nprint(w.WORD, sys.prefix)\n")
    words = (
        *(*SINGLE, "environment.build_on=job", "environment.provision=venv"),
        "environment.pip_packages=[launcher_tests_word]",
        f"environment.pip_args=[--no-index,--find-links={user.path}/packages]",
    )
    cache = {"LAUNCHER_CACHE": str(user.path / "cache")}
    runs = [user.submit(*words, **cache) for _ in range(3)]
    for run in runs:
        assert user.ends(run) == "SUCCEEDED", user.everything(run)
    (prefix,) = {log(run) for run in runs}
    word, _, path = prefix.strip().partition(" ")
    assert (word, path.rpartition("/")[0]) == ("here", f"{user.path}/cache/envs")
    built = json.loads(os.fsdecode((user.path / path / "environment.json").read_bytes()))
    started = [each["time"] for r in runs for each in events(r) if each["state"] == "RUNNING"]
    assert built["created"] > min(started)  # not on the submitting side
    for run in runs:
        assert "launcher-tests-word==1.0" in (run / "environment.lock").read_text()


def test_code_that_is_staged_on_each_node(user: UserProject) -> None:
    user.write(
        "train.py",
        "import os, socket, sys\nfrom pathlib import Path\nimport beside\n"
        "Path('written.txt').write_text('x')\n"
        "Path(os.environ['LAUNCHER_OUTPUT_DIR'], socket.gethostname()).write_text('kept')\n"
        "print(os.getcwd(), sys.path[0], beside.__file__, os.stat('.').st_uid, beside.WORD)\n",
    )
    user.write("beside.py", "WORD = 'first'\n")
    words = [word for word in TWO_NODES if not word.startswith("procs")]
    run = user.submit(*words, "procs_per_node=2", "compute.stage=scratch")
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    (said,) = {log(run, rank) for rank in range(4)}
    folder, first, beside, owner, word = said.split()
    assert first == folder
    assert beside == f"{folder}/beside.py"
    assert word == "first"
    assert folder.startswith("/tmp/")
    assert not folder.startswith(str(user.path))
    assert int(owner) == user.path.stat().st_uid
    assert {each.name for each in (run / "outputs").iterdir()} == {"node1", "node2"}
    for node in (1, 2):
        look = ("find", "/tmp", "-xdev", "-name", f"{run.name}*")
        until(lambda node=node, look=look: user.cluster.node_exec(node, look).stdout == "")


# ------------------------------------------------------------------ what is refused

BAD = [
    (("compute.partition=debugg",), "compute.partition", ("debug", "short", "urgent")),
    (("compute.constraint=avx3",), "compute.constraint", ("avx2",)),
    (("compute.nodelist=node9",), "compute.nodelist", ("node1", "node2")),
    (("compute.reservation=monday",), "compute.reservation", ()),
    (("compute.partition=short", "compute.time=3:00:00"), "compute.time", ("1:00:00",)),
    (("compute.mem=64G",), "compute.mem", ("8000",)),
    (("dist=mpi", "dist.horovod=false", "nodes=3"), "nodes=3", ("2",)),
    (("dist=mpi", "dist.horovod=false", "procs_per_node=5"), "procs_per_node", ("4",)),
    (("environment.gpus_per_proc=5",), "gpus_per_proc=5", ("4",)),
    (("compute.mpi=nosuch", "compute.launch=srun", *RANKS), "compute.mpi=nosuch", ("pmix",)),
]


@pytest.mark.parametrize(("words", "key", "lists"), BAD, ids=[key for _, key, _ in BAD])
def test_what_cannot_be_had_is_refused_with_what_there_is(
    user: UserProject, words: tuple[str, ...], key: str, lists: tuple[str, ...]
) -> None:
    user.write("train.py", "print('ran')\n")
    user.refused(*SINGLE, *words, status=2, words=(key, *lists))


def test_an_account_that_the_user_does_not_have(user: UserProject) -> None:
    if user.cluster.at.accounting == "none":
        pytest.skip("nobody has accounts there")
    user.write("train.py", "print('ran')\n")
    words = ("compute.account=reserch", "research")
    user.refused(*SINGLE, "compute.account=reserch", status=2, words=words)
    user.refused(*SINGLE, "compute.qos=nosuch", status=2, words=("compute.qos", "normal"))
    assert user.ends(user.submit(*SINGLE, "compute.account=research")) == "SUCCEEDED"


@pytest.mark.parametrize("extra", ["licenses: 'nosuch:1'", "nosuchoption: 1", "begin: yesterday12"])
def test_sbatch_s_own_refusals_name_the_option(user: UserProject, extra: str) -> None:
    user.write("train.py", "print('ran')\n")
    name = extra.partition(":")[0]
    words = (f"compute.extra.{name}",)
    user.refused(*SINGLE, f"compute.extra={{{extra}}}", status=3, words=words)


def test_options_reach_the_job(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(
        *SINGLE,
        *("compute.partition=short", "compute.time=0:20:00", "compute.nodelist=node2"),
        *("compute.mem=1G", "compute.constraint=avx2", "compute.gres='gpu:fake:2'"),
        *("compute.cpus_per_proc=2", "compute.comment=why", "compute.extra={nice: 100}"),
        "compute.setup=['echo from setup', 'export FROM_SETUP=1']",
    )
    ready(run)
    job = user.job(run)
    expected = {"Partition": "short", "TimeLimit": "00:20:00", "NodeList": "node2"}
    expected |= {"NumCPUs": "2", "Features": "avx2", "Comment": "why", "MinMemoryNode": "1G"}
    assert {key: job[key] for key in expected} == expected
    assert "gres/gpu" in job.get("TRES", "") or "gpu:fake:2" in str(job)
    assert int(job["Nice"]) == 100
    assert "from setup" in (run / "logs" / "launch.log").read_text()


def test_a_run_runs_again(user: UserProject) -> None:
    user.write("train.py", "import sys\nprint(sys.argv[1:])\n")
    assert user.ends(user.submit(*SINGLE, "script_params.lr=0.1")) == "SUCCEEDED"
    again = user.submit("rerun", "@last", "script_params.lr=0.5")
    assert user.ends(again) == "SUCCEEDED"
    assert log(again) == "['--lr', '0.5']\n"
    assert json.loads((again / "run.json").read_text())["rerun_of"] == user.runs[0].name


def test_it_works_from_inside_another_job(user: UserProject) -> None:
    user.write("train.py", PRINTS_VARIABLES)
    words = " ".join((*TWO_NODES, "wait=true"))
    inside = ("srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=2", "bash", "-c")
    env = {**user.env, "SBATCH_EXPORT": "NONE", "SBATCH_TIMELIMIT": "7"}
    done = user.cluster.run((*inside, f"launcher {words}"), cwd=user.path, env=env)
    assert done.returncode == 0, done.stderr
    ranks: list[dict[str, str]] = records(user.run, 2)
    assert [each["OMP_NUM_THREADS"] for each in ranks] == ["1", "1"]
    assert {each["SLURM_JOB_ID"] for each in ranks} == {job_id(user.run)}
