"""How many jobs a user may queue, as recorded from a real cluster; what that leaves of a sweep."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.cluster import Cluster, Limit
from launcher.compute.slurm import Slurm
from launcher.slurm import limits
from launcher.slurm.refusal import full
from launcher.sweep.plan import room
from tests.cluster.user import USER

RECORDED = Path(__file__).parent / "recorded" / "slurm-22.05"
OWN = "your association with account research"


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text("utf-8")


def found(answer: str = "limits", config: str = "", user: str = USER) -> tuple[Limit, ...]:
    text = recorded(answer)
    uid = re.search(r"UserName=launchertest\((\d+)\)", text)
    assert uid
    return limits.limits(config or recorded("config"), text, user, int(uid[1]))


def seen(*known: Limit) -> Any:
    return SimpleNamespace(slurm=Cluster(version="22.05.8", mpi=(), limits=known))


def told(compute: Slurm, *known: Limit) -> list[str]:
    return [str(each) for each in compute.limits(seen(*known))]


def test_limits_of_an_association_its_account_and_the_cluster() -> None:
    assert told(Slurm(), *found()) == [
        "MaxJobCount=10000 of this cluster",
        f"MaxSubmitJobs=10 of {OWN} (5 jobs were in the queue)",
        "GrpSubmitJobs=15 of account research (5 jobs were in the queue)",
    ]
    assert told(Slurm(account="Research"), *found()) == told(Slurm(), *found())
    assert told(Slurm(account="other"), *found()) == ["MaxJobCount=10000 of this cluster"]


@pytest.mark.parametrize("how", [{"qos": "one"}, {"extra": {"qos": "one"}, "account": "research"}])
def test_limits_of_a_quality_of_service(how: dict[str, Any]) -> None:
    assert told(Slurm(**how), *found())[3:] == [
        "GrpSubmitJobs=20 of QOS one (2 jobs were in the queue)",
        "MaxSubmitJobsPerAccount=7 of QOS one (2 jobs were in the queue)",
        "MaxSubmitJobsPerUser=5 of QOS one (2 jobs were in the queue)",
    ]


def test_what_is_not_told_or_not_enforced_is_no_limit() -> None:
    assert told(Slurm(qos="one"), *found("limits-unused"))[3:] == [
        "GrpSubmitJobs=20 of QOS one (0 jobs were in the queue)"
    ]
    loose = recorded("config").replace("= associations,limits,qos", "= associations")
    assert [each.name for each in found(config=loose)] == ["MaxJobCount"]
    safe = loose.replace("= associations", "= associations,safe")
    assert found(config=safe) == found()
    assert limits.limits("", recorded("associations-disabled"), USER, 0) == ()
    assert limits.limits("", "", USER, 0) == ()


def test_a_cluster_with_limits_is_read_as_it_was_written() -> None:
    from dataclasses import asdict  # noqa: PLC0415
    from json import dumps, loads  # noqa: PLC0415

    known = Cluster(version="22.05.8", mpi=(), limits=found())
    assert Cluster.from_json(loads(dumps(asdict(known)))) == known
    old = {key: each for key, each in asdict(known).items() if key != "limits"}
    assert Cluster.from_json(old).limits == ()


def drafts(count: int, **compute: Any) -> dict[str, Any]:
    """Return drafts whose facts were seen one after the other, as those of environments are."""
    kind = Slurm(**compute)
    job = SimpleNamespace(compute=kind)
    name = compute.get("qos", "none")
    return {f"{name}-{n}": SimpleNamespace(job=job, facts=seen(*found())) for n in range(count)}


def test_the_first_ones_fit_each_limit_is_shared_by_those_that_it_is_for() -> None:
    there = room({**drafts(4), **drafts(5, qos="one")})
    assert list(there.fits) == ["none-0", "none-1", "none-2", "none-3", "one-0"]
    assert [limit.name for limit in there.beyond] == ["MaxSubmitJobs"]
    there = room({**drafts(5, qos="one"), **drafts(4)})
    assert list(there.fits) == ["one-0", "one-1", "one-2", "none-0", "none-1"]
    assert {limit.name: count for limit, count in there.beyond.items()} == {
        "MaxSubmitJobsPerUser": 2,
        "MaxSubmitJobs": 2,
    }
    assert str(there.error("S")).startswith(
        "5 of 9 runs of sweep S are queued: MaxSubmitJobsPerUser=5 of QOS one (2 jobs were in the "
        "queue) keeps 2 out, MaxSubmitJobs=10 of your association"
    )
    assert room(drafts(5)).beyond == {}


def test_a_full_cluster_is_told_from_other_refusals() -> None:
    from json import loads  # noqa: PLC0415

    known = loads((RECORDED / "sbatch.json").read_text())
    assert [words for words, said in known.items() if full(said)] == ["too many"]
    assert full("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying")
