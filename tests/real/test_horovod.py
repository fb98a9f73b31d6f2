"""Two real Horovod ranks, in the environment that the launcher builds for itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import launcher
from tests.real.conftest import HOROVOD, PLAIN, RANKS, events, log, processes_of

if TYPE_CHECKING:
    from tests.conftest import Project

BOTH = pytest.mark.parametrize("options", [PLAIN, RANKS], ids=["single", "mpi"])
HOSTILE = st.one_of(
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8),
    st.text("\\'\"$`{}[]()<>|&;*?~#!%:,= \n\t-", max_size=8),
    st.sampled_from(["", ":", "--", "-x", "${x}", "$HOME", "`id`", "$(id)", "\\"]),
)


def test_digits_train_with_two_ranks(project: Project) -> None:
    project.copy_example("digits")
    done = project.launch("entry_script=train_horovod.py", *HOROVOD)
    assert done.returncode == 0, done.stderr
    (listed,) = json.loads(project.launch("runs", "--json").stdout)
    assert listed["state"] == "SUCCEEDED"
    assert listed["metrics"]["accuracy"] > 0.95
    assert listed["world_size"] == 2
    assert (project.run / "checkpoints" / "last.pt").exists()
    lock = (project.run / "environment.lock").read_text()
    assert "horovod==0.28.1" in lock
    assert "torch==2.13.0" in lock


def test_digits_train_in_one_process(project: Project) -> None:
    project.copy_example("digits")
    # The same environment as above: another one would be built for this test alone.
    words = ("environment.pip_packages=[scikit-learn]", "dist=mpi")
    done = project.launch("entry_script=train.py", *words, "script_params.epochs=8")
    assert done.returncode == 0, done.stderr
    (listed,) = json.loads(project.launch("runs", "--json").stdout)
    assert listed["metrics"]["accuracy"] > 0.95


def test_torch_distributed_under_mpi(project: Project) -> None:
    project.copy_example("ddp")
    done = project.launch("entry_script=train.py", *HOROVOD)
    assert done.returncode == 0, done.stderr
    assert "[0] 2 ranks, largest error" in done.stdout
    (listed,) = json.loads(project.launch("runs", "--json").stdout)
    assert listed["metrics"]["error"] < 1e-3


def test_horovod_is_initialised_and_may_be_again(project: Project) -> None:
    project.write(
        "train.py",
        "import horovod.torch as hvd, torch\n"
        "print('before', hvd.is_initialized(), hvd.rank(), hvd.size())\n"
        "hvd.init()\n"
        "print('sum', hvd.allreduce(torch.tensor(float(hvd.rank() + 1)), op=hvd.Sum).item())\n",
    )
    done = project.launch("entry_script=train.py", *HOROVOD)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        assert log(project.run, rank) == f"before True {rank} 2\nsum 3.0\n"


@pytest.mark.parametrize("ending", ["raise ValueError('bad loss')", "import os; os._exit(9)"])
def test_when_one_rank_dies_the_other_does_not_wait_for_it(project: Project, ending: str) -> None:
    project.write(
        "train.py",
        "import horovod.torch as hvd, torch\n"
        "for step in range(10**9):\n"
        f"    if step == 50 and hvd.rank() == 1:\n        {ending}\n"
        "    hvd.allreduce(torch.ones(10))\n",
    )
    done = project.launch("entry_script=train.py", *HOROVOD)
    assert done.returncode == 1
    last = events(project.run)[-1]
    assert (last["state"], last["failed"]["rank"]) == ("FAILED", 1)
    assert last["exit_status"] == (9 if "_exit" in ending else 1)
    assert processes_of(project.run.name) == []


@BOTH
@settings(
    max_examples=10,  # of 200 words each
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(words=st.lists(HOSTILE, min_size=200, max_size=200))
def test_two_thousand_hostile_arguments(
    project: Project, options: tuple[str, ...], words: list[str]
) -> None:
    project.write("train.py", "import json, sys\njson.dump(sys.argv[1:], open('seen.json', 'w'))\n")
    run = launcher.submit(*options, entry_script="train.py", script_params={"words": words})
    assert run.wait(300).value == "SUCCEEDED", run.logs()
    seen = json.loads(Path(run.folder.file("code", "seen.json")).read_text())
    assert seen == ["--words", *words]
