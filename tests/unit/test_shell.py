from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.shell import ShellExpr, shell_export, shell_line

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


@settings(max_examples=30, deadline=None)
@given(st.lists(texts, max_size=50))
def test_a_shell_reads_every_word_back(words: list[str]) -> None:
    line = shell_line(("printf", "%s\\0", "--", *words))
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == (["--", *words] if words else ["--"])


def test_an_expression_is_kept_and_never_formatted() -> None:
    word = ShellExpr('"$HOME"')
    assert shell_line(("echo", word, "$HOME")) == "echo \"$HOME\" '$HOME'"
    with pytest.raises(TypeError):
        f"{word}"


def test_an_export_quotes_its_value_and_refuses_a_bad_name() -> None:
    assert shell_export("A", "it's") == "export A='it'\"'\"'s'"
    with pytest.raises(ValueError, match="no name"):
        shell_export("A; rm -rf /", "x")
