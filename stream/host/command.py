"""One command of a program: its arguments and a settings file become settings, and its result becomes printed text."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import tyro

from stream.errors import ReportedError
from stream.host import completion
from stream.host.flags import flags_of, help_for, some_of
from stream.host.home import expanded, with_home
from stream.host.program import HELP, HELP_ALL, Result, Stop
from stream.host.settings_file import Elsewhere, SettingsFile, SettingsFileError, config_of, present_name, whose


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
    choices: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Flags that are read before the others, because the settings to begin from depend on them, with values for the Tab key.
    In a file they are keys, or the key `name` in a table that is called so."""
    told: Collection[str] = ()
    """Other settings of which `begin` is told if they are given, dotted."""
    begin: Callable[[Mapping[str, str]], Any] | None = None
    """Returns the settings to begin from, of the choices that are given; without it there are no choices."""
    elsewhere: Elsewhere = lambda _key: ()
    """Returns the values of a choice that have a setting, where the chosen one does not have it."""
    check: Callable[[Any], object] = lambda _settings: None
    """Raises ValueError for settings that cannot be used."""
    inline: Collection[str] = ()
    """Names of fields that are dataclasses, and whose own fields stand in the same table of the file."""
    arrange: Callable[[Sequence[str]], list[str]] = list
    """Returns the arguments in the order in which they can be read."""
    early: Callable[[Any], object] = lambda _settings: None
    """Raises ReportedError or ValueError for settings that cannot be used, before heavy packages are loaded."""
    everyday: Collection[str] = ()
    """Flags that --help shows, where --help-all shows all; with a choice given, --help also shows the flags below the choices."""
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

    def foresee(self, words: Sequence[str], prog: str) -> None:
        """Raise what keeps these arguments from being run, as far as it can be said without heavy packages; show help."""
        self.early(with_home(self.parse(words, prog)))

    def parse(self, words: Sequence[str], prog: str = "") -> Any:
        """Return the settings that these command-line arguments make.

        A flag wins over the settings file, and the file over the settings to begin from. Raises ReportedError or
        ValueError for a setting that cannot be used. tyro ends the process for an unknown flag and for --help.
        """
        words = [self._renamed(word) for word in self.arrange(words)]
        if not self.everyday:
            words = hiding_nothing(words)
        if kinds := get_args(self.settings):
            if not words or (words[0].startswith("-") and words[0] not in HELP):
                words = [kinds[0].__name__.lower(), *words]
            return read(self.settings, words, prog, kinds[0](), self.description)
        path = config_of(words) if self.config_file else None
        path = None if path is None else expanded(path)
        file = None if path is None else SettingsFile.read(path, self.old_names, self.elsewhere)
        given, words = self._given(words)
        default = self._default({} if file is None else file.words((*self.choices, *self.told)), given, file)
        if self.everyday and HELP.intersection(words):
            self._show_help(words, prog, default, bool(given.keys() & self.choices.keys()))
        self._refuse_those_of_others(words, default)
        settings = read(self.settings, words, prog, default, self._help())
        self.check(settings)
        return settings

    def _refuse_those_of_others(self, words: Sequence[str], default: Any) -> None:
        """Raise ReportedError for a flag that another choice would have; tyro only says that there is none."""
        flags = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")]
        if below := [flag for flag in flags if "." in flag and flag.partition(".")[0] in self.choices]:
            known = {flag.name for flag in flags_of(default)}
            for flag in (one for one in below if one not in known):
                table, *names = flag.replace("-", "_").split(".")
                if hint := whose([table], self.elsewhere((table, *names)), f"--{table} {{}}"):
                    raise ReportedError(f"there is no --{flag}: {hint}")

    def options(self, name: str) -> completion.Options:
        """Return the flags and choices that the shell completes. name: of this command."""
        if kinds := get_args(self.settings):
            return {name: [kind.__name__.lower() for kind in kinds], **completion.options(kinds[0])}
        if self.begin is None:
            return completion.options(self.settings)
        choices = {f"--{name}": list(values) for name, values in self.choices.items()}
        more = {"--help-all": ()} if self.everyday else {}
        return {**choices, **completion.options(self.begin({})), **more}

    def _show_help(self, words: Sequence[str], prog: str, default: Any, chosen: bool) -> None:
        """Print the help and end the process, as tyro does."""
        if HELP_ALL in words:
            read(self.settings, ["--help"], prog, default, self._help())
        below = tuple(f"{name}." for name in self.choices) if chosen else ()
        some = some_of(default, lambda name: name.replace("-", "_") in self.everyday or name.startswith(below))
        more = f"{self._help()} {HELP_ALL} shows all settings."
        tyro.cli(some, prog=prog, args=["--help"], description=more)

    def _default(self, in_file: Mapping[str, str], given: Mapping[str, str], file: SettingsFile | None) -> Any:
        """Return the settings to begin from, replaced by the values in the file.

        Raises SettingsFileError if the settings in the file cannot be used.
        """
        if file is None:
            return self._begun(given)
        try:
            begun = self._begun({**in_file, **given})
            settings = file.without(self.choices).over(begun, inline=self.inline)
            self.check(settings)
        except SettingsFileError:
            raise
        except (ReportedError, ValueError) as error:
            raise SettingsFileError(f"{file.path}: {error}") from error
        return settings

    def _begun(self, given: Mapping[str, str]) -> Any:
        if self.begin is not None:
            return self.begin(given)
        return self.settings() if self.config_file else tyro.MISSING_NONPROP

    def _help(self) -> str:
        flags = " ".join(f"--{name} {{{','.join(values)}}}" for name, values in self.choices.items())
        return f"{self.description}\n\n{flags}: these choose the settings below." if flags else self.description

    def _given(self, words: list[str]) -> tuple[dict[str, str], list[str]]:
        """Return the values of choices and of what `begin` is told, and the arguments without the choices."""
        given: dict[str, str] = {}
        rest: list[str] = []
        at = 0
        while at < len(words):
            flag, equals, value = words[at].partition("=")
            name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
            taken = 1
            if name in self.choices or name in self.told:
                taken = 1 if equals else 2
                given[name] = value if equals else words[at + 1] if at + 1 < len(words) else ""
            rest += [] if name in self.choices else words[at : at + taken]
            at += taken
        return given, rest

    def _renamed(self, word: str) -> str:
        """Return the argument; if it is a flag with an old name, return it with the present name."""
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or not self.old_names:
            return word
        name = present_name(flag.removeprefix("--").replace("-", "_"), self.old_names)
        return f"--{name.replace('_', '-')}{equals}{value}"


def read(
    settings: Any, words: Sequence[str], prog: str, default: Any = tyro.MISSING_NONPROP, description: str | None = None
) -> Any:
    """Return the settings that these arguments make, as `tyro.cli` does; with --help in them, print it and end the process."""
    if HELP.intersection(words) and not get_args(settings):
        settings, default = help_for(settings, default), tyro.MISSING_NONPROP
    return tyro.cli(settings, prog=prog, args=words, description=description, default=default)


def hiding_nothing(words: Sequence[str]) -> list[str]:
    """Return the arguments with --help in the place of --help-all, for a command whose --help hides nothing."""
    return ["--help" if word == HELP_ALL else word for word in words]
