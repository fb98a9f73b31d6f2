"""The points of a sweep: Hydra's grammar, as a person types it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from launcher import app, config
from launcher.errors import ConfigError
from launcher.sweep.compose import Composer
from launcher.sweep.grammar import split
from launcher.sweep.parse import Grammar
from launcher.sweep.points import Point, expand, first

if TYPE_CHECKING:
    from tests.conftest import Project

NONE: dict[str, Any] = {"samples": None, "seed": 0, "zip": [], "points": None, "params": {}}


def points(*overrides: str, **settings: Any) -> tuple[Point, ...]:
    return expand(app.Request(overrides=overrides), {**NONE, **settings})


def words(*overrides: str, **settings: Any) -> list[tuple[str, ...]]:
    return [point.overrides for point in points(*overrides, **settings)]


@pytest.mark.parametrize(
    ("word", "texts"),
    [
        ("nodes=1,2,4", ["1", "2", "4"]),
        ("nodes=choice(1,2)", ["1", "2"]),
        ("nodes=range(3)", ["0", "1", "2"]),
        ("nodes=range(1,10,4)", ["1", "5", "9"]),
        ("nodes=sort(3,1,2)", ["1", "2", "3"]),
        ("nodes=sort(3,1,2,reverse=true)", ["3", "2", "1"]),
        ("nodes=int(1.0,2.0)", ["1", "2"]),
        ("script_params.lr=sort(1e-3,1e-4)", ["1e-4", "1e-3"]),
        ("script_params.lr=tag(a,choice(1e-3,0.10))", ["1e-3", "0.10"]),
        ("script_params.lr=range(0,1,0.5)", ["0.0", "0.5"]),
        ("script_params.a=['x],y',z],b", ["['x],y',z]", "b"]),
        ("env.A=range(2)", ["0", "1"]),
        ("script_params.lr=1e-3,1e-4", ["1e-3", "1e-4"]),
        ("script_params.lr= 1 , 2", ["1", "2"]),
        ("script_params.a='x,y',z", ["'x,y'", "z"]),
        ("script_params.a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("script_params.a={k:1},{k:2}", ["{k:1}", "{k:2}"]),
        (r"script_params.a=a\,b,c", [r"a\,b", "c"]),
        ("env.A=1,2", ["1", "2"]),
        ("environment=cpu,gpu", ["cpu", "gpu"]),
        ("environment=glob(*)", ["cpu", "gpu"]),
        ("compute=glob(*,exclude=s*)", ["local"]),
        ("environment.torch=torch==2.12.0,torch==2.13.0", ["torch==2.12.0", "torch==2.13.0"]),
        ("++script_params.lr=1,2", ["1", "2"]),
    ],
)
def test_what_varies(word: str, texts: list[str]) -> None:
    key = word.partition("=")[0]
    expected = [(("name=a"), f"{key}={text}") for text in texts]
    assert words("name=a", word) == expected
    assert [dict(point.varying) for point in points("name=a", word)] == [
        {key.lstrip("+"): text} for text in texts
    ]


@pytest.mark.parametrize(
    "word",
    [
        "nodes=1",
        "script_params.a='x,y'",
        "script_params.a=[1,2]",
        "script_params.a={b:1,c:2}",
        r"script_params.a=x\,y",
        "~script_params.a",
        "script_params.url=http://a?b=[c",
    ],
)
def test_what_does_not_vary(word: str) -> None:
    (point,) = points("name=a", word)
    assert point == Point(number=0, overrides=("name=a", word), varying=())


def test_the_last_key_varies_fastest_and_the_later_of_two_counts() -> None:
    assert words("nodes=1,2", "name=a,b") == [
        ("nodes=1", "name=a"),
        ("nodes=1", "name=b"),
        ("nodes=2", "name=a"),
        ("nodes=2", "name=b"),
    ]
    assert words("nodes=1,2", "name=a", "nodes=3") == [("nodes=3", "name=a")]
    assert words("script_params.a=1,2", "++script_params.a=3") == [("++script_params.a=3",)]
    assert words("nodes=1,1,2") == [("nodes=1",), ("nodes=2",)]


def test_what_is_given_twice_and_does_not_vary_stays_as_it_was_typed() -> None:
    for typed in (
        ("script_params.d={a:1}", "script_params.d={b:2}"),
        ("script_params.a=1", "~script_params.a", "script_params.a=2"),
    ):
        assert words(*typed, "nodes=1,2") == [(*typed, "nodes=1"), (*typed, "nodes=2")]


def test_shuffled_values_come_in_the_same_order_each_time() -> None:
    order = words("nodes=shuffle(range(9))")
    assert order == words("nodes=shuffle(range(9))") != words("nodes=range(9)")
    assert sorted(order) == words("nodes=range(9)")
    assert order != words("nodes=shuffle(range(9))", seed=1)


def test_a_folder_among_the_options_is_none_of_them(project: Project) -> None:
    project.write("conf/experiment/a.yaml", "# @package _global_\nnodes: 2\n")
    project.write("conf/experiment/deep/b.yaml", "# @package _global_\nnodes: 3\n")
    assert words("experiment=glob(*)") == [("experiment=a",)]


@pytest.mark.parametrize("text", ["1e-3", "0.10", "007", "1_000", "true", "null", "a b", "x=y"])
def test_a_point_is_what_a_person_would_type_for_it_alone(text: str) -> None:
    script = "entry_script=train.py"
    point = points(script, f"script_params.p={text},other")[0]
    alone = app.Request(overrides=(script, f"script_params.p={text}"))
    own = replace(alone, overrides=point.overrides)
    assert config.resolve(app.compose(own))[0].args == config.resolve(app.compose(alone))[0].args


def test_paired_keys_advance_together() -> None:
    given = ("nodes=1,2", "name=a,b", "script_params.lr=3,4")
    assert words(*given, zip=["nodes", "script_params.lr"]) == [
        ("nodes=1", "name=a", "script_params.lr=3"),
        ("nodes=1", "name=b", "script_params.lr=3"),
        ("nodes=2", "name=a", "script_params.lr=4"),
        ("nodes=2", "name=b", "script_params.lr=4"),
    ]
    assert len(words(*given, zip=[["nodes", "name"], ["script_params.lr"]])) == 4
    with pytest.raises(ConfigError, match="nodes has 2, name has 3"):
        points("nodes=1,2", "name=a,b,c", zip=["nodes", "name"])
    with pytest.raises(ConfigError, match=r"sweep\.zip: lr has no values") as failed:
        points("nodes=1,2", zip=["lr"])
    assert "nodes" in failed.value.hint
    with pytest.raises(ConfigError, match="name is there twice"):
        points(*given, zip=[["nodes", "name"], ["name", "script_params.lr"]])


def test_paired_keys_are_drawn_together() -> None:
    drawn = words("nodes=1,2", "name=a,b", zip=["nodes", "name"], samples=30)
    assert sorted(drawn) == [("nodes=1", "name=a"), ("nodes=2", "name=b")]


def test_a_file_of_points_is_crossed_with_the_rest(project: Project) -> None:
    project.write("p.jsonl", '{"nodes": 2, "script_params.t": "a,b"}\n\n["name=x", "nodes=3"]\n')
    assert words("procs_per_node=1,2", points="p.jsonl") == [
        ("procs_per_node=1", "nodes=2", "script_params.t='a,b'"),
        ("procs_per_node=1", "name=x", "nodes=3"),
        ("procs_per_node=2", "nodes=2", "script_params.t='a,b'"),
        ("procs_per_node=2", "name=x", "nodes=3"),
    ]
    project.write("p.jsonl", '{"nodes": 2}\n{"nodes": \n')
    with pytest.raises(ConfigError, match=r"p\.jsonl:2: not a point"):
        points(points="p.jsonl")
    project.write("p.jsonl", "7\n")
    with pytest.raises(ConfigError, match=r"p\.jsonl:1: not a point"):
        points(points="p.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        points(points="absent.jsonl")
    project.write("p.jsonl", "\n")
    with pytest.raises(ConfigError, match="no points in it"):
        points(points="p.jsonl")


@pytest.mark.parametrize(
    ("line", "overrides"),
    [
        ('{"name": "true", "env.A": "null"}', ("name='true'", "env.A='null'")),
        ('{"script_params.a": true, "name": null}', ("script_params.a=true", "name=null")),
        ('{"script_params.lr": 1e-3}', ("script_params.lr=1e-3",)),
        ('{"script_params.v": ".5"}', ("script_params.v='.5'",)),
        ('{"secrets": ["A", "b c"]}', ("secrets=[A,'b c']",)),
        ("[]", ()),
    ],
)
def test_a_line_of_a_file_of_points(project: Project, line: str, overrides: Any) -> None:
    project.write("p.jsonl", line)
    assert words(points="p.jsonl") == [overrides]


@pytest.mark.parametrize(
    "line", ['"nodes=2"', "[1]", '["nodes=1,2"]', '{"sweep.seed": 3}', "[" * 9**5]
)
def test_a_line_that_is_no_point(project: Project, line: str) -> None:
    project.write("p.jsonl", line)
    with pytest.raises(ConfigError, match=r"p\.jsonl:1: not a point"):
        points(points="p.jsonl")


def test_sweeps_of_a_file_and_the_command_line_wins() -> None:
    settings = {"params": {"nodes": "1,2", "name": "a"}}
    assert words("procs_per_node=1", **settings) == [
        ("nodes=1", "name=a", "procs_per_node=1"),
        ("nodes=2", "name=a", "procs_per_node=1"),
    ]
    assert words("nodes=3", **settings) == [("name=a", "nodes=3")]


def test_samples_are_drawn_and_more_of_them_keep_the_earlier() -> None:
    given = (
        "script_params.lr=tag(log, interval(0.001, 1))",
        "script_params.n=int(interval(1, 4))",
        "script_params.x=interval(2, 3)",
        "nodes=1,2",
    )
    few, many = points(*given, samples=20), points(*given, samples=200)
    assert many[:20] == few
    assert points(*given, samples=20, seed=1) != few
    drawn = [{key: float(text) for key, text in point.varying} for point in many]
    lrs = [math.log10(each["script_params.lr"]) for each in drawn]
    assert -3 <= min(lrs) < -2.8
    assert -0.2 < max(lrs) <= 0
    assert {each["script_params.n"] for each in drawn} == {1, 2, 3, 4}
    assert all(2 <= each["script_params.x"] <= 3 for each in drawn)
    assert {each["nodes"] for each in drawn} == {1, 2}


def test_a_drawn_number_lies_within_its_interval() -> None:
    drawn = points("script_params.x=interval(100000.1,100000.2)", samples=9)
    assert all(100000.1 <= float(point.varying[0][1]) <= 100000.2 for point in drawn)
    drawn = points("nodes=tag(log,int,interval(1.5,3.4))", samples=30)
    assert {point.varying[0][1] for point in drawn} == {"2", "3"}


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (("script_params.lr=interval(0,1)",), {}, "sweep.samples=50"),
        (("script_params.lr=tag(log,interval(0,1))",), {"samples": 3}, "above 0"),
        (("nodes=1,2",), {"samples": 0}, "must be from 1 to"),
        (("sweep.seed=1,2",), {}, "cannot be swept"),
        (("nodes=range(0)",), {}, "has no values"),
        (("nodes=1,2",), {"samples": 10**9}, "must be from 1 to"),
        (("sweep.params.nodes=1,2",), {}, "cannot be swept"),
        (("sweep={seed:1},{seed:2}",), {}, "cannot be swept"),
        ((), {"params": {"sweep.seed": "1,2"}}, "cannot be swept"),
        (("nodes=range(0,1,0)",), {}, "its step is 0"),
        (("nodes=range(0,1,0.0)",), {}, "its step is 0"),
        (("nodes=range(0,inf)",), {}, "more than 1000000 values"),
        (("nodes=range(2000)", "procs_per_node=range(2000)"), {}, "a grid of 4000000 points"),
        (("script_params.lr=interval(1)",), {}, "not a sweep"),
        (("script_params.lr=choice()",), {}, "not a sweep"),
        (("script_params.a=1,,2",), {}, "nothing beside a comma"),
        (("nodes=1,range(3)",), {}, "a sweep within a sweep"),
        (("nodes=interval(2,1)",), {"samples": 3}, "nothing in it"),
        (("nodes=interval(0,inf)",), {"samples": 3}, "nothing in it"),
        (("nodes=tag(int,interval(0.2,0.4))",), {"samples": 3}, "nothing in it"),
    ],
)
def test_what_makes_no_points(given: tuple[str, ...], settings: Any, message: str) -> None:
    with pytest.raises(ConfigError) as failed:
        points(*given, **settings)
    assert message in str(failed.value)


def test_what_decides_how_a_sweep_is_made() -> None:
    request = app.Request(overrides=("nodes=1,2", "experiment=a,b", "sweep.zip=[x,y]"))
    assert first(request) == ("experiment=a", "sweep.zip=[x,y]")


def test_an_experiment_may_set_what_only_the_chosen_option_has(project: Project) -> None:
    project.write("conf/experiment/a.yaml", "# @package _global_\ncompute: {partition: long}\n")
    request = app.Request(overrides=("compute=slurm,local", "experiment=a", "nodes=1,2"))
    assert Composer(request).settings(first(request))["samples"] is None


@pytest.mark.parametrize(
    "value",
    [
        *("0", "-0", "7", "-12", "007", "1_000", "+1", "0.5", "-0.25", ".5", "5.", "1e3", "1E-3"),
        *(
            "1.5e+10",
            "1e",
            "nan",
            "inf",
            "true",
            "null",
            "''",
            "'a b'",
            "'a\\'b'",
            "'${x}'",
            "'$x'",
        ),
        *(
            "a",
            "a-b",
            "1a",
            "1.2.3",
            "--1",
            "1,2",
            "'a','b'",
            "[1]",
            "",
            " 1",
            "1 ",
            "0x10",
            "1.0e5",
        ),
    ],
)
@pytest.mark.parametrize("key", ["a", "++a.b", "+a", "a.b_c.d1", "compute"])
def test_plain_values_are_read_as_hydra_reads_them(key: str, value: str) -> None:
    grammar, word = Grammar(), f"{key}={value}"
    expected = read(OverridesParser.create(), word)
    assert [read(grammar, word), read(grammar, word)] == [expected, expected]


def read(parser: Any, word: str) -> str:
    """Return what a parser makes of a word, all of it; nan is nan."""
    parse = parser.parse if isinstance(parser, Grammar) else parser.parse_override
    try:
        return repr(parse(word))
    except HydraException as error:
        return str(error)


def test_commas_within_something_do_not_part() -> None:
    assert split("a,'b,c',\"d,e\",f(g,h),[i,j],{k:l,m:n}") == [
        *("a", "'b,c'", '"d,e"', "f(g,h)", "[i,j]", "{k:l,m:n}")
    ]
    assert split("it's,fine") == ["it's", "fine"]
