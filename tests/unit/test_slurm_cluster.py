"""What is read from sinfo, srun, sacctmgr and scontrol, as recorded from a real cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.cluster import NodeGroup
from launcher.errors import SubmitError
from launcher.slurm import cluster, sizes
from launcher.slurm.hosts import expand

RECORDED = Path(__file__).parent / "recorded" / "slurm-22.05"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text("utf-8")


def on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    """Put programs on PATH that stand in for Slurm's: each is the body of a shell script."""
    folder.mkdir(exist_ok=True)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def job(**compute: Any) -> Any:
    keys = ("partition", "account", "qos", "reservation", "nodelist", "exclude")
    return SimpleNamespace(compute=SimpleNamespace(**{**dict.fromkeys(keys), **compute}))


def test_groups_of_nodes() -> None:
    groups, names = cluster.nodes(recorded("sinfo"))
    assert names == ("node1", "node2")
    found = {(each.partition, each.features): each for each in groups}
    assert found["debug", ("avx2", "big")] == NodeGroup(
        partition="debug",
        default=True,
        up=True,
        nodes=1,
        cpus=4,
        mem_mb=8000,
        gpus=4,
        features=("avx2", "big"),
        max_time_s=None,
    )
    assert found["short", ("avx2",)].max_time_s == 3600
    assert found["low", ("avx2",)].max_time_s == 86400
    assert found["drained", ("avx2", "big")].max_time_s == 600
    assert [each.partition for each in groups if not each.up] == ["drained"]
    assert {each.partition for each in groups if each.default} == {"debug"}


def test_the_users_own_default_partition_comes_first() -> None:
    groups, _ = cluster.nodes(recorded("sinfo"), "short,low")
    assert {each.partition for each in groups if each.default} == {"short", "low"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("(null)", 0),
        ("gpu:4", 4),
        ("gpu:fake:4", 4),
        ("gpu:a100:4(S:0-1),gpu:h100:2(S:1),shard:8", 6),
        ("gpu:a100_3g.20gb:7", 7),
        ("fpga:2", 0),
    ],
)
def test_gpus(text: str, count: int) -> None:
    assert cluster.gpus(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("infinite", None),
        ("10:00", 600),
        ("1:00:00", 3600),
        ("2-12:00:00", 216000),
        ("n/a", None),
        ("0:30", 30),
    ],
)
def test_limits(text: str, seconds: int | None) -> None:
    assert sizes.seconds(text) == seconds


def test_mpi_plugins() -> None:
    found = ("cray_shasta", "none", "pmi2", "pmix", "pmix_v4")
    assert cluster.plugins(recorded("mpi")) == found


def test_mpi_plugins_as_other_versions_list_them() -> None:
    old = "srun: MPI types are...\nsrun: none\nsrun: pmix_v3\nsrun: pmi2\n"  # Slurm 20.02
    assert cluster.plugins(old) == ("none", "pmi2", "pmix_v3")
    several = "\tpmix\nspecific pmix plugin versions available: pmix_v4,pmix_v5\n"
    assert cluster.plugins(several) == ("pmix", "pmix_v4", "pmix_v5")


def test_accounts_and_qualities_of_service() -> None:
    assert cluster.associations(recorded("associations")) == (("research",), ("normal", "one"))
    assert cluster.associations("a|normal\nb|long,normal\n") == (("a", "b"), ("long", "normal"))


def test_what_accounting_does_not_tell_is_not_known() -> None:
    assert cluster.associations("") == (None, None)
    # a list that only adds to an inherited one, and none at all
    assert cluster.associations("a|+long\n") == (("a",), None)
    assert cluster.associations("a|\n") == (("a",), None)


def test_reservations() -> None:
    assert cluster.reservations(recorded("reservation")) == ("course",)
    assert cluster.reservations("No reservations in the system\n") == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ("node1",)),
        ("node[1-3,07],login", ("node1", "node2", "node3", "node07", "login")),
        ("r[1-2]n[08-10]", ("r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10")),
        ("a-[1,3].site,b", ("a-1.site", "a-3.site", "b")),
        ("(null)", ()),
        ("", ()),
    ],
)
def test_lists_of_hosts(text: str, names: tuple[str, ...]) -> None:
    assert expand(text) == names


def test_a_machine_without_slurm_has_no_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cluster.probe(job()) is None


def test_slurms_programs_without_a_cluster_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's slurm-client on a laptop."""
    said = "echo 'sinfo: fatal: Could not establish a configuration source' >&2; exit 1"
    on_path(tmp_path / "bin", monkeypatch, sinfo=said, srun=said)
    assert cluster.probe(job()) is None


def test_a_controller_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, said = recorded("silent-sinfo").partition("\n")
    body = f"[ $1 = --version ] && echo slurm 22.05.8 && exit\ncat >&2 <<'X'\n{said}X\nexit 1"
    on_path(tmp_path / "bin", monkeypatch, sinfo=body, srun="true")
    with pytest.raises(SubmitError, match="does not answer: Unable to contact") as error:
        cluster.probe(job())
    assert error.value.transient
    assert "scontrol ping" in error.value.hint


def test_what_is_not_named_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = f"echo $0 \"$@\" >> '{tmp_path}/asked'\n"
    sinfo = f"{log}[ $1 = --version ] && echo slurm 22.05.8 && exit\ncat '{RECORDED}/sinfo.txt'"
    programs = {
        "sinfo": sinfo,
        "srun": f"{log}cat '{RECORDED}/mpi.txt' >&2",  # some versions write it there
        "sacctmgr": f"{log}cat '{RECORDED}/associations.txt'",
        "scontrol": f"{log}cat '{RECORDED}/reservation.txt'",
    }
    on_path(tmp_path / "bin", monkeypatch, **programs)
    seen = cluster.probe(job())
    assert seen is not None
    assert (seen.version, seen.names, seen.accounts, seen.qos) == ("22.05.8", None, None, None)
    assert "pmix" in seen.mpi
    asked = (tmp_path / "asked").read_text()
    assert "sacctmgr" not in asked
    assert "reservation" not in asked
    seen = cluster.probe(job(account="a", reservation="b", nodelist="node1"))
    assert seen is not None
    assert seen.names == ("node1", "node2")
    assert (seen.accounts, seen.reservations) == (("research",), ("course",))


def test_accounting_that_is_off_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, said = recorded("associations-disabled").partition("\n")
    sinfo = f"[ $1 = --version ] && echo slurm 22.05.8 && exit\ncat '{RECORDED}/sinfo.txt'"
    refuses = f"cat >&2 <<'X'\n{said}X\nexit 1"
    on_path(tmp_path / "bin", monkeypatch, sinfo=sinfo, srun="true", sacctmgr=refuses)
    seen = cluster.probe(job(account="nope", qos="nope"))
    assert seen is not None
    assert (seen.accounts, seen.qos) == (None, None)


def test_a_persons_own_defaults_do_not_change_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"env > '{tmp_path}/seen'; cat '{RECORDED}/sinfo.txt'"
    on_path(tmp_path / "bin", monkeypatch, sinfo=body, srun="true")
    monkeypatch.setenv("SINFO_PARTITION", "nope")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SLURM_CONF", "/kept")
    cluster.probe(job())
    seen = (tmp_path / "seen").read_text()
    assert "SINFO_PARTITION" not in seen
    assert "SQUEUE_FORMAT" not in seen
    assert "SLURM_CONF=/kept" in seen
    assert "SLURM_TIME_FORMAT=%s" in seen
