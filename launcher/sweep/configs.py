"""Configurations of one Hydra application that differ in little, each equal to what Hydra composes.

Why Hydra's own code applies the overrides: what it means to override a value is its business. We
leave out what is the same for every point: to find, read and merge the files. Whatever goes wrong
here is done again by Hydra alone, whose result, or error, counts.

Why the last step keeps one tree: of two points with the same keys only values differ. They are set
in the tree, typed as Hydra has them, and what interpolates is resolved anew; the rest is shared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import ValueType
from omegaconf import AnyNode, Container, DictConfig, ListConfig, OmegaConf

from launcher.config import container
from launcher.sweep.parse import Grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hydra.core.override_parser.types import Override

_Path = tuple[Any, ...]
_FRAMES = 64  # kept at once: each has a whole configuration


class RefusedError(Exception):
    """Hydra's code refused an override; ``args``: among which group options, which, and why."""


class _UnusualError(Exception):
    """The fast way does not cover this; another one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """An override that was read; ``place`` is the same for those that differ in a leaf only."""

    override: Override
    text: str
    group: bool  # it chooses a file
    place: tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class _Frame:
    """The last configuration with these overrides' keys, as a tree and as plain values."""

    tree: DictConfig
    values: dict[str, Any]
    texts: list[str]  # of the overrides, as ``values`` have them
    interpolating: list[_Path]
    untyped: dict[int, bool] = field(default_factory=dict)  # by the override's number
    leaves: dict[tuple[int, str], Any] = field(default_factory=dict)  # by that and the text


class FastConfigs:
    """Configurations of one Hydra application, by overrides in Hydra's grammar.

    ``compose`` is Hydra's way, ``is_group`` tells whether a key names a config group.
    """

    def __init__(
        self, compose: Callable[[list[str]], DictConfig], is_group: Callable[[str], bool]
    ) -> None:
        self.grammar = Grammar()
        self._compose = compose
        self._is_group = is_group
        self._words: dict[str, _Word] = {}
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._frames: dict[tuple[Any, ...], _Frame | None] = {}  # the latest come last

    def config(self, words: Sequence[str]) -> DictConfig:
        """Return the configuration; raise what Hydra raises when it cannot be composed."""
        try:
            return self.tree(words)
        except Exception:  # noqa: BLE001 - whatever it is: Hydra has the last word
            return self._compose(list(words))

    def container(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the configuration as plain values, resolved; raise as config.container does.

        Parts of it are those of other results: they must not be changed.
        """
        try:
            return self.values(words)
        except Exception:  # noqa: BLE001 - as above
            return container(self._compose(list(words)))

    def tree(self, words: Sequence[str]) -> DictConfig:
        """Return the configuration without Hydra; raise anything where only Hydra can tell."""
        return self._applied(*self._split(words))

    def values(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the plain values without Hydra; raise anything where only Hydra can tell."""
        groups, values = self._split(words)
        key = (groups, *[each.place for each in values])
        if key not in self._frames:
            frame = self._frame(groups, values)
        else:
            frame = self._frames.pop(key)  # and not back if this fails: it is half changed then
            if frame is not None:
                self._update(frame, values)
        self._frames[key] = frame
        if len(self._frames) > _FRAMES:
            del self._frames[next(iter(self._frames))]
        return container(self._applied(groups, values)) if frame is None else frame.values

    def _split(self, words: Sequence[str]) -> tuple[tuple[str, ...], list[_Word]]:
        """Return the overrides that choose files, and those of values; in their order."""
        known = [self._words.get(text) or self._word(text) for text in words]
        groups = tuple([each.text for each in known if each.group])
        return groups, [each for each in known if not each.group]

    def _word(self, text: str) -> _Word:
        override = self.grammar.parse(text)
        if override.value_type not in (None, ValueType.ELEMENT):
            raise _UnusualError("a sweep")
        if override.is_hydra_override() or override.package is not None:
            raise _UnusualError("Hydra's own configuration, or a package")
        value = override.value()
        group = not isinstance(value, dict) and self._is_group(override.key_or_group)
        place = (override.type.name, override.key_or_group, None if _is_leaf(value) else text)
        self._words[text] = _Word(override=override, text=text, group=group, place=place)
        return self._words[text]

    def _applied(self, groups: tuple[str, ...], values: Sequence[_Word]) -> DictConfig:
        if groups not in self._bases:
            self._bases[groups] = self._compose(list(groups))
        tree = copy.deepcopy(self._bases[groups])
        for each in values:
            try:
                ConfigLoaderImpl._apply_overrides_to_config([each.override], tree)  # noqa: SLF001
            except Exception as error:
                raise RefusedError(groups, each.text, f"{error} {error.__cause__}") from error
        return tree

    def _frame(self, groups: tuple[str, ...], values: Sequence[_Word]) -> _Frame | None:
        """Return the frame of such points; None where values may mean more than a leaf each."""
        tree = self._applied(groups, values)
        keys = [each.override.key_or_group for each in values]
        nested = any(a != b and b.startswith((f"{a}.", f"{a}[")) for a in keys for b in keys)
        if nested or len({*keys}) < len(keys) or any(each.override.is_delete() for each in values):
            return None
        paths = list(_interpolating(tree))
        if any(isinstance(_at(tree, path), Container) for path in paths):
            return None
        texts = [each.text for each in values]
        return _Frame(tree=tree, values=container(tree), texts=texts, interpolating=paths)

    def _update(self, frame: _Frame, values: Sequence[_Word]) -> None:
        """Set what differs from the frame's last point: leaves all, as they are at one place."""
        top = frame.values
        for number, word in enumerate(values):
            if word.text != frame.texts[number]:
                path = tuple(word.override.key_or_group.split("."))
                top = _with(top, path, self._leaf(frame, number, word, path))
                frame.texts[number] = word.text
        if top is not frame.values and frame.interpolating:
            OmegaConf.clear_cache(frame.tree)  # it knows a resolver's arguments as texts only
            for path in frame.interpolating:
                top = _with(top, path, _plain_leaf(_at(frame.tree, path)))
        frame.values = top

    def _leaf(self, frame: _Frame, number: int, word: _Word, path: _Path) -> Any:
        """Return what becomes of an override's value at its place."""
        known, value = (number, word.text), word.override.value()
        if number not in frame.untyped:
            node = _at(frame.tree, path[:-1])._get_node(path[-1])  # noqa: SLF001 - as it is
            frame.untyped[number] = type(node) is AnyNode and not frame.interpolating
        if frame.untyped[number]:
            return value  # nothing converts it, and nothing is made from it
        if frame.interpolating or known not in frame.leaves:
            key, added = word.override.key_or_group, word.override.is_force_add()
            OmegaConf.update(frame.tree, key, value, force_add=added)
            frame.leaves[known] = _plain_leaf(_at(frame.tree, path))
        return frame.leaves[known]


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
