"""HOW RANKS START. A dist is a value with pure methods that return the words that start them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word


class Dist(Protocol):
    """A way to start ranks: what it can start, its words, its environment."""

    @property
    def kind(self) -> str:
        """Return ``single`` or ``mpi``: what the bootstrap expects around it."""

    @property
    def horovod(self) -> bool:
        """Return whether the ranks initialise Horovod, and so need it installed."""

    def check(self, resources: Resources) -> None:
        """Raise PlanError when so many ranks cannot be started this way."""

    def start(
        self, rank: tuple[Word, ...], job: JobSpec, facts: Facts, exported: tuple[str, ...]
    ) -> tuple[Word, ...]:
        """Return the words that start every rank, each running the words ``rank``.

        ``exported``: the names of the variables that launch.sh exports.
        """

    def environment(self, job: JobSpec, facts: Facts) -> dict[str, Word]:
        """Return the variables that this way of starting wants."""
