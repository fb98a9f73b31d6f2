"""The output of all runs of a sweep as one: each line says which point it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.errors import ConfigError
from launcher.follow import Tail
from launcher.sweep.live import polled
from launcher.sweep.status import SweepLooks, store_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.store import Store
    from launcher.sweep.status import Point
    from launcher.sweep.store import SweepFolder

_LONGEST = 40  # characters of a label with what varies, else the number alone
_CHUNKS = 8  # of a log at once: a run that writes much must not hold up the others


def write_logs(
    sweep: SweepFolder, write: Callable[[bytes], object], rank: int | None = None
) -> None:
    """Write all that is there, run after run."""
    for tail in _tails(SweepLooks(sweep).now(), store_of(sweep), rank).values():
        tail.drain(write)


def follow_logs(
    sweep: SweepFolder, write: Callable[[bytes], object], rank: int | None = None
) -> None:
    """Write the output of all runs as it comes, until all have ended."""
    store, tails, done = store_of(sweep), dict[str, Tail](), set[str]()
    for points in polled(SweepLooks(sweep)):
        begun = [each for each in points if each.entry.run not in done and _has_begun(each)]
        tails |= _tails([each for each in begun if each.entry.run not in tails], store, rank)
        for point in begun:
            run = point.entry.run
            if point.status and point.status.state.final and run in tails:
                tails.pop(run).drain(write)
                done.add(run)
        for tail in tails.values():
            for _ in range(_CHUNKS):
                data = tail.read()
                if not data:
                    break
                write(data)


def _has_begun(point: Point) -> bool:
    status = point.status
    return status is not None and (status.state.final or status.started is not None)


def _tails(points: Sequence[Point], store: Store, rank: int | None) -> dict[str, Tail]:
    """Return what follows the logs of each run; ConfigError when none has that rank."""
    known = {each.entry.run: (each, each.status.world_size) for each in points if each.status}
    largest = max((size for _, size in known.values()), default=0)
    if rank is not None and known and not 0 <= rank < largest:
        raise ConfigError(f"--rank {rank}: the runs have ranks 0 to {largest - 1}")
    return {
        run: Tail(store.folder(run), world_size=size, rank=rank, label=_label(point))
        for run, (point, size) in known.items()
    }


def _label(point: Point) -> str:
    long = len(point.label) > _LONGEST or "\n" in point.label
    return str(point.entry.point) if long else point.label
