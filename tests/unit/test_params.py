from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from launcher import params
from launcher.app import escaped
from launcher.errors import ConfigError

texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))
hostile = st.one_of(texts, st.text("\\${}'\"[],= \n:#%@a?", max_size=12), st.just("???"))


@pytest.mark.parametrize(
    ("given_params", "words"),
    [
        ({"lr": 0.1}, ["--lr", "0.1"]),
        ({"lr": 1e-5, "n": -3}, ["--lr", "1e-05", "--n", "-3"]),
        ({"fast": True, "slow": False, "none": None}, ["--fast"]),
        ({"layers": [1, "a b", True, None]}, ["--layers", "1", "a b", "true", "null"]),
        ({"none": []}, ["--none"]),
        ({"a": {"b": {"c": 1}, "d": True}}, ["--a.b.c", "1", "--a.d"]),
        ({"-v": True, "--x": "", "-n": 3}, ["-v", "--x", "", "-n", "3"]),
        ({}, []),
    ],
)
def test_argparse_style(given_params: dict[str, Any], words: list[str]) -> None:
    assert list(params.arguments(given_params)) == words


@pytest.mark.parametrize(
    ("given_params", "words"),
    [
        ({"lr": 0.1, "on": True, "off": None}, ["lr=0.1", "on=true", "off=null"]),
        ({"model": {"depth": 3, "name": "resnet"}}, ["model.depth=3", "model.name=resnet"]),
        ({"x": [1, "two", "3"]}, ["x=[1,two,'3']"]),
        ({"empty": {}, "text": ""}, ["empty={}", "text=''"]),
    ],
)
def test_hydra_style(given_params: dict[str, Any], words: list[str]) -> None:
    assert list(params.hydra_arguments(given_params)) == words


@given(hostile)
def test_hydra_reads_every_text_back(text: str) -> None:
    assume(text != "???")  # in a Hydra application that text alone is a value not given
    (word,) = params.hydra_arguments({"key": text})
    (override,) = OverridesParser.create().parse_overrides(["++" + word])
    config = OmegaConf.create({})
    OmegaConf.update(config, "key", override.value())
    assert config.key == text


@given(hostile)
def test_an_escaped_text_is_read_literally(text: str) -> None:
    assert OmegaConf.create({"key": escaped({"in": [text]})}).key["in"][0] == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (90, 5400),
        (0.5, 30),
        ("01:30:00", 5400),
        ("1-00:00:00", 86400),
        ("2-03:00:30", 51 * 3600 + 30),
    ],
)
def test_durations(value: Any, seconds: int | None) -> None:
    assert params.seconds("compute.time", value) == seconds


@pytest.mark.parametrize(
    "value", ["soon", 0, -1, True, "1:2:3:4", "", "30:00", "inf", "nan", 0.001]
)
def test_a_bad_duration_names_the_key_and_the_forms(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"compute\.time") as caught:
        params.seconds("compute.time", value)
    assert "HH:MM:SS" in caught.value.hint


@pytest.mark.parametrize(
    ("given_params", "words"),
    [
        ({"lr": "0.1", "+x": "[1,2]", "db": "mysql"}, ["lr=0.1", "+x=[1,2]", "db=mysql"]),
        ({"a": "${b}", "t": "'it'"}, ["a=${b}", "t='it'"]),  # as typed
        ({"~y": None, "~z": "1"}, ["~y", "~z=1"]),
        (
            {"n": None, "f": True, "v": 0.1, "l": [1, "a b"]},
            ["n=null", "f=true", "v=0.1", "l=[1,'a b']"],
        ),
        ({"a": {"b": "1", "c": {"d": 2}}}, ["a.b=1", "a.c.d=2"]),
        ({"": ["--seed", "5"], "a": "1"}, ["--seed", "5", "a=1"]),
    ],
)
def test_overrides_as_typed(given_params: dict[str, Any], words: list[str]) -> None:
    assert list(params.override_arguments(given_params)) == words
