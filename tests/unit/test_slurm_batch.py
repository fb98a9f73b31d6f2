"""The batch file, sbatch's errors as recorded from a real cluster, and submitting again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import PlanError, SubmitError
from launcher.slurm import batch
from launcher.slurm.refusal import refusal
from tests.unit.test_slurm_cluster import RECORDED, on_path, recorded

REFUSED: dict[str, str] = json.loads((RECORDED / "sbatch.json").read_text("utf-8"))


def lines(parameters: dict[str, Any]) -> list[str]:
    text = batch.text({"job-name": "x", "output": "/dev/null", **parameters}, "exec true", "/tmp")
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


def test_the_file_is_what_submitit_renders() -> None:
    parameters = {"job-name": "x", "output": batch.literal("/dev/null")}
    assert batch.text(parameters, "exec true", "/tmp") == recorded("batch")


def test_only_what_was_asked_for_is_an_option() -> None:
    assert lines({"partition": None, "exclusive": False, "requeue": True}) == [
        "#SBATCH --job-name=x",
        "#SBATCH --nodes=1",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/dev/null",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:CONT@0",
    ]


def test_a_later_option_replaces_an_earlier_one() -> None:
    found = lines({"time": 5, "mail-type": ["BEGIN", "END"], "--time": 7, "mail_type": "ALL"})
    assert "#SBATCH --time=7" in found
    assert "#SBATCH --mail-type=ALL" in found
    assert len([line for line in found if "time" in line]) == 1
    assert len([line for line in found if "mail" in line]) == 1


def test_setup_lines_come_before_the_command() -> None:
    text = batch.text({"setup": ("module load x", "ulimit -n 4096")}, "exec true", "/tmp")
    assert text.index("module load x") < text.index("ulimit") < text.index("exec true")


@pytest.mark.parametrize("value", ["two\nlines", "nul\0", "cr\r"])
def test_a_value_that_no_line_can_hold(value: str) -> None:
    with pytest.raises(PlanError, match="option comment"):
        lines({"comment": value})


@pytest.mark.parametrize("key", ["a b", "x=1\n#SBATCH --y", "", "1st"])
def test_a_name_that_is_no_option(key: str) -> None:
    with pytest.raises(PlanError, match=r"compute\.extra"):
        lines({key: "1"})


def test_backslashes_are_doubled() -> None:
    """Sbatch takes one away even between single quotes: test_slurm_io.py shows it does."""
    assert "#SBATCH --comment='a\\\\b'" in lines({"comment": "a\\b"})
    assert batch.literal("/a%b") == "/a%%b"
    assert batch.literal("/a%b\\c") == "/a%b\\\\c"


def test_the_environment_of_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {
        *("SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_MEM_PER_CPU", "SBATCH_WAIT"),
        *("SBATCH_ARRAY_INX", "SBATCH_NO_REQUEUE", "SLURM_JOB_ID", "SLURM_NTASKS"),
        *("SLURMD_NODENAME", "SRUN_DEBUG", "SUBMITIT_EXECUTOR", "SBATCH_ERROR"),
    }
    stay = {"SBATCH_ACCOUNT", "SBATCH_QOS", "SLURM_CONF", "HOME", "SLURMX"}
    for name in gone | stay:
        monkeypatch.setenv(name, "x")
    options = ("partition", "time", "mem", "requeue")
    env = batch.environment(options, os.environ)
    assert stay <= env.keys()
    assert not gone & env.keys()


KEYS = {
    "--partition=nope": "compute.partition=nope: ",
    "--partition=drained": "compute.partition=drained: ",
    "--account=nope": "compute.account=nope: ",
    "--qos=nope": "compute.qos=nope: ",
    "--constraint=nope": "compute.constraint=nope: ",
    "--nodelist=node9": "compute.nodelist=node9: ",
    "--exclude=node9": "compute.exclude=node9: ",
    "--reservation=nope": "compute.reservation=nope: ",
    "--mem=999G": "compute.mem=999G: ",
    "--mem=nope": "compute.mem=nope: ",
    "--time=nope": "compute.time=nope: ",
    "--partition=high --time=600": "compute.time=600: ",
    "--gres=nope:1": "compute.gres=nope:1: ",
    "--gres=gpu:99": "compute.gres=gpu:99: ",
    "--nodes=5": "nodes=5: ",
    "--cpus-per-task=99": "compute.cpus_per_proc=99: ",
    "--cpus-per-task=0": "compute.cpus_per_proc=0: ",
    "--ntasks-per-node=9": "procs_per_node=9: ",
    "--nope=1": "compute.extra.nope=1: ",
    "--begin=nope": "compute.extra.begin=nope: ",
    "--signal=NOPE": "compute.extra.signal=NOPE: ",
    "--nice=-100": "compute.extra.nice=-100: ",
    "--licenses=nope": "compute.extra.licenses=nope: ",
    "--mail-type=NOPE": "compute.mail_type=NOPE: ",
}


@pytest.mark.parametrize("words", sorted(KEYS))
def test_a_final_error_names_the_key_and_its_value(words: str) -> None:
    head, _, stderr = REFUSED[words].partition("\n")
    script = "".join(f"#SBATCH {each}\n" for each in words.split())
    error = refusal(("sbatch", "job.sh"), int(head.split()[-1]), stderr, script)
    assert error.message.startswith(KEYS[words])
    assert "sbatch: error" not in error.message
    assert error.hint
    assert not error.transient
    assert error.stderr == stderr


def test_every_recorded_error_is_told_with_a_next_step() -> None:
    for words, said in REFUSED.items():
        error = refusal(("sbatch",), 1, said.partition("\n")[2])
        assert error.transient == (words == "too many")
        assert error.hint, words


def test_what_passes_is_known_as_such() -> None:
    for name in ("silent-sbatch", "silent-squeue"):
        error = refusal(("sbatch",), 1, recorded(name).partition("\n")[2])
        assert error.transient
    # sbatch's words for these come from a busy controller, which cannot be had at will
    for words in (
        "Socket timed out on send/recv operation",
        "Slurm temporarily unable to accept job, sleeping and retrying.",
        "Unable to create job record, try again",
    ):
        assert refusal(("sbatch",), 1, f"sbatch: error: {words}\n").transient


def test_a_value_is_read_back_as_it_was_given() -> None:
    script = batch.text({"constraint": "it's|a b"}, "exec true", "/tmp")
    error = refusal(("sbatch",), 1, "sbatch: error: Invalid feature specification", script)
    assert error.message.startswith("compute.constraint=it's|a b: ")


# -- submitting ---------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that each stand-in for a program of Slurm's adds its name to."""
    monkeypatch.setattr(batch, "_PAUSES_S", (0.01, 0.01))
    return tmp_path / "asked"


def programs(asked: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> tuple[str, ...]:
    log = f"echo \"${{0##*/}}\" >> '{asked}'\n"
    on_path(asked.parent / "bin", monkeypatch, **{k: log + each for k, each in bodies.items()})
    script = asked.parent / "job.sh"
    script.write_text(batch.text({"job-name": "n-1", "partition": "p q"}, "exec true", "/tmp"))
    return "sbatch", str(script)


def names(asked: Path) -> list[str]:
    return asked.read_text().split()


@pytest.mark.parametrize("said", ["Submitted batch job 12", "12", "12;elsewhere", "note\n12"])
def test_the_jobs_number(said: str, asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = programs(asked, monkeypatch, sbatch=f"printf '%s\\n' '{said}'")
    assert batch.submit(argv, "n-1", os.environ, print) == "12"
    assert names(asked) == ["sbatch"]


def test_sbatch_has_the_environment_that_is_given_and_no_other(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = programs(asked, monkeypatch, sbatch=f"env > '{asked}.env'; echo 12")
    monkeypatch.setenv("NOT_GIVEN", "1")
    env = {"PATH": os.environ["PATH"], "TOKEN": "a b\n$c"}
    batch.submit(argv, "n-1", env, print)
    seen = Path(f"{asked}.env").read_text()
    assert "TOKEN=a b\n$c\n" in seen
    assert "NOT_GIVEN" not in seen
    assert os.environ["NOT_GIVEN"] == "1"


def test_a_final_error_is_not_tried_again(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = REFUSED["--partition=nope"].partition("\n")[2]
    argv = programs(asked, monkeypatch, sbatch=f"cat >&2 <<'X'\n{said}X\nexit 1")
    with pytest.raises(SubmitError) as error:
        batch.submit(argv, "n-1", os.environ, print)
    assert error.value.message.startswith("compute.partition=p q: sbatch: invalid partition")
    assert (error.value.exit_status, error.value.argv) == (1, argv)
    assert names(asked) == ["sbatch"]
    assert capfd.readouterr() == ("", "")  # submitit's own printing does not reach the screen


def test_a_passing_error_is_tried_again_after_the_job_was_looked_for(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fails = "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1"
    once = f"[ $(grep -c sbatch '{asked}') = 1 ] && {{ {fails}; }}; echo 12"
    argv = programs(asked, monkeypatch, sbatch=once, squeue="", sacct="exit 1")
    assert batch.submit(argv, "n-1", os.environ, said.append) == "12"
    assert names(asked) == ["sbatch", "squeue", "sacct", "sbatch"]
    assert said == ["launcher: sbatch: Socket timed out; trying again in 0.01 s"]


@pytest.mark.parametrize("knows", ["squeue", "sacct"])
def test_a_job_whose_answer_was_lost_is_found_and_not_doubled(
    knows: str, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1"
    answers = {"squeue": "", "sacct": "", knows: "echo 12"}
    argv = programs(asked, monkeypatch, sbatch=lost, **answers)
    assert batch.submit(argv, "n-1", os.environ, print) == "12"
    assert names(asked).count("sbatch") == 1


def test_nothing_is_queued_while_it_is_not_known_whether_the_job_is(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1"
    silent = f"cat >&2 <<'X'\n{recorded('silent-squeue').partition(chr(10))[2]}X\nexit 1"
    argv = programs(asked, monkeypatch, sbatch=lost, squeue=silent)
    with pytest.raises(SubmitError, match="does not answer") as error:
        batch.submit(argv, "n-1", os.environ, lambda _: None)
    assert error.value.transient
    assert names(asked) == ["sbatch", "squeue", "squeue"]


def test_an_sbatch_that_says_nothing_is_looked_after(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = programs(asked, monkeypatch, sbatch="true", squeue="echo 12")
    assert batch.submit(argv, "n-1", os.environ, lambda _: None) == "12"


def test_no_sbatch(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = programs(asked, monkeypatch)
    with pytest.raises(SubmitError, match="sbatch cannot be run") as error:
        batch.submit(argv, "n-1", {"PATH": str(asked.parent)}, print)
    assert not error.value.transient
    assert "PATH" in error.value.hint


def test_an_sbatch_without_a_cluster(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "sbatch: fatal: Could not establish a configuration source"
    argv = programs(asked, monkeypatch, sbatch=f"echo '{said}' >&2; exit 1")
    with pytest.raises(SubmitError, match="configuration source") as error:
        batch.submit(argv, "n-1", os.environ, print)
    assert "Log in where" in error.value.hint


def test_the_expected_start(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = int(time.time()) + 3600
    said = f"sbatch: Job 38 to start at {start} using 4 processors on nodes node1 in partition d"
    argv = programs(asked, monkeypatch, sbatch=f'[ "$1" = --test-only ] && echo "{said}" >&2')
    assert batch.estimate(argv, os.environ).result(120) == start


def test_a_start_in_a_thousand_years_is_not_known(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So Slurm says of a job behind one that has no time limit."""
    assert batch.expected(recorded("estimate")) is None
    assert batch.expected("sbatch: error: Invalid feature specification") is None
    argv = programs(asked, monkeypatch, sbatch="exec sleep 300")
    begun = time.monotonic()
    assert batch.estimate(argv, os.environ).result(0.05) is None
    assert time.monotonic() - begun < 200
    assert batch.estimate(("/nowhere/sbatch", "x"), os.environ).result(5) is None
