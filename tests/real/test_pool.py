"""Sweeps on this machine: a pool starts the runs, whatever is killed, cancelled or beside it."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import launcher
from tests.conftest import Project
from tests.real.conftest import PLAIN, events, log, processes_of, state, until

if TYPE_CHECKING:
    from collections.abc import Iterator

CORES = sorted(os.sched_getaffinity(0))
SMALL = "compute.cpus_per_proc=1"
MPI = ("environment.torch=null", "dist=mpi", "dist.horovod=false")
BOTH = pytest.mark.parametrize("options", [PLAIN, MPI], ids=["single", "mpi"])
# Writes down that it is there, waits for what its first argument names, and says when and where.
SPAN = """
import json, os, sys, time
begun = time.time()
wanted, count = sys.argv[sys.argv.index("--until") + 1].split(":")
open(f"{here}/began-{os.environ['LAUNCHER_RUN_ID']}", "w").close()
while sum(each.startswith(wanted) for each in os.listdir(here)) < int(count):
    time.sleep(0.01)
print(json.dumps([begun, time.time(), sorted(os.sched_getaffinity(0))]))
"""


@pytest.fixture
def lab(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project whose pools share the cores with no other test, and leave no process."""
    monkeypatch.setenv("LAUNCHER_LEASED", f"test-{project.path.parent.name}-{os.getpid()}")
    marks(project).mkdir()
    project.write("train.py", f"here = {str(marks(project))!r}\n{SPAN}")
    yield project
    let_go(project)
    until(lambda: not processes_below(project.path.parent))


def marks(project: Project) -> Path:
    """Return the folder for the marks of runs, which must not change the project's source."""
    return project.path.parent / "marks"


def let_go(project: Project) -> None:
    """Let the runs end that wait."""
    (marks(project) / "open").touch()


def processes_below(folder: Path) -> list[str]:
    """Return the pools and supervisors that have to do with a folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            words = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in words and "/launcher/supervise.py" in words:
            found.append(f"{each.name} {words}")
    return found


def sweep(project: Project, *words: str, count: int, **env: str) -> str:
    """Return the id of a sweep of ``count`` runs; they wait for the file ``open``, or ``until``."""
    given = () if any("until" in word for word in words) else ("script_params.until=open:1",)
    numbers = ",".join(map(str, range(count)))
    options = ("-m", "entry_script=train.py", f"script_params.n={numbers}", *given, *words)
    options += () if "dist=mpi" in words else PLAIN
    done = project.launch(*options, "wait=false", **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def runs(project: Project, sweep_id: str) -> list[Path]:
    return [each for each in project.runs if each.name.startswith(sweep_id)]


def ordered(project: Project, sweep_id: str) -> list[Path]:
    return sorted(runs(project, sweep_id), key=lambda run: int(events(run)[0]["task"]))


def pool_of(project: Project, sweep_id: str) -> int:
    (group,) = (project.path / "runs" / ".sweeps" / sweep_id / "groups").iterdir()
    return int(events(group)[-1]["pid"])


def ended(project: Project, *sweeps: str) -> list[Any]:
    """Return when each run began and ended, and its cores; all have succeeded."""
    for each in sweeps:
        done = project.launch("wait", each)
        assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(log(run)) for each in sweeps for run in ordered(project, each)]


def has_begun(run: Path) -> bool:
    return state(run) == "RUNNING" and (run.parents[2] / "marks" / f"began-{run.name}").exists()


def statuses(project: Project) -> dict[str, dict[str, Any]]:
    found = json.loads(project.launch("runs", "--json").stdout)
    return {each["id"]: each for each in found}


def overlap(one: list[Any], other: list[Any]) -> bool:
    return bool(one[0] < other[1] and other[0] < one[1])


@BOTH
def test_as_many_run_at_once_as_there_are_cores_each_on_its_own(
    lab: Project, options: tuple[str, ...]
) -> None:
    # Each waits until as many have begun as there are cores, so they do run side by side.
    together = f"script_params.until=began:{len(CORES)}"
    sweep_id = sweep(lab, *options, SMALL, together, count=2 * len(CORES))
    found = ended(lab, sweep_id)
    assert all(len(cores) == 1 for _, _, cores in found)
    for one, other in combinations(found, 2):
        assert not overlap(one, other) or one[2] != other[2]
    claimed = [(run / "job").stat().st_mtime_ns for run in ordered(lab, sweep_id)]
    assert claimed == sorted(claimed)


def test_one_at_a_time_has_all_cores(lab: Project) -> None:
    let_go(lab)
    found = ended(lab, sweep(lab, "compute.max_parallel=1", count=3))
    assert [cores for _, _, cores in found] == [CORES] * 3
    assert not any(overlap(*pair) for pair in combinations(found, 2))


def test_two_pools_share_the_cores_and_a_large_run_gets_its_turn(
    lab: Project, tmp_path: Path
) -> None:
    other = Project(tmp_path / "other")
    other.write("train.py", (lab.path / "train.py").read_text())
    small = sweep(lab, SMALL, count=10 * len(CORES))
    large = sweep(other, f"compute.cpus_per_proc={len(CORES)}", count=1)
    until(lambda: queued() == 2)
    let_go(lab)
    found = ended(lab, small)
    (last,) = ended(other, large)
    assert last[2] == CORES
    assert last[0] < max(begun for begun, _, _ in found)
    for one, two in combinations([*found, last], 2):
        assert not overlap(one, two) or not {*one[2]} & {*two[2]}


def queued() -> int:
    """Return how many pools wait for cores that they share with ours."""
    mark = f"@launcher/{os.environ['LAUNCHER_LEASED']}/core."
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(mark in line and not line.endswith("core.turn") for line in lines)


def test_a_pool_that_is_killed_ends_no_run_and_its_sweep_goes_on_when_typed_again(
    lab: Project,
) -> None:
    sweep_id = sweep(lab, count=3)
    first, *waiting = ordered(lab, sweep_id)
    until(lambda: has_begun(first))
    assert statuses(lab)[waiting[0].name]["state"] == "PENDING"
    os.kill(pool_of(lab, sweep_id), signal.SIGKILL)
    until(lambda: statuses(lab)[waiting[0].name]["state"] == "LOST")
    now = statuses(lab)
    assert [now[run.name]["state"] for run in waiting] == ["LOST"] * 2
    assert "the same command queues it again" in now[waiting[1].name]["reason"]
    assert now[first.name]["state"] == "RUNNING"
    sweep(lab, count=3)  # whose runs wait for the cores that the first one still has
    again = [run for run in lab.runs if run.name not in now]
    assert len(again) == 2
    let_go(lab)
    for run in (first, *again):
        assert lab.launch("wait", run.name).returncode == 0
    assert [state(run) for run in (first, *again)] == ["SUCCEEDED"] * 3
    assert not any(overlap(*pair) for pair in combinations(map(span, (first, *again)), 2))


def span(run: Path) -> list[Any]:
    found: list[Any] = json.loads(log(run))
    return found


def test_a_supervisor_that_is_killed_frees_its_cores_once_nothing_uses_them(lab: Project) -> None:
    script = (lab.path / "train.py").read_text()
    lab.write("train.py", f"import subprocess\nsubprocess.Popen(['sleep', '600'])\n{script}")
    sweep_id = sweep(lab, count=2)
    first, second = ordered(lab, sweep_id)
    until(lambda: has_begun(first))
    os.kill(events(first)[-1]["pid"], signal.SIGKILL)
    until(lambda: has_begun(second))
    assert not processes_of(first.name)
    let_go(lab)
    assert lab.launch("wait", second.name).returncode == 0
    assert statuses(lab)[first.name]["state"] == "LOST"


def test_a_run_is_cancelled_while_it_waits_and_while_it_runs(lab: Project) -> None:
    first, second, third = ordered(lab, sweep(lab, count=3))
    until(lambda: has_begun(first))
    assert lab.launch("cancel", second.name).returncode == 0
    assert [each["state"] for each in events(second)] == ["SUBMITTING", "CANCELLED"]
    assert state(first) == "RUNNING"
    assert lab.launch("cancel", first.name).returncode == 0
    assert state(first) == "CANCELLED"
    until(lambda: has_begun(third))
    let_go(lab)
    assert lab.launch("wait", third.name).returncode == 0
    assert not (second / "logs").exists()


def test_a_whole_sweep_is_cancelled(lab: Project) -> None:
    sweep_id = sweep(lab, count=20)
    first = ordered(lab, sweep_id)[0]
    until(lambda: has_begun(first))
    assert lab.launch("cancel", sweep_id).returncode == 0
    assert {state(run) for run in lab.runs} == {"CANCELLED"}
    assert sum("RUNNING" in str(events(run)) for run in lab.runs) == 1
    until(lambda: not processes_below(lab.path))


def test_a_submit_that_ends_its_terminal_ends_no_pool(lab: Project) -> None:
    sweep_id = sweep(lab, count=1)
    pool = pool_of(lab, sweep_id)
    assert os.getsid(pool) == pool
    assert Path(f"/proc/{pool}/fd/0").resolve() != Path("/dev/tty")
    lock = (lab.path / "runs" / ".sweeps" / "lock").stat()
    for each in Path(f"/proc/{pool}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has closed that one meanwhile
            assert not os.path.samestat(each.stat(), lock)


def test_a_run_whose_script_waits_for_a_sweep_shares_its_cores_with_it(lab: Project) -> None:
    lab.write("inner.py", "import os\nprint(len(os.sched_getaffinity(0)))\n")
    lab.write(
        "train.py",
        "import subprocess, sys\nwords = [sys.executable, '-m', 'launcher', '-m', "
        "'entry_script=inner.py', 'script_params.x=1,2', 'environment.torch=null', "
        "'runs_dir=inner', 'wait=true']\nsys.exit(subprocess.run(words, timeout=300).returncode)\n",
    )
    sweep_id = sweep(lab, SMALL, "script_params.until=x", count=1)
    assert lab.launch("wait", sweep_id).returncode == 0
    found = [each.read_text() for each in lab.run.glob("code/inner/*/logs/rank-0.log")]
    assert found == ["1\n"] * 2


def test_secrets_reach_the_ranks_and_no_file(lab: Project) -> None:
    lab.write(
        "train.py",
        "import os\nprint(os.environ['TOKEN'][::-1], len(os.environ['TOKEN']), "
        "os.environ['TOKEN'])\n",
    )
    value = "sesame-7f3a-open"
    options = ("secrets=[TOKEN]", "script_params.until=x")
    sweep_id = sweep(lab, *options, count=2, TOKEN=value)
    assert lab.launch("wait", sweep_id).returncode == 0
    for run in lab.runs:
        assert log(run).startswith(f"{value[::-1]} {len(value)}")
    until(lambda: not processes_below(lab.path.parent))  # no file goes while we read
    files = [each for each in lab.path.parent.rglob("*") if each.is_file()]
    assert not [each for each in files if value.encode() in each.read_bytes()]


def test_from_python(lab: Project) -> None:
    words = (*PLAIN, SMALL, "script_params.lr=0.1,0.2")
    sweep = launcher.submit_sweep(
        *words, entry_script="train.py", script_params={"until": "open:1"}
    )
    assert [point["values"] for point in sweep.points] == [
        {"script_params.lr": "0.1"},
        {"script_params.lr": "0.2"},
    ]
    until(lambda: any(run.state.value == "RUNNING" for run in sweep.runs))
    with pytest.raises(TimeoutError, match=sweep.id):
        sweep.wait(timeout_s=0.1)
    let_go(lab)
    assert sweep.wait(180) == {"SUCCEEDED": 2} == sweep.states
    again = launcher.submit_sweep(
        *words, entry_script="train.py", script_params={"until": "open:1"}
    )
    assert again.id == sweep.id
    assert again.cancel() == {"SUCCEEDED": 2}  # what has ended is left alone
    with pytest.raises(launcher.LaunchError, match="procs_per_node=0"):
        launcher.submit_sweep(*words, "procs_per_node=0", entry_script="train.py")


def test_points_that_cannot_be_are_left_out_wherever_they_stand(lab: Project) -> None:
    let_go(lab)
    good = "# @package _global_\nscript_params: {until: 'open:1'}\n"
    lab.write("conf/experiment/good.yaml", good)
    lab.write("conf/experiment/typo.yaml", "# @package _global_\nnodez: 1\n")
    lab.write("conf/experiment/yam.yaml", "# @package _global_\nscript_params: {until: 1\n")
    words = ("-m", *PLAIN, SMALL, "entry_script=train.py", "experiment=yam,typo,good")
    refused = lab.launch(*words)
    assert refused.returncode == 2
    assert "no YAML" in refused.stderr
    assert "yam.yaml" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = lab.launch(*words, "sweep.skip_invalid=true", "wait=true")
    assert done.returncode == 0, done.stderr
    assert "left out: point 1 (experiment=typo): In 'experiment/typo'" in done.stderr
    assert "nodez" in done.stderr
    assert len(lab.runs) == 1
    for word, told in (
        ("sweep.samples=3", "is of a sweep"),
        ("script_params.lr=interval(0,1)", "is a sweep"),
    ):
        one = lab.launch(*PLAIN, "entry_script=train.py", word)
        assert one.returncode == 2
        assert told in one.stderr
    file = lab.write("points.jsonl", '{"script_params.lr": 5}\n')
    both = lab.launch(
        "-m", *PLAIN, "entry_script=train.py", f"sweep.points={file}", "script_params.lr=1,2"
    )
    assert "script_params.lr: varies at the prompt" in both.stderr
    own = lab.launch("-m", *PLAIN, "entry_script=train.py", "sweep.params.nodes='1,2'")
    assert "belongs into a file" in own.stderr
