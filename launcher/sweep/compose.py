"""The configurations of a sweep's points, by the thousand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf import OmegaConf

from launcher import app, config, overrides
from launcher.errors import ConfigError
from launcher.sweep.configs import FastConfigs, RefusedError

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Composer:
    """The configurations of a sweep's points."""

    def __init__(self, request: app.Request) -> None:
        """Take what all points have in common; overrides of ``request`` are not looked at."""
        self._request = request
        self._words: dict[str, str] = {}
        self._groups: dict[str, bool] = {}
        self._refused: dict[tuple[Any, ...], ConfigError] = {}
        self._fast: FastConfigs | None = None
        if not request.values and request.recorded is None:
            self._fast = FastConfigs(self._compose, self._is_group)

    def values(self, words: tuple[str, ...]) -> dict[str, Any]:
        """Return the resolved configuration of a point; raise ConfigError where there is none.

        Parts of it are those of other points: they must not be changed.
        """
        if self._fast is None:
            return config.plain(self._slowly(words))
        try:
            return self._fast.values([self._readable(word, self._fast) for word in words])
        except Exception:  # noqa: BLE001 - the next way tells what is wrong
            return config.plain(self._tree(words, self._fast))

    def settings(self, words: tuple[str, ...]) -> dict[str, Any]:
        """Return the section ``sweep`` of a point, which need not be complete otherwise."""
        found = self._slowly(words)
        section = OmegaConf.to_container(found.sweep, resolve=True, enum_to_str=True)
        return {str(key): value for key, value in dict(section).items()}  # type: ignore[arg-type]

    def _tree(self, words: tuple[str, ...], fast: FastConfigs) -> DictConfig:
        """Return the configuration; what was refused before is refused in the same words."""
        try:
            return fast.tree([self._readable(word, fast) for word in words])
        except RefusedError as error:
            if error.args not in self._refused:
                try:
                    return self._slowly(words)
                except ConfigError as told:
                    self._refused[error.args] = told
            known = self._refused[error.args]
        except Exception:  # noqa: BLE001 - Hydra has the last word
            return self._slowly(words)
        raise ConfigError(known.message, hint=known.hint)

    def _slowly(self, words: tuple[str, ...]) -> DictConfig:
        return app.compose(replace(self._request, overrides=words))

    def _readable(self, word: str, fast: FastConfigs) -> str:
        """Return the override as Hydra reads it; one that it cannot read is text."""
        if word not in self._words:
            readable = overrides.readable(word)
            app.check(readable, self._request)
            try:
                fast.grammar.parse(readable)
            except HydraException:
                readable = overrides.as_text(readable) or readable
            self._words[word] = readable
        return self._words[word]

    def _is_group(self, key: str) -> bool:
        if "." in key:  # groups within groups have slashes
            return False
        if key not in self._groups:
            folder = Path(self._request.config_dir or "conf") / key  # an empty one is a group too
            options = app.group_options(self._request, key)
            self._groups[key] = bool(options) or folder.is_dir()
        return self._groups[key]

    def _compose(self, words: list[str]) -> DictConfig:
        return app.by_hydra(self._request, words)
