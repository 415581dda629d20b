"""The file that holds a refresh token: read for each renewal, and replaced as a whole when the provider gives another.

Rule 1. Every reader sees the old one or the new one, also after a power cut: it is written beside it, synced, and
        renamed. Nobody but its owner may read what is written. A symbolic link is followed, and stays.

Raises NoToken, with the remedy.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from poller.smtp.token_answers import NoToken

MOST_BYTES = 16 * 1024
"""Entra's have up to 2 KB."""


def read_refresh_token(path: str) -> str:
    """What the file holds."""
    try:
        with Path(path).open("rb") as stream:
            text = stream.read(MOST_BYTES + 1).decode("ascii").strip()
    except OSError as error:
        raise NoToken(f"[smtp.oauth2] refresh_token_file {path}: {error.strerror}; run: poller login") from None
    except ValueError:
        text = ""
    if not text or len(text) > MOST_BYTES or not text.isprintable() or " " in text:
        raise NoToken(f"[smtp.oauth2] refresh_token_file {path} holds no refresh token; run: poller login")
    return text


def write_refresh_token(path: str, token: str) -> None:
    """Replace it (Rule 1)."""
    real = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(token + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(real)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        _sync(real.parent)
    except OSError as error:
        reason = (
            f"{path}: the new refresh token can't be written: {error.strerror}; make its directory writable for poller"
        )
        raise NoToken(f"[smtp.oauth2] refresh_token_file {reason}") from None


def is_readable_by_others(path: str) -> bool:
    """Whether others than its owner may read it; False if nobody can tell."""
    with contextlib.suppress(OSError):
        return bool(Path(path).stat().st_mode & 0o077)
    return False


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
