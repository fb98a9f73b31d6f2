"""Fast composition: equal to Hydra's on every point, whatever the configuration and overrides."""

from __future__ import annotations

import copy
import enum
import os
import string
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import MISSING, OmegaConf

from launcher import app, config
from launcher.errors import ConfigError
from launcher.sweep.compose import Composer
from launcher.sweep.configs import FastConfigs
from launcher.sweep.parse import Grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from omegaconf import DictConfig

    from tests.conftest import Project


class Colour(enum.Enum):
    red = 1
    blue = 2


@dataclass
class Typed:
    """Leaves of each type that OmegaConf knows."""

    number: int = 1
    ratio: float = 0.5
    flag: bool = False
    text: str = "a"
    maybe: int | None = None
    colour: Colour = Colour.red
    numbers: list[int] = field(default_factory=lambda: [1, 2])
    table: dict[str, int] = field(default_factory=dict)
    anything: Any = None
    needed: int = MISSING


ConfigStore.instance().store(name="tests_typed", node=Typed)

LEAVES = (
    *("a", "b", "a.x", "a.y", "db.port", "db.host", "typed.number", "typed.ratio", "typed.flag"),
    *("typed.text", "typed.maybe", "typed.colour", "typed.numbers", "typed.table", "typed.table.k"),
    *("typed.anything", "typed.needed", "typed.nothing", "free.p", "free.q.r", "unknown"),
)
TEXTS = (
    *("1", "0.1", "1e-3", "true", "null", "word", "'a b'", "red", "green", "[1,2]", "[]", "{k: 1}"),
    *("???", "'${a}'", "${a}", "${typed.number}", "'3'", "-1", "nan", "'${oc.env:HOME}'", "''"),
)
MARKS = ("", "", "", "+", "++", "++", "~")
GROUPS = (
    "db=one",
    "db=two",
    "model=deep",
    "+model=deep",
    "~db",
    "db=three",
    "model=flat",
    "db=null",
)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str]:
    """Return the files of a configuration: their names and YAML."""
    values = st.sampled_from(
        [1, 0.5, True, None, "text", "${b}", "${.y}", "${db.port}", "p-${b}", [1, "${b}"], "???"]
    )
    leaves = {"x": draw(values), "y": draw(st.sampled_from([2, "why", [1], None]))}
    top: dict[str, Any] = {"a": leaves, "b": draw(st.sampled_from([7, "b", "${typed.number}"]))}
    top["free"] = draw(st.sampled_from([{}, {"p": 1}, {"q": {"r": "${a}"}}, {"q": {"r": 2}}]))
    defaults: list[Any] = [{"tests_typed@typed": None}]
    defaults = ["/tests_typed@typed", draw(st.sampled_from([{"db": "one"}, {"db": "two"}]))]
    if draw(st.booleans()):
        defaults.append({"model": "deep"})
    defaults.insert(draw(st.integers(0, len(defaults))), "_self_")
    top = {"defaults": defaults, **top}
    one = {"port": draw(st.sampled_from([1, "${b}"])), "host": "h1"}
    two = {"defaults": ["one", "_self_"], "port": 2, "extra": draw(values)}
    deep: dict[str, Any] = {"depth": 3, "of": "${db.host}"}
    if draw(st.booleans()):
        deep["defaults"] = [{"override /db": "two"}, "_self_"]
    flat = "# @package _global_\nb: flat\nmodel:\n  depth: 1\n"
    files = {"main": top, "db/one": one, "db/two": two, "model/deep": deep}
    return {name: yaml.safe_dump(text, sort_keys=False) for name, text in files.items()} | {
        "model/flat": flat
    }


def overrides() -> st.SearchStrategy[list[str]]:
    values = st.builds(
        lambda mark, key, text: f"{mark}{key}" if mark == "~" else f"{mark}{key}={text}",
        st.sampled_from(MARKS),
        st.sampled_from(LEAVES),
        st.sampled_from(TEXTS),
    )
    likely = st.sampled_from(["typed.needed=1", "a.x=3", "b=4", "++free.p=0.5", "typed.ratio=2"])
    return st.lists(st.one_of(likely, values, likely, st.sampled_from(GROUPS)), max_size=4)


@contextmanager
def written(folder: Path, files: dict[str, str]) -> Iterator[None]:
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with initialize_config_dir(str(folder), version_base="1.3"):
        yield


def outcome(make: Any) -> Any:
    """Return what was made, or that it cannot be; of our own errors also what they say."""
    try:
        return make()
    except ConfigError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - Hydra's errors are of many kinds
        return type(error)


def same(left: Any, right: Any) -> bool:
    """Return whether two results are equal, in type and order too; nan is nan."""
    return repr(left) == repr(right)


def hydra(name: str = "main") -> Callable[[list[str]], DictConfig]:
    """Return Hydra's own way; what it has composed once, or refused, it gives again."""
    known: dict[tuple[str, ...], Any] = {}

    def by_hydra(words: list[str]) -> DictConfig:
        key = tuple(words)
        if key not in known:
            try:
                known[key] = compose(name, overrides=words)
            except Exception as error:  # noqa: BLE001 - to be raised again
                known[key] = error
        if isinstance(known[key], Exception):
            raise known[key]
        return copy.deepcopy(known[key])

    return by_hydra


# LAUNCHER_TEST_CASES=5 tries five times as many.
CASES = settings(
    max_examples=40 * int(os.environ.get("LAUNCHER_TEST_CASES", "1")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@CASES
@given(files=trees(), rows=st.lists(overrides(), min_size=3, max_size=12))
def test_every_point_is_what_hydra_composes(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str], rows: list[list[str]]
) -> None:
    with written(tmp_path_factory.mktemp("conf"), files):
        by_hydra = hydra()
        fast = FastConfigs(by_hydra, lambda key: key in ("db", "model"))
        for row in rows:
            expected = outcome(lambda row=row: by_hydra(row))
            got = outcome(lambda row=row: fast.config(row))
            assert same(got, expected), row
            expected = outcome(lambda row=row: config.container(by_hydra(row)))
            got = outcome(lambda row=row: fast.container(row))
            assert same(got, expected), row


SCALARS = ("1", "0.1", "1e-3", "true", "null", "word", "'a b'", "red", "-1", "nan", "'3'")


@CASES
@given(
    files=trees(),
    keys=st.lists(st.sampled_from(LEAVES), min_size=1, max_size=3, unique=True),
    marks=st.lists(st.sampled_from(["", "++"]), min_size=3, max_size=3),
    rows=st.lists(
        st.lists(st.sampled_from(SCALARS), min_size=3, max_size=3), min_size=4, max_size=10
    ),
)
def test_points_that_differ_in_values_only(
    tmp_path_factory: pytest.TempPathFactory,
    files: dict[str, str],
    keys: list[str],
    marks: list[str],
    rows: list[tuple[str, ...]],
) -> None:
    """The way that most points take, one tree for all; results that were given stay as they are."""
    with written(tmp_path_factory.mktemp("conf"), files):
        by_hydra = hydra()
        fast = FastConfigs(by_hydra, lambda key: key in ("db", "model"))
        given_out = []
        for row in rows:
            words = ["typed.needed=1"] if "typed.needed" not in keys else []
            words += [f"{m}{k}={v}" for m, k, v in zip(marks, keys, row, strict=False)]
            expected = outcome(lambda words=words: config.container(by_hydra(words)))
            got = outcome(lambda words=words: fast.container(words))
            assert same(got, expected), words
            given_out.append((got, repr(got)))
        assert all(repr(got) == text for got, text in given_out)


# ------------------------------------------------------------------ the launcher's own

OWN = (
    "entry_script=train.py",
    "script_params.lr=1e-3",
    "script_params.b=[1,2]",
    "script_params.name=a=b",
    "nodes=2",
    "nodes=x",
    "compute=slurm",
    "compute.partition=a",
    "compute.max_restarts=1",
    "environment=gpu",
    "environment.torch=torch==2.12.0",
    "environment.provision=venv",
    "environment.provision=nonsense",
    "dist=mpi",
    "dist.mca.a=1",
    "env.A=1,2",
    "data.d.path=/tmp",
    "script_params.d='${data:d}'",
    "script_params.n=${nodes}",
    "script_params.u=http://a?b=[c",
    r"script_params.e='\\${nodes}'",
    "name=a",
    "nmae=a",
    "~script_params.lr",
    "hydra.job.name=x",
    "sweep.samples=3",
)


OWN_BY_HYDRA = hydra("launcher_config")


@settings(CASES, max_examples=CASES.max_examples // 3)
@given(rows=st.lists(st.lists(st.sampled_from(OWN), max_size=5), min_size=2, max_size=4))
def test_the_launchers_own_configuration(
    monkeypatch: pytest.MonkeyPatch, rows: list[list[str]]
) -> None:
    # Of many examples, each asks Hydra for much the same.
    monkeypatch.setattr(app, "hydra_compose", lambda _, overrides: OWN_BY_HYDRA(overrides))
    composer = Composer(app.Request())
    for row in rows:
        words = ("entry_script=train.py", *row)
        expected = outcome(lambda w=words: config.plain(app.compose(app.Request(overrides=w))))
        assert same(outcome(lambda w=words: composer.values(w)), expected), words


def test_an_experiment_of_the_users_own(project: Project) -> None:
    project.write("conf/experiment/a.yaml", "# @package _global_\nnodes: 3\n")
    project.write("conf/experiment/b.yaml", "# @package _global_\nscript_params: {lr: 0.5}\n")
    composer = Composer(app.Request())
    for name, lr in (("a", 1), ("b", 2), ("a", 3)):
        words = ("entry_script=t.py", f"experiment={name}", f"script_params.x={lr}")
        expected = config.plain(app.compose(app.Request(overrides=words)))
        assert same(composer.values(words), expected)
    with pytest.raises(ConfigError, match="experiment=c: there is no such option"):
        composer.values(("entry_script=t.py", "experiment=c"))


def test_a_text_that_the_grammar_cannot_read_is_composed_fast_too() -> None:
    composer = Composer(app.Request())
    assert composer._fast is not None
    for n in range(3):
        words = ("entry_script=t.py", "script_params.u=http://a?b=[c", f"nodes={n}")
        readable = [composer._readable(word, composer._fast) for word in words]
        values = composer._fast.values(readable)  # raises where it is left to Hydra
        assert same(values, config.plain(app.compose(app.Request(overrides=words))))


def test_the_order_of_arguments_is_the_order_of_overrides() -> None:
    composer = Composer(app.Request())
    for letters in (string.ascii_lowercase[:5], "edcba"):
        words = ("entry_script=t.py", *(f"script_params.{each}=1" for each in letters))
        assert list(composer.values(words)["script_params"]) == list(letters)


def counted(tree: dict[str, Any]) -> tuple[FastConfigs, list[list[str]]]:
    """Return configurations of an application without files, and what Hydra was asked."""
    calls: list[list[str]] = []

    def by_hydra(words: list[str]) -> DictConfig:
        calls.append(words)
        if words:
            raise ValueError("Hydra refuses it")
        return OmegaConf.create(tree)

    return FastConfigs(by_hydra, lambda _: False), calls


def test_a_tree_with_everything_is_never_composed_twice() -> None:
    fast, calls = counted({"a": 1, "b": "${a}"})
    assert [fast.container([f"a={n}"]) for n in range(5)] == [{"a": n, "b": n} for n in range(5)]
    assert calls == [[]]


def test_lists_and_dicts_that_vary_are_not_hydras_work_either() -> None:
    fast, calls = counted({"a": [0], "d": {"x": 0}, "b": 0})
    for a in ([1], [1, {"k": 2}]):
        for y in (3, 4):
            for n in range(3):
                words = [f"a={a}".replace("'", ""), f"++d={{y: {y}}}", f"b={n}"]
                assert fast.container(words) == {"a": a, "d": {"x": 0, "y": y}, "b": n}
    assert calls == [[]]


def test_a_point_that_cannot_be_leaves_the_others_fast() -> None:
    fast, calls = counted({"typed": OmegaConf.structured(Typed(needed=1)), "b": "${typed.number}"})
    for n in range(4):
        assert fast.container([f"typed.number={n}"])["b"] == n
        with pytest.raises(ValueError, match="Hydra refuses it"):
            fast.container([f"typed.number=x{n}"])
    assert calls == [[], *([f"typed.number=x{n}"] for n in range(4))]


def test_a_resolver_that_remembers_is_asked_anew_for_each_point() -> None:
    OmegaConf.register_new_resolver("tests_double", lambda n: 2 * n, use_cache=True, replace=True)
    fast, _ = counted({"a": 0, "b": "${tests_double:${a}}"})
    assert [fast.container([f"a={n}"])["b"] for n in range(3)] == [0, 2, 4]


def test_more_kinds_of_points_than_are_kept() -> None:
    fast, _ = counted({"a": 0, "b": 0})
    for n in (*range(200), *range(200)):
        assert fast.container([f"a=[{n}]", f"b={n}"]) == {"a": [n], "b": n}


def test_an_escaped_interpolation_stays_text() -> None:
    fast, calls = counted({"a": "\\${x}", "b": 0})
    assert [fast.container([f"b={n}"])["a"] for n in range(3)] == ["${x}"] * 3
    assert calls == [[]]


def test_what_is_refused_is_told_of_each_point() -> None:
    composer = Composer(app.Request())
    for lr in (1, 2):
        for wrong in ("nodes=x", "compute.nmae=a", "environment.provision=nonsense"):
            words = ("entry_script=t.py", f"script_params.lr={lr}", wrong)
            with pytest.raises(ConfigError) as expected:
                app.compose(app.Request(overrides=words))
            with pytest.raises(ConfigError) as failed:
                composer.values(words)
            assert str(failed.value) == str(expected.value)
        assert composer.values(words[:2])["script_params"] == {"lr": lr}


VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.from_regex(r"[+-]?[0-9_]{0,4}\.?[0-9_]{0,4}([eE][+-]?[0-9_]{0,3})?", fullmatch=True),
    st.text(alphabet="'\"\\\\ $a1,{}\t\n=:é", max_size=6).map(lambda text: f"'{text}'"),
    st.sampled_from(["null", "True", "nan", "-inf", "a", "a-b", "1a", "'a b'", "0x1", "00", ""]),
)
KEYS = st.sampled_from(["a", "a.b", "++a.b_c", "+a", "~a", "a/b@c", "a.0", "a[0]", "a-b", "1.a"])


@settings(CASES, max_examples=1000)
@given(words=st.lists(st.builds("{}={}".format, KEYS, VALUES), max_size=3))
def test_plain_overrides_are_read_as_hydras_parser_reads_them(words: list[str]) -> None:
    grammar, parser = Grammar(), OverridesParser.create()
    for word in (*words, *words):
        expected = outcome(lambda word=word: parser.parse_override(word))
        assert same(outcome(lambda word=word: grammar.parse(word)), expected), word
