from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from launcher.bootstrap import Relay, identity, rank_environment, secret_values

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = [b"sesame-open", b"sess", b"12345678"]


@pytest.mark.parametrize("seed", range(20))
def test_no_secret_passes_however_the_pipe_cuts_it(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    parts = [b"sesame-open", b"12345678", b"ses", b"x", b"\n", b"123", b"sesame-ope", b"s" * 9]
    text = b"".join(rng.choices(parts, k=300))
    source, output = os.pipe()
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    relay = Relay(source, log, sorted(SECRETS, key=len, reverse=True))
    expected = text
    for secret in sorted(SECRETS, key=len, reverse=True):
        expected = expected.replace(secret, b"***")
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    pid = os.fork()
    if pid == 0:
        for piece in pieces:
            os.write(output, piece)
        os._exit(0)
    os.close(output)
    relay.run()
    os.waitpid(pid, 0)
    os.close(source)
    os.close(log)
    seen = (tmp_path / "log").read_bytes()
    assert not any(secret in seen for secret in (b"sesame-open", b"12345678"))
    assert len(seen) > len(expected) // 2


def test_what_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "first-line\nno\nsecond-line")
    assert secret_values(["KEY", "NOT_SET"]) == [b"second-line", b"first-line"]


def test_who_a_rank_is() -> None:
    mpi = {"dist": "mpi", "procs_per_node": 2}
    env = {f"OMPI_COMM_WORLD_{name}": "3" for name in ("RANK", "LOCAL_RANK")}
    env |= {"OMPI_COMM_WORLD_SIZE": "4", "SLURM_PROCID": "9"}
    assert tuple(identity(mpi, env)) == (3, 4, 3)
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
    who = identity(mpi, slurm)
    assert tuple(who) == (3, 4, 1)
    assert tuple(identity({"dist": "single"}, slurm)) == (0, 1, 0)
    names = rank_environment(mpi, who)
    assert (names["RANK"], names["WORLD_SIZE"], names["NODE_RANK"]) == ("3", "4", "1")
    assert names["OMPI_COMM_WORLD_LOCAL_RANK"] == names["LOCAL_RANK"] == "1"
    assert rank_environment({"dist": "single"}, who) == {}
