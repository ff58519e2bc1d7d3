"""One command of a program: its arguments and a settings file become settings, and its result becomes printed text."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import tyro

from stream.errors import ReportedError
from stream.host import completion
from stream.host.home import expanded, with_home
from stream.host.program import Result, Stop
from stream.host.settings_file import SettingsFile, SettingsFileError, config_of, present_name

PRESET = "preset"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command and its settings.

    The settings are a frozen dataclass whose fields become flags, explained by their docstrings. With a true field `json` the
    figures of the result are printed instead of its text.
    """

    run: Callable[[Any, Stop], Result]
    settings: Any
    """The dataclass of its settings. A union of dataclasses makes each of them a subcommand; the first one is the default."""
    description: str
    config_file: bool = False
    """Whether the command reads `--config FILE`. Its settings then have a field `config`, and every field has a default."""
    presets: Mapping[str, Any] = field(default_factory=dict)
    """Settings to begin from, by the name that `--preset` gives; the first one is the default. If it is empty, there is no
    `--preset`."""
    check: Callable[[Any], object] = lambda _settings: None
    """Raises ValueError for settings that cannot be used."""
    inline: Collection[str] = ()
    """Names of fields that are dataclasses, and whose own fields stand in the same table of the file."""
    old_names: Mapping[str, str] = field(default_factory=dict)
    """Field names of earlier versions, each with its present name. They still work as flags and in files."""

    def execute(self, words: Sequence[str], prog: str, stop: Stop) -> Result:
        """Run the command with these command-line arguments and return its result.

        prog: the name of the program in --help. stop: ends the command early. Raises ReportedError, OSError or ValueError.
        """
        settings = with_home(self.parse(words, prog))
        result = self.run(settings, stop)
        if getattr(settings, "json", False) and result.figures is not None:
            return replace(result, text=json.dumps(result.figures))
        return result

    def parse(self, words: Sequence[str], prog: str = "") -> Any:
        """Return the settings that these command-line arguments make.

        A flag wins over the settings file, the file over the preset, and the preset over the defaults. Raises ReportedError or
        ValueError for a setting that cannot be used. tyro ends the process for an unknown flag and for --help.
        """
        words = [self._renamed(word) for word in words]
        if kinds := get_args(self.settings):
            if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
                words = [kinds[0].__name__.lower(), *words]
            return tyro.cli(self.settings, prog=prog, args=words, description=self.description, default=kinds[0]())
        preset, words = self._preset(words)
        path = config_of(words) if self.config_file else None
        path = None if path is None else expanded(path)
        file = None if path is None else SettingsFile.read(path, self.old_names)
        if self.presets and preset is None:
            first = next(iter(self.presets))
            preset = first if file is None else file.choice(PRESET, self.presets, first)
        default = self._default(preset) if file is None else self._over(self._default(preset), file)
        settings = tyro.cli(self.settings, prog=prog, args=words, description=self._help(preset), default=default)
        self.check(settings)
        return settings

    def options(self, name: str) -> completion.Options:
        """Return the flags and choices that the shell completes. name: of this command."""
        if kinds := get_args(self.settings):
            return {name: [kind.__name__.lower() for kind in kinds], **completion.options(kinds[0])}
        if not self.presets:
            return completion.options(self.settings)
        return {f"--{PRESET}": list(self.presets), **completion.options(self._default(next(iter(self.presets))))}

    def _default(self, preset: str | None) -> Any:
        if preset is not None:
            return self.presets[preset]
        return self.settings() if self.config_file else tyro.MISSING_NONPROP

    def _over(self, default: Any, file: SettingsFile) -> Any:
        """Return the defaults, replaced by the values in the file.

        Raises SettingsFileError if these settings cannot be used.
        """
        try:
            settings = file.over(default, inline=self.inline, other_keys=(PRESET,) if self.presets else ())
            self.check(settings)
        except SettingsFileError:
            raise
        except (ReportedError, ValueError) as error:
            raise SettingsFileError(f"{file.path}: {error}") from error
        return settings

    def _help(self, preset: str | None) -> str:
        if preset is None:
            return self.description
        return f"{self.description}\n\n--{PRESET} {{{','.join(self.presets)}}} (now {preset}) sets the defaults below."

    def _preset(self, words: list[str]) -> tuple[str | None, list[str]]:
        """Return the preset that the arguments name, and the arguments without it."""
        for index, word in enumerate(words if self.presets else ()):
            if word == f"--{PRESET}" or word.startswith(f"--{PRESET}="):
                name = word.partition("=")[2] or (words[index + 1] if index + 1 < len(words) else "")
                if name not in self.presets:
                    raise SettingsFileError(f"--{PRESET} must be one of {', '.join(self.presets)}, got {name!r}")
                return name, words[:index] + words[index + (1 if "=" in word else 2) :]
        return None, words

    def _renamed(self, word: str) -> str:
        """Return the argument; if it is a flag with an old name, return it with the present name."""
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or not self.old_names:
            return word
        name = present_name(flag.removeprefix("--").replace("-", "_"), self.old_names)
        return f"--{name.replace('_', '-')}{equals}{value}"
