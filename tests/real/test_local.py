"""What a run promises, on this machine: real processes, real Open MPI, real git."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launcher
from launcher.processes import HEARTBEAT_S
from tests.conftest import Project
from tests.real.conftest import PLAIN, RANKS, events, log, processes_of, settled, state, until
from tests.real.slurm import WAITS

SHOW = "import json, os, sys\nprint(json.dumps([sys.argv, os.getcwd(), sys.path[0], __name__]))\n"
BOTH = pytest.mark.parametrize("options", [PLAIN, RANKS], ids=["single", "mpi"])


def test_a_script_runs_as_python_would_run_it(project: Project) -> None:
    project.write("sub/train.py", SHOW)
    done = project.launch("entry_script=sub/train.py", *PLAIN, "script_params.lr=0.1")
    assert done.returncode == 0, done.stderr
    argv, cwd, first, name = json.loads(done.stdout)
    assert argv == ["sub/train.py", "--lr", "0.1"]
    assert cwd == str(project.run / "code")
    assert first == f"{cwd}/sub"
    assert name == "__main__"
    assert state(project.run) == "SUCCEEDED"


def test_a_module_runs_as_python_m_would_run_it(project: Project) -> None:
    project.write("pkg/__init__.py", "")
    project.write("pkg/__main__.py", SHOW + "from . import helper\nprint(helper.__name__)\n")
    project.write("pkg/helper.py", "")
    done = project.launch("entry_script=-m pkg", *PLAIN)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert json.loads(first)[0] == [f"{project.run}/code/pkg/__main__.py"]
    assert json.loads(first)[2] == str(project.run / "code")
    assert second == "pkg.helper"


def test_workers_that_are_spawned_find_the_script(project: Project) -> None:
    project.write(
        "train.py",
        "import multiprocessing as mp\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with mp.get_context('spawn').Pool(1) as pool: print(pool.map(double, [1, 2]))\n",
    )
    done = project.launch("entry_script=train.py", *PLAIN)
    assert (done.returncode, done.stdout) == (0, "[2, 4]\n"), done.stderr


@BOTH
@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [
        ("raise SystemExit(7)", 7, "exit status 7"),
        ("raise ValueError('bad loss')", 1, "ValueError: bad loss (train.py, line 4)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
        ("os._exit(5)", 5, "exit status 5"),
    ],
)
def test_how_a_script_fails(
    project: Project, options: tuple[str, ...], ending: str, status: int, words: str
) -> None:
    fails = "int(os.environ.get('WORLD_SIZE', '1')) - 1"
    project.write(
        "train.py",
        "import os, signal, time\n"
        "print('about to')\n"
        f"if int(os.environ.get('RANK', '0')) == {fails}:\n    {ending}\n"
        "time.sleep(600)\n",  # a launch that takes so long fails
    )
    done = project.launch("entry_script=train.py", *options)
    assert done.returncode == 1
    last = events(project.run)[-1]
    assert last["state"] == "FAILED"
    assert last["exit_status"] == status
    assert words in last["reason"]
    assert last["failed"]["rank"] == (0 if options == PLAIN else 1)
    assert "about to" in last["failed"]["last_lines"]
    assert last["reason"] in done.stderr
    assert processes_of(project.run.name) == []
    if "ValueError" in ending:
        assert last["failed"]["last_lines"][-1] == "ValueError: bad loss"
        assert "bootstrap" not in log(project.run, last["failed"]["rank"])


def test_to_wait_for_a_limit_costs_nothing(project: Project) -> None:
    project.write("train.py", "import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    done = project.launch("entry_script=train.py", *PLAIN, "wait=false", "compute.time=5")
    assert done.returncode == 0, done.stderr
    until(lambda: project.launch("logs", "@last").stdout == "ready\n")
    supervisor = events(project.run)[-1]["pid"]

    def rests() -> bool:  # once it has read what it needs
        before = _ticks(supervisor)
        time.sleep(2)
        return _ticks(supervisor) - before < 20

    until(rests)
    assert project.launch("cancel", "@last").returncode == 0


def _ticks(pid: int) -> int:
    """Return the time that a process has computed, in units of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_ranks_see_each_other(project: Project) -> None:
    project.write(
        "train.py",
        "import os\nprint(*(os.environ[n] for n in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', "
        "'LOCAL_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'MASTER_ADDR', 'OMP_NUM_THREADS')), "
        "int(os.environ['MASTER_PORT']) > 1024)\n",
    )
    options = [each for each in RANKS if not each.startswith("procs")]
    done = project.launch("entry_script=train.py", *options, "procs_per_node=3")
    assert done.returncode == 0, done.stderr
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert sorted(done.stdout.splitlines()) == [
        f"[{rank}] {rank} 3 {rank} 3 {rank} 127.0.0.1 {threads} True" for rank in range(3)
    ]
    assert log(project.run, 2) == f"2 3 2 3 2 127.0.0.1 {threads} True\n"


def test_variables_arrive_unchanged(project: Project) -> None:
    values = {"A": 'it\'s $HOME `id` "x" \\ \n\t é ,;&|', "EMPTY": "", "SPACES": "  a  b "}
    project.write("train.py", "import json, os\nprint(json.dumps(dict(os.environ)))\n")
    project.write(
        "go.py",
        "import launcher, sys, json\n"
        "run = launcher.submit('environment.torch=null', entry_script='train.py', "
        "env=json.loads(sys.argv[1]))\n"
        "assert run.wait().value == 'SUCCEEDED'\n",
    )
    _python(project, "go.py", json.dumps(values))
    seen = json.loads(log(project.run))
    assert {name: seen[name] for name in values} == values


def _python(project: Project, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], cwd=project.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_is_compiled_as_it_stands(project: Project) -> None:
    project.write("train.py", "def f(x: int): pass\nprint(f.__annotations__['x'] is int)\n")
    done = project.launch("entry_script=train.py", *PLAIN)
    assert done.stdout == "True\n", done.stderr


def test_setup_lines_may_change_the_folder_and_must_not_end_the_job(project: Project) -> None:
    project.write("train.py", "print('ran')\n")
    done = project.launch("entry_script=train.py", *PLAIN, "environment.setup=[cd /tmp]")
    assert done.stdout == "ran\n", done.stderr
    done = project.launch("entry_script=train.py", *PLAIN, "environment.setup=[exit 0]")
    assert done.returncode == 1
    assert "could not be started" in done.stderr


def test_a_run_that_submits_another(project: Project) -> None:
    project.write(
        "inner.py", "import os, time\ntime.sleep(2)\nprint('inner', 'RANK' in os.environ)\n"
    )
    project.write(
        "train.py",
        "import launcher, os\n"
        "if os.environ['RANK'] == '0':\n"
        f"    launcher.submit('environment.torch=null', 'runs_dir={project.path}/runs', "
        "entry_script='inner.py')\n",
    )
    words = ("environment.python=" + sys.executable, "environment.provision=current")
    done = project.launch("entry_script=train.py", *RANKS, *words)
    assert done.returncode == 0, done.stderr
    assert project.launch("wait", "@last").stdout.endswith("SUCCEEDED\n")
    assert log(project.runs[-1]) == "inner False\n"


# ------------------------------------------------------------------ stopping

STUBBORN = (
    "import signal, time, os\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
    "print('ready', flush=True)\n"
    "end = time.monotonic() + 600\n"
    "while time.monotonic() < end: time.sleep(0.05)\n"
)
SAVES = (
    "import signal, sys, time, os\n"
    "def save(*_):\n"
    "    if os.environ.get('RANK', '0') == '0': time.sleep(1.5)\n"
    "    print('saved', flush=True); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)\n"
)


def _ready(project: Project, ranks: int) -> bool:
    return bool(project.runs) and all(
        (project.run / "logs" / f"rank-{rank}.log").exists() and "ready" in log(project.run, rank)
        for rank in range(ranks)
    )


@BOTH
def test_ctrl_c_gives_ranks_their_grace(project: Project, options: tuple[str, ...]) -> None:
    ranks = 2 if options == RANKS else 1
    project.write("train.py", SAVES)
    running = project.start("entry_script=train.py", *options)
    until(lambda: _ready(project, ranks))
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert state(project.run) == "CANCELLED"
    assert out.count("saved") == ranks
    assert processes_of(project.run.name) == []


def test_workers_are_not_told_to_stop_before_their_rank(project: Project) -> None:
    project.write(
        "train.py",
        "import signal, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "def save(*_):\n"
        "    time.sleep(0.3); print('worker', worker.poll(), flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n",
    )
    running = project.start("entry_script=train.py", *PLAIN)
    until(lambda: _ready(project, 1))
    os.killpg(running.pid, signal.SIGINT)
    out, _ = running.communicate(timeout=300)
    assert "worker None" in out
    assert events(project.run)[-1]["exit_status"] == 0
    assert processes_of(project.run.name) == []


@BOTH
def test_what_ignores_sigterm_is_killed_after_the_grace(
    project: Project, options: tuple[str, ...]
) -> None:
    ranks = 2 if options == RANKS else 1
    project.write("train.py", STUBBORN)
    running = project.start("entry_script=train.py", *options, "compute.grace_s=6")
    until(lambda: _ready(project, ranks))
    before = time.monotonic()
    os.killpg(running.pid, signal.SIGINT)
    out, _ = running.communicate(timeout=300)
    assert time.monotonic() - before >= 6
    assert running.returncode == 130
    assert out.count("told") == ranks
    assert processes_of(project.run.name) == []


def test_a_second_ctrl_c_stops_at_once(project: Project) -> None:
    project.write("train.py", STUBBORN)
    running = project.start("entry_script=train.py", *RANKS, "compute.grace_s=1000")
    until(lambda: _ready(project, 2))
    os.killpg(running.pid, signal.SIGINT)
    until(lambda: "told" in log(project.run, 0) and "told" in log(project.run, 1))
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=300)
    assert running.returncode == 130
    assert state(project.run) == "CANCELLED"
    assert processes_of(project.run.name) == []


def test_a_run_outlives_its_killed_launcher(project: Project) -> None:
    project.write("train.py", WAITS)
    running = project.start("entry_script=train.py", *PLAIN)
    until(lambda: _ready(project, 1))
    running.kill()
    running.communicate()
    (project.run / "go").touch()
    assert project.launch("wait", "@last").stdout == f"{project.run.name} SUCCEEDED\n"
    assert log(project.run).endswith("end\n")


@BOTH
def test_a_killed_supervisor_is_seen_and_leaves_nothing(
    project: Project, options: tuple[str, ...]
) -> None:
    ranks = 2 if options == RANKS else 1
    left = "import subprocess\nsubprocess.Popen(['sleep', '600'])\n"
    project.write("train.py", f"{left}{STUBBORN}")
    running = project.start("entry_script=train.py", *options)
    until(lambda: _ready(project, ranks))
    (started,) = [each for each in events(project.run) if each["state"] == "RUNNING"]
    os.kill(started["pid"], signal.SIGKILL)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "LOST" in err
    until(lambda: processes_of(project.run.name) == [])
    (listed,) = json.loads(project.launch("runs", "--json").stdout)
    assert listed["state"] == "LOST"


@pytest.mark.usefixtures("_root")
def test_a_keeper_that_cannot_be_started_keeps_no_run_from_it(project: Project) -> None:
    project.write("train.py", "print('ran')\n")
    launch = (sys.executable, "-m", "launcher", "entry_script=train.py", *PLAIN)
    barred = ("bash", "-c", 'mount --bind /dev/null /bin/sh && exec "$@"', "bash")
    words = ("unshare", "--mount", "--propagation=private", *barred, *launch)
    done = subprocess.run(words, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = "launcher: the run's keeper cannot be started: [Errno 13] Permission denied: '/bin/sh'"
    assert done.stdout == f"{told}\nran\n"


def test_a_run_that_was_given_up_elsewhere_is_ended_where_it_is(project: Project) -> None:
    project.write("train.py", WAITS)
    with project.start("entry_script=train.py", *PLAIN) as running:
        until(lambda: _ready(project, 1))
        run, told, here = project.run, project.run / "events.jsonl", os.uname().nodename
        # As another machine sees it that shares the folder.
        told.write_text(told.read_text().replace(f'"host": "{here}"', '"host": "elsewhere"'))
        refused = project.launch("cancel", run.name)
        assert refused.returncode != 0
        assert "elsewhere" in refused.stderr
        assert project.launch("cancel", "--give-up", run.name).stdout == f"{run.name} CANCELLED\n"
        assert processes_of(run.name) != []
        told.write_text(told.read_text().replace('"host": "elsewhere"', f'"host": "{here}"'))
        done = project.launch("cancel", run.name)
        assert (done.returncode, done.stdout) == (0, f"{run.name} CANCELLED\n"), done.stderr
        running.communicate(timeout=300)
    until(lambda: processes_of(run.name) == [])


def test_a_run_of_which_no_rank_begins_says_so(project: Project) -> None:
    project.write("train.py", WAITS)
    with project.start("entry_script=train.py", *PLAIN) as running:
        until(lambda: _ready(project, 1))
        told = project.run / "events.jsonl"
        hour = [{**each, "time": each["time"] - 3600} for each in events(project.run)]
        told.write_text("".join(json.dumps(each) + "\n" for each in hour))
        assert json.loads(project.launch("show", "--json").stdout)["reason"] == ""
        # As it is where mpirun waits for a host.
        (project.run / "logs" / "launch.log").write_text("first\nhostb: Connection refused\n")
        since = time.strftime("%H:%M:%S", time.localtime(hour[-1]["time"]))
        why = f"no rank has begun since {since}; launch.log says: hostb: Connection refused"

        def says(verb: str, words: str) -> bool:  # the supervisor may file its rank once more
            for each in (*project.run.glob("ranks/*"), project.run / "logs" / "rank-0.log"):
                each.unlink(missing_ok=True)
            return bool(re.search(words, project.launch(verb).stdout))

        until(lambda: says("show", f"why +{why}"))
        until(lambda: says("explain", f"^{why}"))
        until(lambda: says("runs", "no rank has begun"))
        assert project.launch("cancel", project.run.name).returncode == 0
        running.communicate(timeout=300)


@BOTH
def test_no_orphan_is_left_by_a_script_that_forks(
    project: Project, options: tuple[str, ...]
) -> None:
    project.write(
        "train.py",
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        "start_new_session=True)\n"
        "print('left one')\n",
    )
    done = project.launch("entry_script=train.py", *options)
    assert done.returncode == 0, done.stderr
    assert processes_of(project.run.name) == []


def test_the_time_limit(project: Project) -> None:
    project.write("train.py", SAVES)
    limit = 'compute.time="00:00:15"'  # by which the script listens
    done = project.launch("entry_script=train.py", *PLAIN, limit)
    assert done.returncode == 1
    assert state(project.run) == "TIMED_OUT"
    assert "saved" in log(project.run)
    assert "time limit" in done.stderr


def test_a_run_that_is_stopped_for_a_while_goes_on(project: Project) -> None:
    """As by a machine that sleeps, or a debugger: nobody told it to end."""
    project.write("train.py", WAITS)
    with project.start("entry_script=train.py", *PLAIN) as running:
        until(lambda: _ready(project, 1))
        (begun,) = [each for each in events(project.run) if each["state"] == "RUNNING"]
        for _ in range(2):
            os.kill(begun["pid"], signal.SIGSTOP)
            time.sleep(HEARTBEAT_S + 0.5)  # and so beyond the end of what it waited for
            os.kill(begun["pid"], signal.SIGCONT)
            before = time.time()
            until(lambda since=before: (project.run / "heartbeat").stat().st_mtime > since)
        (project.run / "go").touch()
        running.communicate(timeout=300)
    assert running.returncode == 0
    assert log(project.run) == "ready\nend\n"


# ------------------------------------------------------------------ logs


def test_output_is_live_and_labelled(project: Project) -> None:
    project.write(
        "train.py",
        "import os, time\nprint('ready', os.environ['RANK'])\n"
        "while not os.path.exists(os.environ['LAUNCHER_RUN_DIR'] + '/go'): time.sleep(0.02)\n"
        "print('end without newline', end='')\n",
    )
    running = project.start("entry_script=train.py", *RANKS)
    assert running.stdout is not None
    first = sorted(running.stdout.readline() for _ in range(2))
    assert first == ["[0] ready 0\n", "[1] ready 1\n"]
    (project.run / "go").touch()
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    assert sorted(out.splitlines()) == ["[0] end without newline", "[1] end without newline"]
    assert project.launch("logs", "--rank", "1").stdout == "ready 1\nend without newline"


def test_long_output_without_an_end(project: Project) -> None:
    project.write("train.py", "print('x' * 3_000_000, end='')\n")
    done = project.launch("entry_script=train.py", *RANKS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x") == 6_000_000


def test_a_reader_that_goes_away_does_not_hide_the_result(project: Project) -> None:
    project.write(
        "train.py", "import time\nprint('one')\ntime.sleep(1)\nprint('two')\nraise SystemExit(3)\n"
    )
    running = project.start("entry_script=train.py", *PLAIN)
    assert running.stdout is not None
    assert running.stdout.readline() == "one\n"
    running.stdout.close()
    assert running.wait(timeout=300) == 1
    assert running.stderr is not None
    assert "FAILED" in running.stderr.read()
    running.stderr.close()


def test_detached_then_followed(project: Project) -> None:
    project.write("train.py", SAVES)
    done = project.launch("entry_script=train.py", *PLAIN, "detach=true")
    assert (done.returncode, done.stdout) == (0, f"{project.run.name}\n")
    following = project.start("logs", "-f", project.run.name[:13])
    until(lambda: _ready(project, 1))
    assert project.launch("cancel", "@last").stdout == f"{project.run.name} CANCELLED\n"
    assert following.communicate(timeout=300)[0] == "ready\nsaved\n"
    assert project.launch("wait", "@last").returncode == 130


# ------------------------------------------------------------------ the code and the record


def test_the_run_has_its_own_copy_of_the_code(git_project: Project) -> None:
    project = git_project
    project.write("data.txt", "from the work tree")
    project.write(
        "train.py",
        "import os, time\nfrom pathlib import Path\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(os.environ['LAUNCHER_RUN_DIR'] + '/go'): time.sleep(0.02)\n"
        "import late\nprint(late.WORD, Path('data.txt').read_text())\n"
        "Path('beside.txt').write_text('written')\n"
        "Path('data.txt').write_text('changed')\n"
        "Path(os.environ['LAUNCHER_OUTPUT_DIR'], 'model.bin').write_text('x')\n",
    )
    project.write("late.py", "WORD = 'first'\n")
    running = project.start("entry_script=train.py", *PLAIN)
    until(lambda: _ready(project, 1))
    project.write("late.py", "WORD = 'edited after submit'\n")
    project.write("data.txt", "edited after submit")
    (project.run / "go").touch()
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    assert out.splitlines()[-1] == "first from the work tree"
    left = {p.name for p in (project.run / "code").iterdir() if p.name != "__pycache__"}
    assert left == {"beside.txt", "data.txt"}
    assert (project.run / "outputs" / "model.bin").exists()
    assert not (project.path / "beside.txt").exists()


def test_a_source_directory_below_its_repository(git_project: Project) -> None:
    project = git_project
    _git(project, "config", "filter.case.clean", "tr a-z A-Z")
    _git(project, "config", "filter.case.smudge", "tr A-Z a-z")
    project.write(".gitattributes", "*.bin filter=case\n")
    _git(project, "add", ".gitattributes")
    project.write("it's/below/train.py", "print(open('data.bin').read())\n")
    project.write("it's/below/data.bin", "filtered")
    done = project.launch("entry_script=train.py", 'source_directory="it\'s/below"', *PLAIN)
    assert (done.returncode, done.stdout) == (0, "filtered\n"), done.stderr
    names = _git(project, "ls-tree", "-r", "--name-only", f"refs/launcher/runs/{project.run.name}")
    assert {"train.py", "it's/below/data.bin"} <= set(names.splitlines())


def test_what_was_planned_is_what_runs(git_project: Project) -> None:
    project = git_project
    words = ("entry_script=train.py", *PLAIN, "script_params.lr=0.1", "env.A=b c")
    planned = json.loads(project.launch("plan", "--json", *words).stdout)
    assert project.runs == []
    assert project.launch(*words).returncode == 0
    for file in planned["files"]:
        path = project.run / file["path"]
        assert path.read_text() == file["text"], file["path"]
        assert path.stat().st_mode & 0o777 == file["mode"]
    shown = project.launch("plan", *words).stdout
    assert (project.run / "launch.sh").read_text() in shown


def test_a_run_is_a_commit_and_runs_again_from_it(git_project: Project) -> None:
    project = git_project
    project.write("train.py", "import sys\nprint('version one', sys.argv[1:])\n")
    assert project.launch("entry_script=train.py", *PLAIN, "script_params.lr=0.1").returncode == 0
    run = project.run
    settled(run)
    ref = f"refs/launcher/runs/{run.name}"
    subjects = _git(project, "log", "--format=%s", ref).splitlines()
    assert subjects[0].startswith(f"run {run.name} (train): SUCCEEDED")
    assert subjects[1].startswith(f"run {run.name} (train): local")
    assert subjects[2] == "first"
    names = _git(project, "ls-tree", "-r", "--name-only", ref).splitlines()
    assert {"train.py", ".launcher/config.yaml", ".launcher/outcome.json"} <= set(names)
    assert json.loads(_git(project, "show", f"{ref}:.launcher/outcome.json"))["exit_status"] == 0
    assert _git(project, "status", "--porcelain").splitlines() == [" M train.py"]

    (project.path / "train.py").unlink()
    again = project.launch("rerun", run.name, "script_params.lr=0.5")
    assert again.returncode == 0, again.stderr
    assert again.stdout == "version one ['--lr', '0.5']\n"
    assert len(project.runs) == 2


def test_a_rerun_names_what_it_repeats(project: Project) -> None:
    project.write("train.py", "print('ran')\n")
    assert project.launch("entry_script=train.py", *PLAIN, "script_params.lr=0.1").returncode == 0
    first = project.run.name
    assert project.launch("rerun", first, "script_params.lr=0.2").returncode == 0
    record = json.loads((project.runs[-1] / "run.json").read_text())
    assert record["rerun_of"] == first
    assert record["overrides"][-2:] == ["script_params.lr=0.1", "script_params.lr=0.2"]
    assert f"rerun of    {first}" in project.launch("show").stdout
    for words in (("source_directory=/tmp",), ("experiment=x",), ("entry_script=gone.py",)):
        refused = project.launch("rerun", first, *words)
        assert refused.returncode == 2
        assert words[0] in refused.stderr
    assert len(project.runs) == 2


def test_a_rerun_with_other_data(project: Project) -> None:
    project.write("train.py", "import sys\nprint(sys.argv[1:])\n")
    project.write("one/x", "")
    project.write("two/x", "")
    words = ("data.d.path=one", "script_params.root='${data:d}'")
    assert project.launch("entry_script=train.py", *PLAIN, *words).returncode == 0
    refused = project.launch("rerun", "@last", "data.d.path=two")
    assert refused.returncode == 2
    assert f"still {project.path}/one" in refused.stderr
    both = ("data.d.path=two", "script_params.root='${data:d}'")
    again = project.launch("rerun", "@last", *both)
    assert again.stdout == f"['--root', '{project.path}/two']\n", again.stderr


def test_more_ranks_and_gpus_than_there_are(project: Project) -> None:
    project.write("train.py", "print('ran')\n")
    many = len(os.sched_getaffinity(0)) + 1
    words = (*RANKS[:-1], f"procs_per_node={many}", "environment.gpus_per_proc=9")
    done = project.launch("entry_script=train.py", *words)
    assert done.returncode == 0, done.stderr
    assert f"{many} ranks share {many - 1} cores" in done.stderr
    assert f"{9 * many} GPUs are asked for" in done.stderr


def test_an_entry_script_that_git_ignores(git_project: Project) -> None:
    git_project.write("other.py", "print(1)\n")
    git_project.write(".gitignore", "other.py\n")
    done = git_project.launch("entry_script=other.py", *PLAIN)
    assert done.returncode == 2
    assert "not in the snapshot" in done.stderr
    with pytest.raises(launcher.LaunchError, match="not in the snapshot"):
        launcher.submit(*PLAIN, entry_script="other.py")
    gc.collect()  # whatever the attempt left open would warn now
    assert git_project.runs == []


def test_the_last_run_is_the_last_submitted(project: Project) -> None:
    project.write("train.py", "print(1)\n")
    for number in range(4):
        words = ("entry_script=train.py", *PLAIN, "detach=true", f"name=n{number}")
        assert project.launch(*words).returncode == 0
        assert f"(n{number})" in project.launch("show", "@last").stdout


def test_a_runs_dir_that_others_use_too(project: Project) -> None:
    project.write("train.py", "print(1)\n")
    project.write("runs/May05_tensorboard/events", "")
    assert project.launch("entry_script=train.py", *PLAIN).returncode == 0
    assert not (project.path / "runs" / ".gitignore").exists()
    shown = project.launch("show", "@last")
    assert "SUCCEEDED" in shown.stdout, shown.stderr


def test_a_run_whose_folder_is_gone_runs_again(project: Project) -> None:
    project.write("train.py", "print('still here')\n")
    assert project.launch("entry_script=train.py", *PLAIN).returncode == 0
    run_id = project.run.name
    settled(project.run)
    shutil.rmtree(project.path / "runs")
    (project.path / "train.py").unlink()
    again = project.launch("rerun", run_id)
    assert again.stdout == "still here\n", again.stderr


def _git(project: Project, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=project.path, capture_output=True, text=True, check=True
    ).stdout


def test_a_secret_is_nowhere_but_in_the_script(git_project: Project) -> None:
    project = git_project
    project.write(
        "train.py",
        "import os\nassert len(os.environ['MY_TOKEN']) == 12\n"
        "assert len(os.environ['HANDED_ON']) == 13\n"
        "print('token', os.environ['MY_TOKEN'], 'and', os.environ['HANDED_ON'])\n",
    )
    words = ("entry_script=train.py", *PLAIN, "env.MY_TOKEN=open-sesame1", "secrets=[HANDED_ON]")
    plan = project.launch("plan", *words)
    assert "open-sesame1" not in plan.stdout + plan.stderr
    done = project.launch(*words, HANDED_ON="silent-sesame")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "token *** and ***\n"
    objects = _git(project, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    everything = [_git(project, "cat-file", "-p", each).encode() for each in objects.split()]
    everything += [each.read_bytes() for each in project.run.rglob("*") if each.is_file()]
    for secret in (b"open-sesame1", b"silent-sesame"):
        assert not any(secret in each for each in everything)
    setup = "environment.setup=['echo $HANDED_ON']"
    noisy = project.launch(*words, setup, HANDED_ON="silent-sesame")
    assert noisy.returncode == 0
    assert "silent-sesame" not in noisy.stdout + (project.runs[-1] / "logs/launch.log").read_text()
    missing = project.launch("rerun", "@last")
    assert missing.returncode == 2
    assert "HANDED_ON is not set" in missing.stderr
    again = project.launch("rerun", "@last", HANDED_ON="silent-sesame", MY_TOKEN="open-sesame2")
    assert again.returncode == 0, again.stderr


# ------------------------------------------------------------------ metrics


def test_metrics_come_from_rank_0_only(project: Project) -> None:
    project.write(
        "train.py",
        "from launcher import report\n"
        "for step in range(3): report(step=step, loss=1.0 / (step + 1), note='x')\n",
    )
    done = project.launch("entry_script=train.py", *RANKS)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(each) for each in (project.run / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in lines] == [0, 1, 2]
    (listed,) = json.loads(project.launch("runs", "--json").stdout)
    assert listed["metrics"] == {"step": 2, "loss": 1 / 3, "note": "x"}
    assert "loss=0.3333" in project.launch("runs").stdout


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("entry_script=trian.py",), "entry_script=trian.py", "Did you mean 'train.py'"),
        (("source_directory=nowhere",), "source_directory=", "no such folder"),
        (("data.x.path=nowhere",), "data.x.path", "no such file"),
        (("procs_per_node=2",), "procs_per_node=2", "dist=mpi"),
        (("dist=mpi", "nodes=2"), "nodes=2", "procs_per_node=2"),
        (("compute=ssh",), "compute.hosts=[]: nodes=1", "compute.hosts=[hosta,hostb]"),
        (("compute=ssh", "compute.hosts=[-oX]"), "compute.hosts[0]='-oX'", "leading dash"),
        (("rnus",), "rnus", "Did you mean 'runs'"),
        (("-m", "nodes=1,2"), "point 1 of 2 (nodes=2)", "sweep.skip_invalid=true"),
        (("--lr", "0.1"), "unrecognized arguments: --lr", "script_params.lr=0.1"),
        (("secrets=[NOT_SET_ANYWHERE]",), "NOT_SET_ANYWHERE", "export"),
        (("runs_dir=/proc/nowhere",), "runs_dir=/proc/nowhere", "LAUNCHER_RUNS"),
        (("train.py",), "train.py", "entry_script=train.py"),
    ],
)
def test_wrong_input_ends_early_and_writes_nothing(
    project: Project, words: tuple[str, ...], message: str, hint: str
) -> None:
    project.write("train.py", "print(1)\n")
    first = () if "=" not in words[0] and words[0][0] != "-" else ("entry_script=train.py", *PLAIN)
    done = project.launch(*(words if not first else (*first, *words)))
    assert done.returncode == (1 if "runs_dir" in words[0] else 2), done.stderr
    assert message in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert [each.name for each in project.path.iterdir()] == ["train.py"]


def test_a_run_that_is_not_there(project: Project) -> None:
    for words in (("show", "x"), ("logs", "@last"), ("cancel", "x"), ("rerun", "x"), ("wait", "x")):
        done = project.launch(*words)
        assert done.returncode == 1
        assert "there is no run" in done.stderr
        assert "Traceback" not in done.stderr


def test_from_python(project: Project) -> None:
    project.write("train.py", "from launcher import report\nreport(x=1)\nprint('out')\n")
    project.write(
        "go.py",
        "import launcher\n"
        "run = launcher.submit('environment.torch=null', entry_script='train.py')\n"
        "print(run.id, run.wait(timeout_s=300).value, repr(run.logs()), run.metrics[0]['x'])\n"
        "print(launcher.runs()[0].state.value)\n"
        "print(run.cancel().value)\n"
        "try:\n    launcher.submit(entry_script='nothing.py')\n"
        "except ValueError as error:\n    print('refused:', error)\n",
    )
    lines = _python(project, "go.py").splitlines()
    assert lines[0] == f"{project.run.name} SUCCEEDED 'out\\n' 1"
    assert lines[1:3] == ["SUCCEEDED", "SUCCEEDED"]
    assert lines[3].startswith("refused: entry_script=nothing.py")


def test_a_run_that_only_its_commit_tells_of(git_project: Project, tmp_path: Path) -> None:
    git_project.write("train.py", WAITS)
    done = git_project.launch("entry_script=train.py", *PLAIN, "wait=false")
    until(lambda: _ready(git_project, 1))
    run = git_project.run
    ref = f"refs/launcher/runs/{run.name}"
    subprocess.run(("git", "clone", "-q", str(git_project.path), str(tmp_path / "o")), check=True)
    other = Project(tmp_path / "o")
    fetch = ("git", "fetch", "-q", "origin", f"+{ref}:{ref}")
    subprocess.run(fetch, cwd=other.path, check=True)
    assert done.returncode == 0
    # On this machine its folder is still to be seen, and is the one that is used.
    assert f'"id": "{run.name}"' in other.launch("show", run.name, "--json").stdout
    assert not (other.path / "runs").exists()
    kept = run.rename(git_project.path / "gone")
    refused = other.launch("show", run.name)
    assert refused.returncode == 1
    assert "its commit tells no outcome" in refused.stderr
    assert f"git fetch REMOTE +{ref}:{ref}" in refused.stderr
    shutil.rmtree(run, ignore_errors=True)  # the supervisor may have filed its rank meanwhile
    kept = kept.rename(run)
    (run / "go").touch()
    until(lambda: state(run) == "SUCCEEDED")
    assert git_project.launch("wait", run.name).returncode == 0
    settled(run)
    subprocess.run(fetch, cwd=other.path, check=True)
    run.rename(git_project.path / "gone")
    shown = json.loads(other.launch("show", run.name, "--json").stdout)
    assert (shown["state"], shown["exit_status"]) == ("SUCCEEDED", 0)
    assert other.launch("logs", run.name).returncode == 0
    assert "SUCCEEDED" in other.launch("runs").stdout
