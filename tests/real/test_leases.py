"""Leases on real hosts: shared by users and pools, in turn, whatever dies or is cut off."""

from __future__ import annotations

import os
import signal
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.cluster.user import USER, account
from tests.real.conftest import until
from tests.real.pools import (
    NOBODY,
    Holder,
    ahead,
    free,
    kill,
    let_go,
    names,
    overlaps,
    prepare,
    queue,
    record,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.ssh_host import SshHost
    from tests.cluster.ssh_hosts import SshHosts


@pytest.fixture
def lab(hosts: SshHosts) -> Iterator[SshHosts]:
    """The hosts with our code on them; at the end nothing is leased on any, by itself."""
    hosts.mend()
    prepare(hosts)
    yield hosts
    hosts.mend()
    until(lambda: all(free(host) for host in hosts.all))


# ------------------------------------------------------------------ one host, many users


def test_users_are_served_in_the_order_in_which_they_came(lab: SshHosts) -> None:
    users = [account(USER).pw_uid, NOBODY, 0, account(USER).pw_uid, NOBODY]
    holders = [Holder(lab.hosta, user) for user in users]
    for count, each in enumerate(holders):
        assert each.ask() == ({"ahead": count - 1, "ask": 1} if count else {"held": 1})
    for first, second in pairwise(holders):
        first.say(drop=True)
        second.until_held()
        assert {each.partition(".")[0] for each in names(lab.hosta)} <= {"core-0", "core"}
    for each in holders:
        with each:
            pass
    until(lambda: free(lab.hosta))


def test_who_is_killed_gives_back_and_leaves_the_queue(lab: SshHosts) -> None:
    with Holder(lab.hosta) as has, Holder(lab.hosta, NOBODY) as waits, Holder(lab.hosta, 0) as last:
        assert has.ask() == {"held": 1}
        assert waits.ask() == {"ahead": 0, "ask": 1}
        assert last.ask() == {"ahead": 1, "ask": 1}
        kill(waits.pid)
        kill(has.pid)
        last.until_held()


def test_a_supervisor_holds_what_it_was_given_to_its_own_end(lab: SshHosts) -> None:
    waiting = queue(lab, [lab.hosta], ["open"])
    folder = f"/home/{USER}/{waiting.store}/run-0"
    with Holder(lab.hosta) as one:
        one.ask()
        one.say(start=folder, word="start.1", files=[], env={})
        until(lambda: waiting.told(0))
        kill(one.pid)
    with Holder(lab.hosta, NOBODY) as two:
        assert two.ask() == {"ahead": 0, "ask": 1}
        kill(supervisor(lab.hosta))
        two.until_held()
    assert waiting.told(0)["names"] == ["core-0"]


def supervisor(host: SshHost) -> int:
    """Return the one supervisor on a host."""
    (pid,) = (pid for pid, words in host.processes().items() if "/lib/supervisor.py" in words)
    return pid


def test_who_is_silent_holds_nothing_for_long(lab: SshHosts) -> None:
    with Holder(lab.hosta) as silent, Holder(lab.hosta, NOBODY) as waits:
        assert silent.ask() == {"held": 1}
        assert waits.ask() == {"ahead": 0, "ask": 1}
        silent.silent = True
        until(lambda: silent.running.poll() is not None)
        waits.until_held()


# ------------------------------------------------------------------ a pool over hosts


def test_a_pool_fills_its_hosts_and_no_slot_has_two(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], [*["open"] * 8, *["0.3"] * 8])
    runs.start()
    until(lambda: len(runs.all(ended=False)) == 8)
    let_go(lab)
    told = runs.wait()
    assert not overlaps(told)
    assert all(len(each["names"]) == 1 for each in told)
    assert {each["host"] for each in told} == {"hosta", "hostb"}
    assert len({(each["host"], *each["names"]) for each in told}) == 8
    for task in range(runs.count):
        assert [runs.told(task)["host"]] == runs.events(task)[1]["hosts"]
    claims = [runs.head.user_home / runs.store / f"run-{task}" / "job" for task in range(16)]
    times = [each.stat().st_mtime_ns for each in claims]
    assert times == sorted(times)


def test_cores_are_shared_out_where_there_are_no_slots(lab: SshHosts) -> None:
    a, b, _ = lab.all
    count = len(os.sched_getaffinity(0))
    runs = queue(lab, [b, a], ["0.1"] * 3 * count, slots=None)
    runs.start()
    told = runs.wait()
    assert not overlaps(told)
    assert all(each["names"] == [f"core-{core}" for core in each["cores"]] for each in told)
    assert all(len(each["cores"]) == 1 for each in told)


def test_gpus_are_shared_out_by_index(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], [*["open"] * 4, *["0.1"] * 4], gpus=1, has={"gpus": 2})
    runs.start()
    until(lambda: len(runs.all(ended=False)) == 4)
    let_go(lab)
    told = runs.wait()
    assert not overlaps(told)
    assert all(f"gpu-{each['gpus']}" in each["names"] for each in told)
    assert {each["gpus"] for each in told} == {"0", "1"}


def test_max_parallel_holds_over_all_hosts(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], ["0.2"] * 5, max_parallel=1)
    runs.start()
    spans = sorted((each["begun"], each["ended"]) for each in runs.wait())
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


def test_two_pools_that_both_want_two_hosts_take_turns(lab: SshHosts) -> None:
    a, b, c = lab.all
    pools = [
        queue(lab, hosts, ["0.1"] * 4, slots=1, nodes=[2] * 4)
        for hosts in ([a, b], [b, a], [c, b, a])
    ]
    for each in pools:
        each.start()
    told = [one for each in pools for one in each.wait()]
    assert len(told) == 12
    spans = [(one["begun"], one["ended"], one["hosts"].split(",")) for one in told]
    for host in lab.all:
        mine = sorted(each for each in spans if host.address in each[2])
        assert all(one[1] <= two[0] for one, two in pairwise(mine))
    assert all(len({*each[2]}) == 2 for each in spans)


def test_a_host_that_the_first_run_does_not_ask_for_yet_is_not_idle(lab: SshHosts) -> None:
    a, b, _ = lab.all
    with Holder(a) as has:
        assert has.ask() == {"held": 1}
        runs = queue(lab, [a, b], ["0.1"] * 4, slots=1, nodes=[2, 1, 2, 1])
        runs.start()
        until(lambda: all("ended" in runs.told(task) for task in (1, 3)))
        assert not runs.told(0)
        assert {runs.told(task)["host"] for task in (1, 3)} == {"hostb"}
        until(lambda: "core.turn" not in names(b))
        has.say(drop=True)
        first, second = (each for each in runs.wait() if "," in each["hosts"])
    assert first["ended"] <= second["begun"]


def test_a_run_of_two_hosts_has_both_until_nothing_of_it_lives_there(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], ["open"], slots=1, nodes=[2])
    runs.start()
    until(lambda: runs.told(0))
    kill(runs.pool)
    until(lambda: len(keepers(b)) == 2)
    word = b.processes()[keepers(b)[0]].split()[-1]
    lives(lab, "sleep 600", word)
    kill(keepers(b)[0])
    with Holder(a) as first, Holder(b) as second:
        assert first.ask() == {"ahead": 0, "ask": 1}
        assert second.ask() == {"ahead": 0, "ask": 1}
        kill(supervisor(a))
        first.until_held()
        assert "core-0" in names(b)
        second.say(drop=True)
        assert second.ask(2) == {"ahead": 0, "ask": 2}
        kill(next(pid for pid, words in b.processes().items() if words == "sleep 600"))
        second.until_held(2)


def lives(lab: SshHosts, words: str, start: str) -> None:
    """Have on the second host what does not heed SIGTERM, as if it were of that start of run-0."""
    mark = f"LAUNCHER_RUN_ID=run-0 LAUNCHER_START={start}"
    done = lab.ssh("hostb", f"trap '' TERM; {mark} setsid {words} >/dev/null 2>&1 &")
    assert done.returncode == 0, done.stderr
    until(lambda: words in lab.hostb.processes().values())


def test_a_keeper_ends_what_is_left_of_its_own_start_only(lab: SshHosts) -> None:
    """One was lost; the run's ranks are those of another by the time that its keeper knows."""
    a, b, _ = lab.all
    folder = f"/home/{USER}/runs-kept/run-0"
    with Holder(a) as first, Holder(b) as other:
        first.say(line=True)
        port = first.hear()["port"]
        assert other.ask() == {"held": 1}
        files = [["run.json", 0o644, record("run-0", grace_s=1.0)]]
        other.say(keep=folder, word="start.1", files=files, address=a.address, port=port)
        assert other.hear() == {"kept": True}
        lives(lab, "sleep 601", "start.1")
        lives(lab, "sleep 602", "start.2")
        kill(first.pid)
    until(lambda: free(b))
    (left,) = (pid for pid, words in b.processes().items() if words.startswith("sleep"))
    assert b.processes()[left] == "sleep 602"
    kill(left)


def keepers(host: SshHost) -> list[int]:
    return [pid for pid, words in host.processes().items() if "/pool/keep.py" in words]


# ------------------------------------------------------------------ what dies, what is cut off


def test_a_pool_that_is_killed_leaves_its_runs_and_nothing_else(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], ["open"] * 6, slots=1)
    runs.start()
    until(lambda: len(runs.all(ended=False)) == 2)
    kill(runs.pool)
    until(lambda: not any("hold.py" in words for words in b.processes().values()))
    until(lambda: not runs.pool)
    until(lambda: [names(host) for host in (a, b)] == [{"core-0"}] * 2)
    let_go(lab)
    until(lambda: free(a) and free(b))
    assert len(runs.all(ended=False)) == 2


def test_a_host_whose_plug_is_pulled_is_left_out_and_taken_up_again(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], [*["open"] * 2, *["0.1"] * 3, "later", *["0.1"] * 3], slots=1)
    runs.start()
    until(lambda: len(runs.all(ended=False)) == 2)
    b.kill()
    (a.user_home / "open").touch()
    until(lambda: runs.told(5))
    assert {runs.told(task)["host"] for task in (2, 3, 4, 5)} == {"hosta"}
    b.start()
    until(lambda: all("ended" in runs.told(task) for task in (6, 7, 8)))
    assert {runs.told(task)["host"] for task in (6, 7, 8)} == {"hostb"}
    (a.user_home / "later").touch()
    assert until(lambda: not runs.pool)
    assert Counter("ended" in each for each in runs.all(ended=False)) == {True: 8, False: 1}
    assert not overlaps(runs.all())


def test_the_first_host_of_a_run_is_switched_off(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], ["open"], slots=1, nodes=[2])
    runs.start()
    until(lambda: runs.told(0))
    assert names(b) == {"core-0"}
    a.kill()
    until(lambda: free(b))
    a.start()


@pytest.mark.parametrize("reads", [True, False], ids=["on-its-way", "before"])
def test_a_start_that_is_lost_on_its_way_is_made_again(lab: SshHosts, *, reads: bool) -> None:
    """What would start the run dies; the pool has told it to, or has not yet read that it may."""
    a, b, _ = lab.all
    with Holder(a) as here, Holder(b) as has:
        assert here.ask() == has.ask() == {"held": 1}
        runs = queue(lab, [a, b], ["0.1"], slots=1)
        runs.start()
        until(lambda: any(each.startswith("core.") for each in names(b)))
        os.kill(runs.pool, signal.SIGSTOP)
        hold = next(
            pid
            for pid, words in b.processes().items()
            if "/pool/hold.py" in words and pid != has.pid
        )
        has.say(drop=True)
        until(lambda: names(b) == {"core-0"})  # the pool's
        if reads:
            os.kill(hold, signal.SIGSTOP)
            os.kill(runs.pool, signal.SIGCONT)
            until(lambda: runs.events(0)[-1].get("hosts") == ["hostb"])
        kill(hold)
        if not reads:
            until(lambda: not any(each.startswith("ssh ") for each in a.processes().values()))
            os.kill(runs.pool, signal.SIGCONT)
        (told,) = runs.wait()
    assert told["host"] == "hostb"
    states = [(each["state"], each.get("hosts")) for each in runs.events(0)]
    lost = [("PENDING", ["hostb"]), ("PENDING", [])] if reads else []
    assert states == [("SUBMITTING", None), *lost, ("PENDING", ["hostb"])]


def test_a_start_that_did_not_come_never_will(lab: SshHosts) -> None:
    """So it is told as often as it is asked, and one that comes late lays nothing and runs not."""
    folder = f"/home/{USER}/runs-late/run-0"
    for _ in range(2):
        with Holder(lab.hosta) as asks:
            asks.say(watch=folder, word="start.1")
            assert asks.hear() == {"unstarted": folder}
    with Holder(lab.hosta) as late:
        assert late.ask() == {"held": 1}
        late.say(start=folder, word="start.1", files=[["work", 0o644, "open"]], env={})
        assert late.hear() == {"ended": folder}
    there = lab.hosta.user_home / "runs-late" / "run-0"
    assert [each.name for each in there.iterdir()] == ["start.1"]


def test_a_cable_is_pulled_while_a_pool_waits(lab: SshHosts) -> None:
    a, b, _ = lab.all
    with Holder(b) as has, Holder(b, NOBODY) as later:
        assert has.ask() == {"held": 1}
        runs = queue(lab, [a, b], ["open", "0.1"], slots=1)
        runs.start()
        until(lambda: runs.told(0))
        until(lambda: sum(name.startswith("core.") for name in names(b)) == 2)  # turn and ticket
        assert later.ask() == {"ahead": 1, "ask": 1}
        b.unplug()
        until(lambda: ahead(b) == 1)
        has.say(drop=True)
        later.until_held()
        b.plug()
        until(lambda: ahead(b) == 1)  # it has come again
        later.say(drop=True)
        until(lambda: "ended" in runs.told(1))
        assert runs.told(1)["host"] == "hostb"
        let_go(lab)
        runs.wait()


def test_a_cable_is_pulled_while_runs_run(lab: SshHosts) -> None:
    a, b, _ = lab.all
    runs = queue(lab, [a, b], ["open", "open", "0.1", "0.1"], slots=1)
    runs.start()
    until(lambda: len(runs.all(ended=False)) == 2)
    b.unplug()
    until(lambda: not any(f" {b.address} " in words for words in a.processes().values()))
    until(lambda: names(b) == {"core-0"})
    (b.user_home / "open").touch()
    until(lambda: free(b))
    b.plug()
    until(lambda: all("ended" in runs.told(task) for task in (2, 3)))
    assert {runs.told(task)["host"] for task in (2, 3)} == {"hostb"}
    let_go(lab)
    assert not overlaps(runs.wait())
