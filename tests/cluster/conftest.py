"""The clusters that tests share, and a plain user's folders on them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.cluster.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(_root: None) -> Iterator[Cluster]:
    """Two nodes with four cores and four GPUs each; it keeps no accounts, so sacct refuses."""
    with Cluster() as up:
        yield up


@pytest.fixture(scope="session")
def cluster_dbd(_root: None) -> Iterator[Cluster]:
    """The same with slurmdbd; sacct tells of a job some seconds late, so ask it again."""
    with Cluster(accounting="dbd") as up:
        yield up


@pytest.fixture
def user_project(cluster: Cluster) -> Path:
    """An empty folder of the plain user's, at one path on the login node and every node."""
    return cluster.project(f"project-{next(_numbers)}")


@pytest.fixture
def user_project_dbd(cluster_dbd: Cluster) -> Path:
    """The same on the cluster with slurmdbd."""
    return cluster_dbd.project(f"project-{next(_numbers)}")
