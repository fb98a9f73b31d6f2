"""What a run promises, on real ssh hosts: boxes with sshd, Python and a compiler, and no git."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.cluster.user import USER
from tests.real.conftest import events, log, state, until
from tests.real.slurm import STUBBORN, WAITS
from tests.real.ssh import SINGLE, TWO_HOSTS, SshProject, outcome, records

if TYPE_CHECKING:
    from pathlib import Path

SHOW = (
    "import json, os, sys\n"
    "print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), os.uname().nodename]))\n"
)
BOTH = pytest.mark.parametrize("options", [SINGLE, TWO_HOSTS], ids=["single", "mpi"])


def ranks_of(options: tuple[str, ...]) -> int:
    return 4 if options == TWO_HOSTS else 1


def ready(box: SshProject, run: Path, ranks: int) -> None:
    """Wait until each rank has said so on its host."""
    a, b, _ = box.hosts.all

    def said() -> bool:
        return all("ready" in box.said(run, rank, a if rank < 2 else b) for rank in range(ranks))

    try:
        until(said)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{box.everything(run)}") from None


def git(box: SshProject, *words: str) -> str:
    done = box.hosts.run(("git", *words), cwd=box.path)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------ a run


def test_a_run_and_what_it_leaves_here(box: SshProject) -> None:
    git(box, "init", "-q")
    box.write(
        "train.py",
        "import os, pathlib\nfrom launcher import report\nimport sub.part\n"
        "for step in range(3): report(step=step, loss=1 / (step + 1))\n"
        "out = pathlib.Path(os.environ['LAUNCHER_OUTPUT_DIR'])\n"
        "(out / 'deep').mkdir()\n(out / 'deep' / 'model.bin').write_bytes(bytes(5_000_000))\n"
        "pathlib.Path('beside.txt').write_text('x')\n"
        "print(os.uname().nodename, sub.part.WORD)\n",
    )
    box.write("sub/part.py", "WORD = 'imported'\n")
    done = box.launch(*SINGLE, "wait=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hosta imported\n"
    assert "SUCCEEDED" in done.stderr
    run = box.run
    assert state(run) == "SUCCEEDED"
    assert outcome(run)["metrics"] == {"step": 2, "loss": pytest.approx(1 / 3)}
    assert (run / "outputs" / "deep" / "model.bin").stat().st_size == 5_000_000
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    code = box.there(run) / "code"
    left = [each for each in code.rglob("*") if each.is_file() and each.suffix != ".pyc"]
    assert left == [code / "beside.txt"]
    ref = f"refs/launcher/runs/{run.name}"
    told = json.loads(git(box, "show", f"{ref}:.launcher/outcome.json"))
    assert (told["state"], told["exit_status"]) == ("SUCCEEDED", 0)
    assert git(box, "log", "--format=%s", ref).splitlines()[0].startswith(f"run {run.name}")
    record = json.loads((run / "run.json").read_text())
    assert record["hosts"]["workdir"] == f"/home/{USER}/.launcher"
    assert [each["name"] for each in record["hosts"]["hosts"]] == ["hosta"]
    assert "ssh:hosta" in box.launch("runs").stdout
    assert box.left() == []


def test_ranks_on_two_hosts_see_each_other(box: SshProject) -> None:
    box.write(
        "train.py",
        "import json, os\n"
        "names = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'NODE_RANK', 'MASTER_ADDR')\n"
        "print(json.dumps({**{n: os.environ[n] for n in names}, 'host': os.uname().nodename}))\n",
    )
    for host in box.hosts.all[:2]:  # what other tests built
        shutil.rmtree(host.user_home / ".launcher" / "cache" / "envs", ignore_errors=True)
    done = box.launch(*TWO_HOSTS, "wait=true")
    assert done.returncode == 0, done.stderr
    seen = records(box.run, 4)
    assert [each["host"] for each in seen] == ["hosta", "hosta", "hostb", "hostb"]
    assert [each["RANK"] for each in seen] == ["0", "1", "2", "3"]
    assert [each["LOCAL_RANK"] for each in seen] == ["0", "1", "0", "1"]
    assert [each["NODE_RANK"] for each in seen] == ["0", "0", "1", "1"]
    assert {each["MASTER_ADDR"] for each in seen} == {box.hosts.hosta.address}
    assert "hosta: environment" in done.stderr  # it was built, on each of them
    assert "hostb: environment" in done.stderr
    assert box.left() == []


@BOTH
def test_arguments_and_variables_arrive_byte_for_byte(
    box: SshProject, options: tuple[str, ...]
) -> None:
    chosen = random.Random(7)
    parts = [
        "'",
        '"',
        "\\",
        "\n",
        "\t",
        "$HOME",
        "`id`",
        " ",
        "é",
        ";",
        "&",
        "|",
        "*",
        "~",
        ":",
        "-",
    ]
    texts = ["", ":", "--", *("".join(chosen.choices(parts, k=9)) for _ in range(2000))]
    box.write("train.py", SHOW)
    box.write(
        "go.py",
        "import json, launcher, sys\ntexts = json.load(open('texts.json'))\n"
        "run = launcher.submit(*sys.argv[1:], script_params={'x': texts}, "
        "env={'A': texts[5], 'EMPTY': '', 'B': texts[6]})\n"
        "sys.exit(run.wait(250).value != 'SUCCEEDED')\n",
    )
    box.write("texts.json", json.dumps(texts))
    box.python("go.py", *options)
    for rank in range(ranks_of(options)):
        argv, env, cwd, _ = json.loads(log(box.run, rank))
        assert argv == ["--x", *texts]
        assert (env["A"], env["EMPTY"], env["B"]) == (texts[5], "", texts[6])
        assert cwd == f"/home/{USER}/.launcher/runs/{box.run.name}/code"


@BOTH
def test_secrets_are_in_no_file_and_no_command_line(
    box: SshProject, options: tuple[str, ...]
) -> None:
    value = "open'sesame\n with $HOME"
    box.write(
        "train.py",
        "import os, time\nassert os.environ['MY_TOKEN'] == os.environ['WANTED'].replace('_', 'e')\n"
        "print('the token is', os.environ['MY_TOKEN'])\n" + WAITS,
    )
    box.write(
        "go.py",
        "import launcher, os, sys\n"
        "launcher.submit(*sys.argv[1:], 'secrets=[MY_TOKEN]', "
        "env={'WANTED': os.environ['MY_TOKEN'].replace('e', '_')})\n",
    )
    box.python("go.py", *options, MY_TOKEN=value)
    run = box.run
    ready(box, run, ranks_of(options))
    words = tuple(each for host in box.hosts.all for each in host.processes().values())
    assert not any("sesame" in each for each in words)
    used = [host for host in box.hosts.all if box.there(run, host).exists()]
    for host in used:
        (box.there(run, host) / "go").touch()
    assert box.launch("wait", run.name).returncode == 0, box.everything(run)
    for place in (run, *(box.there(run, host) for host in used)):
        for each in place.rglob("*"):
            assert not each.is_file() or b"sesame" not in each.read_bytes(), each
    assert "the token is ***" in log(run)


@BOTH
@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [
        ("raise SystemExit(7)", 7, "exit status 7"),
        ("raise ValueError('bad loss')", 1, "ValueError: bad loss (train.py, line 4)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
    ],
)
def test_how_a_script_fails(
    box: SshProject, options: tuple[str, ...], ending: str, status: int, words: str
) -> None:
    fails = ranks_of(options) - 1  # of two hosts, on the other one
    box.write(
        "train.py",
        "import os, signal, time\nprint('about to')\n"
        f"if int(os.environ.get('RANK', '0')) == {fails}:\n    {ending}\ntime.sleep(120)\n",
    )
    done = box.launch(*options, "wait=true")
    assert done.returncode == 1
    last = outcome(box.run)
    assert (last["state"], last["exit_status"]) == ("FAILED", status)
    assert words in last["reason"]
    assert last["failed"]["rank"] == fails
    assert "about to" in last["failed"]["last_lines"]
    assert last["reason"] in done.stderr
    assert box.left() == []


# ------------------------------------------------------------------ followed, waited for, ended


def test_a_line_is_seen_at_once(box: SshProject) -> None:
    box.write(
        "train.py",
        "import os, time\n"
        "for number in range(20):\n"
        "    while not os.path.exists(f\"{os.environ['LAUNCHER_RUN_DIR']}/{number}\"):\n"
        "        time.sleep(0.01)\n"
        "    print(time.time(), flush=True)\n",
    )
    run = box.submit(*SINGLE)
    late = []
    with box.start("logs", "-f", run.name) as following:
        assert following.stdout
        for number in range(20):  # each once the one before has been seen
            (box.there(run) / str(number)).touch()
            late.append(time.time() - float(following.stdout.readline()))
        assert following.wait(180) == 0
    assert median(late) < 0.3  # of a machine that is busy now and then


@BOTH
def test_detached_then_followed_and_cancelled(box: SshProject, options: tuple[str, ...]) -> None:
    box.write(
        "train.py",
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    if os.environ.get('RANK', '0') == '0': time.sleep(1)\n"
        "    print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(120)\n",
    )
    run = box.submit(*options, "compute.grace_s=60")  # none of them is killed
    with box.start("logs", "-f", run.name) as following, box.start("wait", run.name) as waiting:
        ready(box, run, ranks_of(options))
        assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
        assert following.communicate(timeout=180)[0].count("saved") == ranks_of(options)
        assert waiting.communicate(timeout=180)[0] == f"{run.name} CANCELLED\n"
    assert waiting.returncode == 130
    assert state(run) == "CANCELLED"
    assert box.left() == []


def test_another_clone_follows_and_cancels(box: SshProject) -> None:
    git(box, "init", "-q", "-b", "main")
    box.write("train.py", "import time\nprint('ready', flush=True)\ntime.sleep(120)\n")
    run = box.submit(*TWO_HOSTS)
    ready(box, run, 4)
    ref = f"refs/launcher/runs/{run.name}"
    other = SshProject(
        path=box.path.with_name(f"{box.path.name}-2"), hosts=box.hosts, venv=box.venv
    )
    git(box, "init", "-q", str(other.path))
    git(other, "fetch", "-q", str(box.path), f"{ref}:{ref}")
    shutil.move(run, box.path / "gone")  # as on another machine, whose file system is another
    assert other.status(other.path / "runs" / run.name)["state"] == "RUNNING"
    assert other.launch("logs", run.name).stdout.count("ready") == 4
    assert other.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    assert json.loads(git(other, "show", f"{ref}:.launcher/outcome.json"))["state"] == "CANCELLED"
    assert box.left() == []


@BOTH
def test_what_ignores_sigterm_is_killed(box: SshProject, options: tuple[str, ...]) -> None:
    box.write("train.py", STUBBORN)
    run = box.submit(*options, "compute.grace_s=4")  # in which each says that it was told
    ready(box, run, ranks_of(options))
    assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    assert box.left() == []
    for rank in range(ranks_of(options)):
        assert "told" in log(run, rank)


def test_ctrl_c_leaves_the_run_alone(box: SshProject) -> None:
    box.write("train.py", WAITS)
    with box.start(*SINGLE, "wait=true") as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=180)
    assert running.returncode == 130
    assert "goes on without us" in err
    (box.there(box.run) / "go").touch()
    assert box.launch("wait", box.run.name).stdout == f"{box.run.name} SUCCEEDED\n"
    assert log(box.run).endswith("end\n")


def test_a_time_limit(box: SshProject) -> None:
    box.write("train.py", "import time\nprint('ready', flush=True)\ntime.sleep(100)\n")
    done = box.launch(*SINGLE, 'compute.time="00:00:02"', "wait=true")
    assert done.returncode == 1
    assert state(box.run) == "TIMED_OUT"
    assert box.left() == []


def test_runs_go_on_when_nobody_looks(box: SshProject) -> None:
    """The connection that a submit leaves behind, and sshd itself, end; the run does not."""
    box.write("train.py", WAITS)
    run = box.submit(*SINGLE)
    until(lambda: "ready" in box.said(run))
    box.hosts.hosta.restart_sshd(cut=True)
    (box.there(run) / "go").touch()
    assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"


def test_a_rerun_and_another_clone(box: SshProject) -> None:
    git(box, "init", "-q")
    box.write("train.py", "import sys\nprint('one', sys.argv[1:])\n")
    assert box.launch(*SINGLE, "wait=true", "script_params.lr=0.1").returncode == 0
    first = box.run
    box.write("train.py", "print('two')\n")
    done = box.launch("rerun", first.name, "script_params.lr=0.2", "wait=true")
    assert done.stdout == "one ['--lr', '0.2']\n", done.stderr


def test_hostile_file_names_travel(box: SshProject) -> None:
    names = [b"a b", b"new\nline", b"q'\"uote", b"-dash", b"\xff\xfe.txt", b"$HOME", b"e\\f"]
    box.write(
        "train.py", "import os\nprint(sorted(os.listdir(b'.')))\nprint(os.readlink('link'))\n"
    )
    for name in names:
        with open(os.path.join(os.fsencode(box.path), name), "w") as file:
            file.write("x")
    os.symlink("train.py", box.path / "link")
    git(box, "init", "-q")
    done = box.launch(*SINGLE, "wait=true")
    assert done.returncode == 0, done.stderr
    seen, link = done.stdout.splitlines()
    assert seen == str(sorted([*names, b"link", b"train.py"]))
    assert link == "train.py"


def test_data_is_looked_for_on_the_host(box: SshProject) -> None:
    box.write("train.py", "import sys\nprint(open(sys.argv[2]).read())\n")
    (box.hosts.hosta.user_home / "data.txt").write_text("of the host")
    data = f"data.d.path=/home/{USER}/data.txt"
    done = box.launch(*SINGLE, data, "'script_params.f=${data:d}'"[1:-1], "wait=true")
    assert done.stdout == "of the host\n", done.stderr
    words = ("data.d.path", "on hosta")
    box.write("other/train.py", "")
    subprocess.run(["rm", "-rf", str(box.path / "runs")], check=True)
    box.refused(*SINGLE, "data.d.path=/nowhere", status=2, words=words)


def test_the_plan_is_what_is_carried_out(box: SshProject) -> None:
    box.write("train.py", "print('ran')\n")
    planned = json.loads(box.launch("plan", "--json", *TWO_HOSTS).stdout)
    assert box.runs == []
    done = box.launch(*TWO_HOSTS, "wait=true")
    assert done.returncode == 0, done.stderr
    for host in box.hosts.all[:2]:
        for file in planned["files"]:
            path = box.there(box.run, host) / file["path"]
            if file["path"] == "pool/group.json" and host is not box.hosts.hosta:
                continue  # the pool is on the first one
            text = file["text"].replace(planned["run_id"], box.run.name)
            assert path.read_text() == text, file["path"]
            assert path.stat().st_mode & 0o777 == file["mode"]
    first = [each for each in events(box.run) if each["state"] == "RUNNING"]
    assert first[0]["host"] == "hosta"
