"""Secrets: where a setting names a file or a command that holds its value. Never says a value.

A secret is written as KEY, KEY_file or KEY_command; one of them.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from poller.config.sources.file import at_home
from poller.config.sources.known import FORMS
from poller.config.sources.problems import Problem, dotted

if TYPE_CHECKING:
    from collections.abc import Collection

    from poller.config.sources.known import Key, Known
    from poller.config.sources.layers import Given, Layer

SECRET_COMMAND_TIMEOUT_S: Final = 10  # a password store answers at once, or waits for a person who isn't there
SECRET_LIMIT_BYTES: Final = 64 * 1024  # no secret is longer; /dev/zero is


class _NoSecretError(Exception):
    """A secret's file or command gave none; the message says why, without a value."""


def bases_of(layer: Layer, known: Known) -> set[Key]:
    """The secrets that a layer gives, in whatever form."""
    return {base for key in layer if (base := known.secret_of(key)) is not None}


UNREAD: Final = "(not read)"
"""Stands for a secret that nobody needs now."""


def with_secrets(layer: Layer, known: Known, problems: list[Problem], unread: Collection[str] = ()) -> Layer:
    """The layer with each `KEY_file` and `KEY_command` replaced by the KEY that it stands for.

    Those of the sections `unread` are not looked at: their files need not be there.
    """
    rest = dict(layer)
    for base in sorted(bases_of(layer, known), key=str):
        forms = [(*base[:-1], f"{base[-1]}{form}") for form in FORMS]
        written = [(form, rest.pop(form)) for form in forms if form in rest]
        if len(written) > 1:
            message = "give only one of " + ", ".join(str(form[-1]) for form, _ in written)
            problems.append(Problem(written[-1][1].where, dotted(base), message))
        else:
            ((form, given),) = written
            try:
                is_needed = base[0] not in unread or form == base
                rest[base] = given._replace(value=_secret_of(forms.index(form), given) if is_needed else UNREAD)
            except _NoSecretError as error:
                problems.append(Problem(given.where, dotted(form), str(error)))
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
        text = raw.decode("utf-8-sig").rstrip("\r\n")
        if text and len(raw) <= SECRET_LIMIT_BYTES:
            return text
        raise _NoSecretError(f"{origin}: {'too long for a secret' if text else 'empty'}")
    raise _NoSecretError(f"{origin}: not UTF-8 text")
