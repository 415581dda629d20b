"""The files of a row: those that came with it, shared ones, and those that lie below a directory.

Rule 1. A path leads below `[attachments] directory` and nowhere else: it is relative, has no `..`, and no link in it is
        followed, whatever is changed on disk meanwhile.
Rule 2. A shared file is fetched once for many messages: what was used last is kept, MOST_KEPT bytes at most.
Rule 3. What can't be read through no fault of the row (the directory is away, the disk fails) raises NotNow; all else
        that is wrong with a file is Unsendable.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from poller.message.characters import shown
from poller.message.draft import Attachment, NotNow, TooLarge, Unsendable
from poller.message.settings import AttachmentSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST_KEPT: Final = 32 * 1024 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENAMETOOLONG, errno.EACCES)
"""Said of a path: the row is to blame, or who put the file there."""
_NONE: Final = AttachmentSettings()


@dataclass(kw_only=True, slots=True)
class Files:
    """`fetch` gives the content of a shared file by its hash; None: there is none, or it is damaged."""

    fetch: Callable[[str], bytes | None]
    settings: AttachmentSettings = _NONE
    _kept: dict[str, bytes] = field(default_factory=dict)

    def of(self, found: Iterable[Mapping[str, Any]]) -> tuple[Attachment, ...]:
        """The attachments of a row, as the outbox tells of them. Raises Unsendable, NotNow."""
        return tuple([self._attachment(file) for file in found])

    def _attachment(self, file: Mapping[str, Any]) -> Attachment:
        self.require_type(file["content_type"])
        content = self._content(file)
        self.require_size(file["name"], len(content))
        return Attachment(
            name=file["name"],
            content_type=file["content_type"],
            content=content,
            content_id=file["content_id"],
            is_alternative=file.get("part") == "alternative",
        )

    def _content(self, file: Mapping[str, Any]) -> bytes:
        if file.get("blob_sha256"):
            return self._shared(file["blob_sha256"])
        if file.get("path"):
            return self._read(file["path"])
        return file["content"] or b""

    def require_type(self, content_type: str) -> None:
        """Raise Unsendable unless `[attachments] types` lets it go."""
        kind = re.split(r"[; ]", content_type, maxsplit=1)[0].lower()
        allowed = {kind, kind.partition("/")[0] + "/*"}
        if self.settings.types and not allowed & {name.lower() for name in self.settings.types}:
            raise Unsendable("attachments", f"{shown(kind)} is no type that may be sent ([attachments] types)")

    def require_size(self, name: str, size: int) -> None:
        """Raise TooLarge if it is larger than `[attachments] max_size`."""
        if size > self.settings.max_size:
            reason = f"{shown(name)} has {size:,} bytes, more than the {self.settings.max_size:,} of"
            raise TooLarge("attachments", f"{reason} [attachments] max_size; send less, or raise it")

    def _shared(self, sha256: str) -> bytes:
        """Rule 2. Taken out and put in again, it is the last to go."""
        content = self._kept.pop(sha256, None)
        if content is None:
            content = self.fetch(sha256)
        if content is None:
            raise Unsendable("attachments", f"outbox_blob {shown(sha256)} is not what its hash says; share it anew")
        if len(content) <= MOST_KEPT:
            self._kept[sha256] = content
        while sum(map(len, self._kept.values())) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return content

    def _read(self, path: str) -> bytes:
        with os.fdopen(self._opened(path), "rb") as file:
            self.require_size(path, os.fstat(file.fileno()).st_size)
            try:
                return file.read(self.settings.max_size + 1)  # it may grow meanwhile
            except OSError as error:
                raise NotNow("attachments", f"{shown(path)} can't be read: {error.strerror}") from None

    def size_of(self, path: str) -> int:
        """Of a file by path. Raises Unsendable, NotNow."""
        handle = self._opened(path)
        try:
            return os.fstat(handle).st_size
        finally:
            os.close(handle)

    def _opened(self, path: str) -> int:
        """Rule 1: from folder to folder, none of them a link."""
        folders, name = _parts(path)
        here = self._root()
        try:
            for folder in folders:
                there = os.open(folder, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = there
            handle = os.open(name, _FILE, dir_fd=here)
        except OSError as error:
            if error.errno in _ABSENT:
                reason = "is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
                raise Unsendable("attachments", f"{shown(path)}: {reason}; put it there, then: poller retry") from None
            raise NotNow("attachments", f"{shown(path)} can't be read: {error.strerror}") from None
        finally:
            os.close(here)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise Unsendable("attachments", f"{shown(path)} is no file")
        return handle

    def _root(self) -> int:
        if self.settings.directory is None:
            raise Unsendable("attachments", "a path is given and no [attachments] directory is configured")
        try:
            return os.open(self.settings.directory, _DIRECTORY)
        except OSError as error:
            words = f"the directory {self.settings.directory} can't be reached: {error.strerror}"
            raise NotNow("attachments", words) from None


def _parts(path: str) -> tuple[list[str], str]:
    parts = path.split("/")
    if "\0" in path or any(part in {"", ".", ".."} for part in parts):
        reason = "no relative path without . and .. in it; write it like 2026/invoice-17.pdf"
        raise Unsendable("attachments", f"{shown(path)} is {reason}")
    return parts[:-1], parts[-1]
