"""Looks at the places that the points of a sweep are for, once at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.probe import probe, source_of

if TYPE_CHECKING:
    from launcher.git import Place
    from launcher.job import Facts, JobSpec


class Places:
    """What was seen of each place; ``sources``: where source directories lie, by their paths."""

    def __init__(self) -> None:
        """Look at nothing yet."""
        self.sources: dict[str, Place] = {}
        self._entries: set[tuple[str, tuple[str, ...]]] = set()
        self._facts: dict[tuple[Any, ...], Facts] = {}

    def facts(self, job: JobSpec) -> Facts:
        """Return what is seen of the job's place; ConfigError when it lacks what the job names."""
        source, compute = job.source_directory, job.compute
        if (source, job.entry) not in self._entries:
            self.sources[source] = source_of(job)
            self._entries.add((source, job.entry))
        asked = tuple(
            bool(getattr(compute, name, None))
            for name in ("account", "qos", "reservation", "nodelist", "exclude")
        )
        how = (job.dist.kind, job.dist.horovod, tuple(job.data.items()), tuple(job.uploads.items()))
        place = id(compute) if compute.kind == "ssh" else compute.kind  # it names its hosts
        key = (source, id(job.environment), place, *asked, *how)
        if key not in self._facts:
            self._facts[key] = probe(job, self.sources[source], arrays=True)
        return self._facts[key]
