"""Where settings are written: a TOML file, the environment, and what holds secrets. Standard library only.

Says which value was written where, and what is wrong with the writing: a file that can't be read, a name that no room
knows, a secret that can't be had. What the values mean is the business of `poller.config`, which states the rules.

`read` raises ConfigError when there is no file to go on with; every other problem is collected. Longer than most files,
because it knows four places to read from and each can be wrong in its own ways.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import tomllib
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SYSTEM_CONFIG: Final = Path("/etc/poller/config.toml")
SECRET_COMMAND_TIMEOUT_S: Final = 10  # a password store answers at once, or waits for a person who isn't there
SECRET_LIMIT_BYTES: Final = 64 * 1024  # no secret is longer; /dev/zero is

_PREFIX = "POLLER__"

Key = tuple[str, str]
"""A section and a key in it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it was written, which key, and what to do."""

    where: str
    """`config.toml:12`, `$POLLER__SMTP__PORT`, or `defaults`."""
    key: str
    """`smtp.port`; empty when the file as a whole is meant."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(Exception):
    """The configuration can't be used; `problems` holds every reason, in the order of the file.

    `readable` is the configuration as far as it could be read, a key with a problem at its default; None if not at all.
    """

    def __init__(self, *problems: Problem, readable: Any = None) -> None:
        super().__init__(*problems)
        self.problems = problems
        self.readable = readable

    def concerns(self, section: str) -> bool:
        """Whether a problem lies in this section."""
        return any(problem.key.partition(".")[0] == section for problem in self.problems)

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n  ".join((f"{count} in the configuration:", *map(str, self.problems)))


class Known:
    """The names that may be written, read off the settings of each section.

    A field with `repr=False` is a secret: it may also be written as `KEY_file` or `KEY_command`.
    """

    def __init__(self, sections: Mapping[str, Any]) -> None:
        keys = [(section, item) for section, settings in sections.items() for item in fields(settings)]
        hints = {section: get_type_hints(settings) for section, settings in sections.items()}
        self.sections = tuple(sections)
        self.kinds = {(section, item.name): set(_kinds(hints[section][item.name])) for section, item in keys}
        self.secrets = tuple(
            tuple((section, item.name + form) for form in ("", "_file", "_command"))
            for section, item in keys
            if not item.repr
        )
        self.keys = frozenset(self.kinds).union(*self.secrets)


class Given(NamedTuple):
    """A value as it was written, and what its place implies."""

    value: object
    where: str
    base: Path
    """Where a relative path starts."""
    no_command: str
    """Why a command from here is refused; empty when it is not."""


Layer = dict[Key, Given]


class _File(NamedTuple):
    """A configuration file that was read."""

    path: Path
    tables: dict[str, Any]
    lines: dict[tuple[str, ...], int]
    distrust: str

    @property
    def base(self) -> Path:
        return self.path.absolute().parent

    def where(self, *path: str) -> str:
        return f"{self.path}:{self.lines.get(path) or self.lines.get(path[:1], 1)}"


class Written(NamedTuple):
    """All that was written, with the environment above the file."""

    given: Layer
    problems: list[Problem]
    source: Path | None
    looked: tuple[Path, ...]
    base: Path
    """Where a relative path starts that nobody wrote: a default."""


def read(path: Path | None, environ: Mapping[str, str], known: Known) -> Written:
    """Read `path`, else `$POLLER_CONFIG`, else the usual places, and the environment. Raises ConfigError."""
    file, looked = _find(path, environ)
    problems: list[Problem] = []
    above = _environment_layer(environ, known, problems)
    below = _file_layer(file, known, problems) if file else {}
    for forms in known.secrets:
        if any(form in above for form in forms):
            below = {key: given for key, given in below.items() if key not in forms}
    given = _with_secrets(below, known, problems) | _with_secrets(above, known, problems)
    return Written(given, problems, file.path if file else None, looked, file.base if file else Path())


# ---- the file


def at_home(path: Path) -> Path:
    """`~` written out; a home that nobody knows is left as written, and not found later."""
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def _find(path: Path | None, environ: Mapping[str, str]) -> tuple[_File | None, tuple[Path, ...]]:
    named = "--config" if path else "$POLLER_CONFIG"
    if path is None and environ.get("POLLER_CONFIG"):
        path = Path(environ["POLLER_CONFIG"])
    candidates = (path,) if path else (Path("config.toml"), SYSTEM_CONFIG)
    for number, candidate in enumerate(candidates, 1):
        try:
            return _read(candidate), candidates[:number]
        except OSError as error:
            if path or not isinstance(error, FileNotFoundError | NotADirectoryError):
                where = named if path else "looking for a configuration"
                raise ConfigError(Problem(where, str(candidate), error.strerror or "can't be read")) from None
    return None, candidates


def _read(path: Path) -> _File:
    with at_home(path).open("rb") as stream:
        distrust = _distrust(path, os.fstat(stream.fileno()))
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        return _File(at_home(path), tomllib.loads(text), _lines(text), distrust)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(Problem(f"{path}:{line}", "", "not UTF-8 text")) from None
    except (ValueError, RecursionError) as error:
        reason, _, place = str(error).partition(" (at ")
        told = re.search(r"line (\d+)", place)
        line = int(told[1]) if told else raw.count(b"\n") or 1  # else it is the end that is missing
        raise ConfigError(Problem(f"{path}:{line}", "", f"not TOML: {reason}")) from None


def _distrust(path: Path, status: os.stat_result) -> str:
    if status.st_uid not in {0, os.geteuid()}:
        return f"not run, because {path} belongs to someone else; make it yours or root's (chown)"
    if status.st_mode & 0o022:
        return f"not run, because others can write {path}; chmod go-w {path}"
    return ""


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line of each table and key. tomllib tells none, so each statement is parsed by itself.

    A statement ends at the first line after which it parses: an open string or array does not.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        with suppress(tomllib.TOMLDecodeError):
            paths = list(_paths(tomllib.loads(statement)))
            header = statement.lstrip().startswith("[")
            for path in paths:
                found.setdefault(path if header else table + path, start)
            table = paths[-1] if header else table
            statement, start = "", number + 1
    return found


def _paths(table: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every key of nested tables as a path, the deepest last."""
    for name, value in table.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *path) for path in _paths(value))


# ---- the layers


def _file_layer(file: _File, known: Known, problems: list[Problem]) -> Layer:
    layer: Layer = {}
    for section, table in file.tables.items():
        if section not in known.sections:
            problems.append(Problem(file.where(section), section, _unknown("section", section, known.sections)))
        elif not isinstance(table, dict):
            problems.append(Problem(file.where(section), section, f"a section; write [{section}] and its keys below"))
        else:
            for name, value in table.items():
                given = Given(value, file.where(section, name), file.base, file.distrust)
                _place(layer, (section, name), given, known, problems)
    return layer


def _environment_layer(environ: Mapping[str, str], known: Known, problems: list[Problem]) -> Layer:
    layer: Layer = {}
    for variable in sorted(name for name in environ if name.startswith(_PREFIX)):
        section, _, name = variable.removeprefix(_PREFIX).lower().partition("__")
        text, where = environ[variable], f"${variable}"
        if section not in known.sections:
            problems.append(Problem(where, section, _unknown("section", section, known.sections)))
        elif not text.isascii() and re.search("[\ud800-\udfff]", text):
            problems.append(Problem(where, f"{section}.{name}", "not UTF-8 text"))
        else:
            value = _typed(known.kinds.get((section, name), {str}), text)
            given = Given(value, where, Path(), "not run: a command is honoured only from the configuration file")
            _place(layer, (section, name), given, known, problems)
    return layer


def _place(layer: Layer, key: Key, given: Given, known: Known, problems: list[Problem]) -> None:
    if key in known.keys:
        layer[key] = given
        return
    section, name = key
    message = _unknown("key", name, (other for home, other in known.keys if home == section))
    homes = sorted(home for home, other in known.keys if other == name)
    if homes:
        message = f"unknown key; it belongs in [{homes[0]}]"
    problems.append(Problem(given.where, ".".join(key), message))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f'unknown {what}; did you mean "{near[0]}"?' if near else f"unknown {what}"


def _typed(kinds: set[Any], text: str) -> object:
    """What an environment variable's text means for a field of this type; text that doesn't fit is left to pydantic."""
    if not text and NoneType in kinds:
        return None
    if kinds & {tuple, list, dict}:
        with suppress(ValueError):
            parsed = tomllib.loads(f"value = {text}")
            return parsed["value"] if len(parsed) == 1 else text
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    for number in (int, float):
        if number in kinds:
            with suppress(ValueError):
                return number(text)
    return text


def _kinds(hint: Any) -> Iterator[Any]:
    origin = get_origin(hint)
    if origin in {Union, UnionType}:
        for choice in get_args(hint):
            yield from _kinds(choice)
    else:
        yield origin or hint


# ---- secrets


class _NoSecretError(Exception):
    """A secret's file or command gave none; the message says why, without a value."""


def _with_secrets(layer: Layer, known: Known, problems: list[Problem]) -> Layer:
    """The layer with each `KEY_file` and `KEY_command` replaced by the KEY that it stands for."""
    rest = dict(layer)
    for forms in known.secrets:
        written = [(form, rest.pop(form)) for form in forms if form in rest]
        if len(written) > 1:
            message = "give only one of " + ", ".join(form[1] for form, _ in written)
            problems.append(Problem(written[-1][1].where, ".".join(forms[0]), message))
        elif written:
            ((form, given),) = written
            try:
                rest[forms[0]] = given._replace(value=_secret_of(forms.index(form), given))
            except _NoSecretError as error:
                problems.append(Problem(given.where, ".".join(form), str(error)))
    return rest


def _secret_of(form: int, given: Given) -> object:
    match form:
        case 0:
            return given.value
        case 1:
            return _secret_from_file(given)
        case _:
            return _secret_from_command(given)


def _secret_from_file(given: Given) -> str:
    if not isinstance(given.value, str) or not given.value or "\0" in given.value:
        raise _NoSecretError("must be the path of a file, in quotes")
    path = given.base / at_home(Path(given.value))
    try:
        with path.open("rb") as stream:
            raw = stream.read(SECRET_LIMIT_BYTES + 1)
    except OSError as error:
        raise _NoSecretError(f"{path}: {error.strerror}") from None
    return _secret_text(raw, str(path))


def _secret_from_command(given: Given) -> str:
    if given.no_command:
        raise _NoSecretError(given.no_command)
    argv = given.value
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise _NoSecretError('must be a list of words, such as ["pass", "show", "smtp"]; no shell reads it')
    try:
        done = subprocess.run(  # noqa: S603 - running it is the feature; Rule 4 says whose word it is
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=SECRET_COMMAND_TIMEOUT_S,
            check=False,
            cwd=given.base,
        )
    except OSError as error:
        raise _NoSecretError(f"{argv[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise _NoSecretError(f"{argv[0]}: no answer in {SECRET_COMMAND_TIMEOUT_S}s") from None
    if done.returncode:
        raise _NoSecretError(f"{argv[0]}: ended with status {done.returncode}; run it by hand to see why")
    return _secret_text(done.stdout, argv[0])


def _secret_text(raw: bytes, origin: str) -> str:
    with suppress(UnicodeDecodeError):
        text = raw.decode().rstrip("\r\n")
        if text and len(raw) <= SECRET_LIMIT_BYTES:
            return text
        raise _NoSecretError(f"{origin}: {'too long for a secret' if text else 'empty'}")
    raise _NoSecretError(f"{origin}: not UTF-8 text")
