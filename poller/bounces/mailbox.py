"""Where bounces lie: a Maildir, an mbox, or IMAP. Each gives what is new, and lets it go once it was taken.

Rule 1. A message leaves only when it was taken: moved to `cur` and marked as seen in a Maildir, removed from an mbox,
        marked as seen on an IMAP server. Who is killed between finds it again; news that are known change nothing.
Rule 2. Of a message so much is read as is looked at (`poller.bounces.read.MOST_BYTES`).

Raises MailboxTrouble for what can't be reached or read.
"""

from __future__ import annotations

import imaplib
import mailbox
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from poller.bounces.read import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from urllib.parse import SplitResult

IMAP_TIMEOUT_S: Final = 30.0
IMAPS_PORT: Final = 993


class MailboxTrouble(Exception):  # noqa: N818 - named by what is to blame
    """It can't be reached or read; the text names it and the remedy."""


def waiting(address: str, password: str = "") -> Iterator[bytes]:
    """The messages that are there, one by one; going on with the next says that the last was taken.

    `address` as `[bounces] mailbox` has it.
    """
    kind, _, path = address.partition(":")
    try:
        match kind:
            case "maildir":
                yield from _of_maildir(Path(path))
            case "mbox":
                yield from _of_mbox(path)
            case _:
                yield from _of_imap(urlsplit(address), password)
    except (OSError, mailbox.Error) as error:  # the latter: somebody changed an mbox without its lock
        said = getattr(error, "strerror", None) or str(error)
        raise MailboxTrouble(f"[bounces] {getattr(error, 'filename', None) or address}: {said}") from None


def _of_maildir(path: Path) -> Iterator[bytes]:
    new, cur = path / "new", path / "cur"
    if not new.is_dir():
        raise MailboxTrouble(f"[bounces] {path}: there is no directory new in it")
    for file in sorted(new.iterdir()):
        with file.open("rb") as stream:
            raw = stream.read(MOST_BYTES)
        yield raw
        file.rename(cur / f"{file.name.partition(':')[0]}:2,S")


def _of_mbox(path: str) -> Iterator[bytes]:
    if not Path(path).is_file():
        raise MailboxTrouble(f"[bounces] {path}: there is no such file")
    box = mailbox.mbox(path, create=False)
    try:
        box.lock()
    except mailbox.ExternalClashError:
        raise MailboxTrouble(f"[bounces] {path}: somebody else has locked it; it is looked at again") from None
    try:
        for key in box.keys():  # noqa: SIM118 - it is no mapping
            with box.get_file(key) as stream:
                raw = stream.read(MOST_BYTES)
            yield raw
            box.remove(key)
    finally:
        box.flush()
        box.unlock()
        box.close()


def _of_imap(address: SplitResult, password: str) -> Iterator[bytes]:
    from imap_tools import AND, MailBox  # noqa: PLC0415 - few want it
    from imap_tools.errors import ImapToolsError  # noqa: PLC0415

    user = address.netloc.rpartition("@")[0]
    folder = address.path.lstrip("/") or "INBOX"
    try:
        box = MailBox(address.hostname or "", address.port or IMAPS_PORT, timeout=IMAP_TIMEOUT_S)
        with box.login(user, password, folder):
            for uid in box.uids(AND(seen=False)):
                for message in box.fetch(AND(uid=uid), mark_seen=False):
                    yield bytes(message.obj)[:MOST_BYTES]
                    box.flag(uid, "\\Seen", value=True)
    except (ImapToolsError, imaplib.IMAP4.error) as error:
        words = (str(error).splitlines() or [type(error).__name__])[0][:200].replace(password or "\0", "…")
        raise MailboxTrouble(f"[bounces] {address.hostname}: {words}") from None
