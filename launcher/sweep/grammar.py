"""An override as it was typed after -m -> what it stands for: one value, several, or an interval.

Why the text between commas is kept: a point is what a person would type for that run alone, and
``1e-3`` must reach the script as ``1e-3`` there too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep, Transformer
from hydra.errors import HydraException

from launcher import app, overrides
from launcher.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from hydra.core.override_parser.types import Override

_SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\s*\(.*\)", re.DOTALL)
_OPEN, _CLOSE = "[{(", "]})"
_BEGIN = _OPEN + ",:="  # a quote after one of these begins a quoted text
MANY = 1_000_000  # more values, or points, are a slip of the finger

# An override of a point, and of one that varies its key and its value's text.
Cell = tuple[str, "tuple[str, str] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Numbers from ``low`` to ``high``, to be drawn from."""

    low: float
    high: float
    log: bool  # drawn evenly in the logarithm
    whole: bool  # integers

    def drawn(self, chance: random.Random) -> str:
        """Return the text of a number drawn from it; six digits where these lie within."""
        low, high = self.low, self.high
        if self.whole:
            low, high = math.ceil(low), math.floor(high)
        if self.log:
            value = math.exp(chance.uniform(math.log(low), math.log(high)))
        elif self.whole:
            value = chance.randint(int(low), int(high))
        else:
            value = chance.uniform(low, high)
        value = min(max(value, low), high)
        if self.whole:
            return str(round(value))
        short = f"{value:.6g}"
        return short if low <= float(short) <= high else repr(float(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An override as it was typed, and what it stands for: ``key`` is with its mark."""

    word: str
    key: str
    choices: tuple[str, ...] = ()  # texts; (): it does not vary
    interval: Interval | None = None
    shuffled: bool = False  # the choices are yet to be

    @property
    def name(self) -> str:
        """Return the key without its mark."""
        return self.key.lstrip("+~")

    @property
    def varies(self) -> bool:
        """Return whether points differ in it."""
        return self.interval is not None or bool(self.choices)

    def cells(self) -> list[Cell]:
        """Return the override with each of its choices; ConfigError where they are not finite."""
        if self.interval is not None:
            raise ConfigError(
                f"{self.word}: an interval has no list of values",
                hint="Say how many points are drawn from it: sweep.samples=50",
            )
        return [self.cell(text) for text in self.choices] or [(self.word, None)]

    def cell(self, text: str) -> Cell:
        """Return the override with one choice."""
        return f"{self.key}={text}", (self.name, text)


def axes(request: app.Request, words: Sequence[str]) -> list[Axis]:
    """Return what each override stands for; one that varies gives way to a later of its key."""
    found: list[Axis] = []
    varying: dict[str, int] = {}  # where each is
    for word in words:
        axis = _axis(request, word)
        refuse_sweep(axis.name, word, varies=axis.varies)
        if axis.key.startswith("~"):
            varying.clear()  # what is taken away must have been there
        place = varying.pop(axis.name, len(found))
        found[place : place + 1] = [axis]
        if axis.varies:
            varying[axis.name] = place
    return found


def is_sweep(value: str) -> bool:
    """Return whether ``value`` is more than one."""
    return len(split(value)) > 1 or _SWEEP.fullmatch(value.strip()) is not None


def refuse_sweep(key: str, word: str, *, varies: bool) -> None:
    """Refuse values of ``key`` that differ from point to point, if it says how points are made."""
    section, _, rest = key.partition(".")
    if section != "sweep" or not varies:
        return
    _, _, swept = rest.partition("params.")
    raise ConfigError(
        f"{word}: how a sweep is made cannot be swept",
        hint=f"{swept}=... itself can be." if swept else f"For a list: {key}=[...].",
    )


def _axis(request: app.Request, word: str) -> Axis:
    mark, key, value = overrides.parts(word)
    key = mark + key
    if value is None or mark == "~":
        return Axis(word=word, key=key)
    texts = split(value)
    inner = re.fullmatch(r"choice\s*\((.*\S.*)\)\s*", value, re.DOTALL)
    if inner and len(texts) == 1:
        texts = split(inner[1])
    if inner or len(texts) > 1:
        return Axis(word=word, key=key, choices=_checked(word, texts))
    try:
        return _parsed(request, word, key)
    except ConfigError:
        raise
    except (HydraException, ValueError) as error:
        if not _SWEEP.fullmatch(value.strip()):
            return Axis(word=word, key=key)  # text, or no override at all: composing it tells
        reason = str(error).strip().rpartition("\n")[2]
        raise ConfigError(
            f"{word}: not a sweep: {reason}",
            hint="a,b,c  range(1,10)  interval(0,1)  glob(*)  sort(b,a)  shuffle(a,b); "
            "a text goes between quotes of its own: key='\"range(a)\"'.",
        ) from error


def _checked(word: str, texts: list[str]) -> tuple[str, ...]:
    """Return the choices; ConfigError when one of them is none."""
    for text in texts:
        if not text:
            hint = "Leave the comma out; '' is an empty text."
            raise ConfigError(f"{word}: there is nothing beside a comma", hint=hint)
        if _SWEEP.fullmatch(text):
            hint = "Write all values out; a text goes between quotes of its own."
            raise ConfigError(f"{word}: {text} is a sweep within a sweep", hint=hint)
    return tuple(texts)


def _parsed(request: app.Request, word: str, key: str) -> Axis:
    """Return what Hydra's grammar reads; raise what it raises."""
    parsed = OverridesParser.create().parse_override(word)
    value: Any = parsed.value()
    if not parsed.is_sweep_override():
        return Axis(word=word, key=key)
    if isinstance(value, IntervalSweep):
        return Axis(word=word, key=key, interval=_interval(word, value))
    shuffled = bool(getattr(value, "shuffle", False))
    if isinstance(value, Glob):
        options = app.group_options(request, parsed.key_or_group, ObjectType.CONFIG)
        choices = value.filter(options)
    else:
        if isinstance(value, RangeSweep):
            _check_range(value)
        value.shuffle = False  # ours is the same each time
        choices = _as_typed(word, parsed)
    if not choices:
        raise ConfigError(f"{word}: it has no values", hint="A point needs one of each.")
    return Axis(word=word, key=key, choices=tuple(choices), shuffled=shuffled)


def _check_range(given: RangeSweep) -> None:
    """Raise ValueError where Hydra would list values for ever."""
    start, stop, step = (float(each or 0) for each in (given.start, given.stop, given.step))
    if not step:
        raise ValueError("its step is 0")
    if not (stop - start) / step <= MANY:
        raise ValueError(f"it has more than {MANY} values")


def _interval(word: str, given: IntervalSweep) -> Interval:
    low, high, whole = given.start, given.end, "int" in given.tags
    whole = whole or (isinstance(low, int) and isinstance(high, int))
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        low, high = 1.0, 0.0
    if low > high or (whole and math.ceil(low) > math.floor(high)):
        raise ConfigError(f"{word}: there is nothing in it", hint="interval(0.1,1): from, to.")
    if "log" in given.tags and low <= 0:
        raise ConfigError(f"{word}: a logarithm needs an interval above 0")
    return Interval(low=low, high=high, log="log" in given.tags, whole=whole)


def _as_typed(word: str, parsed: Override) -> list[str]:
    """Return the choices that Hydra lists, each as it was typed: ``1e-3``, which it has as 0.001.

    What it computed itself was not typed, and is as it writes it.
    """
    parser = OverridesParser.create()
    typed: dict[str, str] = {}
    inner = word[word.rfind("(") + 1 :].partition(")")[0]
    for text in split(inner) if parsed.is_choice_sweep() else ():
        try:
            typed.setdefault(Transformer.str(parser.parse_rule(text, "element")), text)
        except HydraException:
            continue  # reverse=true, or part of something else
    return [typed.get(each, each) for each in parsed.sweep_string_iterator()]


def split(text: str) -> list[str]:
    """Return what stands between the commas of ``text``, less those in quotes and brackets."""
    parts, depth, quote, begin = [], 0, "", 0
    place, before = 0, ","  # the last letter that is no space
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1  # the next one means itself
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and before in _BEGIN:
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[begin:place].strip())
            begin = place + 1
        before = before if letter.isspace() else letter
        place += 1
    return [*parts, text[begin:].strip()]
