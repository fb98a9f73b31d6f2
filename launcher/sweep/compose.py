"""Thousands of configurations that differ in little, each equal to what Hydra composes.

Why Hydra's own code applies the overrides: what it means to override a value is its business. We
leave out what is the same for every point: to find, read and merge the files. Whatever goes wrong
here is done again by Hydra alone, whose result, or error, counts.

Why the last step keeps one tree: of two points with the same keys only values differ. They are set
in the tree, typed as Hydra has them, and what interpolates is resolved anew; the rest is shared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import ValueType
from hydra.errors import OverrideParseException
from omegaconf import Container, DictConfig, ListConfig, OmegaConf

from launcher import app, config, overrides
from launcher.sweep.parse import Grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydra.core.override_parser.types import Override

_Path = tuple[Any, ...]


class _UnusualError(Exception):
    """The fast way does not cover this; another one does."""


@dataclass(slots=True, kw_only=True)
class _Frame:
    """The last configuration with these overrides' keys, as a tree and as plain values."""

    tree: DictConfig
    values: dict[str, Any]
    texts: list[str]  # of the overrides, as they are set in the tree
    resolved: list[_Path] = field(default_factory=list)  # what interpolates


class FastConfigs:
    """Configurations of one Hydra application, by overrides in Hydra's grammar.

    ``compose`` is Hydra's way, ``is_group`` tells whether a key names a config group.
    """

    def __init__(
        self, compose: Callable[[list[str]], DictConfig], is_group: Callable[[str], bool]
    ) -> None:
        self._compose = compose
        self._is_group = is_group
        self.grammar = Grammar()
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._frames: dict[tuple[Any, ...], _Frame | None] = {}

    def config(self, words: Sequence[str]) -> DictConfig:
        """Return the configuration; raise what Hydra raises when it cannot be composed."""
        try:
            return self._applied(*self._split(words))
        except Exception:  # noqa: BLE001 - whatever it is: Hydra has the last word
            return self._compose(list(words))

    def container(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the configuration as plain values, resolved; raise as ``plain`` below does.

        Parts of it are those of other results: they must not be changed.
        """
        try:
            groups, values = self._split(words)
            key = (groups, *((each.type, each.key_or_group) for each in values))
            if key not in self._frames:
                self._frames[key] = self._frame(groups, values)
            frame = self._frames[key]
            if frame is None:
                return plain(self._applied(groups, values))
            self._frames[key] = None  # until all went well
            self._update(frame, values)
            self._frames[key] = frame
        except Exception:  # noqa: BLE001 - as above
            return plain(self._compose(list(words)))
        return frame.values

    def _split(self, words: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Return the overrides that choose files, and those of values; in their order."""
        parsed = [self.grammar.parse(word) for word in words]
        groups = [each for each in parsed if self._chooses(each)]
        values = [each for each in parsed if not self._chooses(each)]
        return tuple(str(each.input_line) for each in groups), values

    def _chooses(self, override: Override) -> bool:
        if override.value_type not in (None, ValueType.ELEMENT):
            raise _UnusualError("a sweep")
        if override.is_hydra_override() or override.package is not None:
            raise _UnusualError("Hydra's own configuration, or a package")
        is_dict = isinstance(override.value(), dict)
        return not is_dict and self._is_group(override.key_or_group)

    def _applied(self, groups: tuple[str, ...], values: Sequence[Override]) -> DictConfig:
        if groups not in self._bases:
            self._bases[groups] = self._compose(list(groups))
        tree = copy.deepcopy(self._bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config(list(values), tree)  # noqa: SLF001
        return tree

    def _frame(self, groups: tuple[str, ...], values: Sequence[Override]) -> _Frame | None:
        """Return the frame of such points; None where values may mean more than a leaf each."""
        tree = self._applied(groups, values)
        keys = [each.key_or_group for each in values]
        nested = any(a != b and b.startswith((f"{a}.", f"{a}[")) for a in keys for b in keys)
        if nested or len({*keys}) < len(keys) or any(each.is_delete() for each in values):
            return None
        interpolating = list(_interpolating(tree))
        if any(isinstance(_at(tree, path), Container) for path in interpolating):
            return None
        texts = [str(each.input_line) for each in values]
        return _Frame(tree=tree, values=plain(tree), texts=texts, resolved=interpolating)

    def _update(self, frame: _Frame, values: Sequence[Override]) -> None:
        """Set what differs from the frame's last point."""
        top = frame.values
        for place, override in enumerate(values):
            text = str(override.input_line)
            if text == frame.texts[place]:
                continue
            before = self.grammar.parse(frame.texts[place]).value()
            value = override.value()
            if not (_is_leaf(before) and _is_leaf(value)):
                raise _UnusualError(text)
            key = override.key_or_group
            OmegaConf.update(frame.tree, key, value, force_add=override.is_force_add())
            frame.texts[place] = text
            path = tuple(key.split("."))
            top = _with(top, path, _plain_leaf(_at(frame.tree, path)))
        if top is not frame.values:
            for path in frame.resolved:
                top = _with(top, path, _plain_leaf(_at(frame.tree, path)))
        frame.values = top


class Composer:
    """The configurations of a sweep's points."""

    def __init__(self, request: app.Request) -> None:
        """Take what all points have in common; overrides of ``request`` are not looked at."""
        self._request = request
        self._words: dict[str, str] = {}
        self._groups: dict[str, bool] = {}
        self._fast: FastConfigs | None = None
        if not request.values and request.recorded is None:
            self._fast = FastConfigs(self._compose, self._is_group)

    def values(self, words: tuple[str, ...]) -> dict[str, Any]:
        """Return the resolved configuration of a point; raise ConfigError where there is none.

        Parts of it are those of other points: they must not be changed.
        """
        if self._fast is not None:
            try:
                return self._fast.container([self._readable(word, self._fast) for word in words])
            except Exception:  # noqa: BLE001, S110 - the plain way tells what is wrong
                pass
        return config.plain(app.compose(replace(self._request, overrides=words)))

    def settings(self, words: tuple[str, ...]) -> dict[str, Any]:
        """Return the section ``sweep`` of a point, which need not be complete otherwise."""
        found = app.compose(replace(self._request, overrides=words))
        section = OmegaConf.to_container(found.sweep, resolve=True, enum_to_str=True)
        return {str(key): value for key, value in dict(section).items()}  # type: ignore[arg-type]

    def _readable(self, word: str, fast: FastConfigs) -> str:
        """Return the override as Hydra reads it; one that it cannot read is text."""
        if word not in self._words:
            readable = overrides.readable(word)
            app.check(readable, self._request)
            try:
                fast.grammar.parse(readable)
            except OverrideParseException:
                readable = overrides.as_text(readable) or readable
            self._words[word] = readable
        return self._words[word]

    def _is_group(self, key: str) -> bool:
        if "." in key:  # groups within groups have slashes
            return False
        if key not in self._groups:
            self._groups[key] = bool(app.group_options(self._request, key))
        return self._groups[key]

    def _compose(self, words: list[str]) -> DictConfig:
        return app.by_hydra(self._request, words)


def plain(tree: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, resolved, enums by name."""
    values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True, enum_to_str=True)
    return {str(key): value for key, value in dict(values).items()}  # type: ignore[arg-type]


def _is_leaf(value: Any) -> bool:
    """Return whether ``value`` is one plain value, and means itself."""
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or isinstance(value, (bool, int, float))


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Container):
        raise _UnusualError("a value that became a container")
    return value


def _at(tree: Any, path: _Path) -> Any:
    """Return what lies at ``path``, resolved."""
    for key in path:
        tree = tree[key]
    return tree


def _with(values: Any, path: _Path, leaf: Any) -> Any:
    """Return ``values`` with another leaf; what is not on the way to it is shared."""
    if not path:
        return leaf
    first, *rest = path
    changed = copy.copy(values)
    changed[first] = _with(values[first], tuple(rest), leaf)
    return changed


def _interpolating(node: Any, path: _Path = ()) -> Iterator[_Path]:
    """Yield where in a tree a value is made from others."""
    keys: Any = range(len(node)) if isinstance(node, ListConfig) else list(node.keys())
    for key in keys:
        child = node._get_node(key)  # noqa: SLF001 - the only way to a node as it is
        if child._is_interpolation() or "${" in str(child._value()):  # noqa: SLF001
            if isinstance(child, Container) and not child._is_interpolation():  # noqa: SLF001
                yield from _interpolating(child, (*path, key))
            else:
                yield (*path, key)
        elif isinstance(child, Container) and not child._is_none():  # noqa: SLF001
            yield from _interpolating(child, (*path, key))
