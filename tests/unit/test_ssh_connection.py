"""A host as the user names it -> the words that ssh is given."""

from __future__ import annotations

import pytest

from launcher.ssh.connection import Target


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hosta", "-- hosta"),
        ("hosta:2222", "-p 2222 -- hosta"),
        ("me@hosta:2222", "-p 2222 -- me@hosta"),
        ("::1", "-- ::1"),
        ("me@fd77:1::11", "-- me@fd77:1::11"),  # no port 11
        ("[fd77:1::11]", "-- fd77:1::11"),
        ("me@[::1]:22", "-p 22 -- me@::1"),
    ],
)
def test_a_name_is_read_as_users_of_ssh_mean_it(name: str, words: str) -> None:
    assert " ".join(Target(name=name).words) == words
    assert Target(name=name, config="c").words[:2] == ("-F", "c")
