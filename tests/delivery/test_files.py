"""The files of a row: nothing above the directory is ever reached, a shared one is fetched once, limits hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from poller.delivery.files import MOST_KEPT, Files
from poller.message.draft import NotNow, TooLarge, Unsendable
from poller.message.settings import AttachmentSettings


def file(**given: Any) -> dict[str, Any]:
    return {"name": "a.pdf", "content_type": "application/pdf", "content_id": None, "content": None, **given}


def below(directory: Path, **settings: Any) -> Files:
    return Files(fetch=lambda _: None, settings=AttachmentSettings(directory=str(directory), **settings))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root" / "2026").mkdir(parents=True)
    (tmp_path / "root" / "2026" / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    (tmp_path / "root" / "inside").symlink_to("2026/a.pdf")
    os.mkfifo(tmp_path / "root" / "pipe")
    return tmp_path / "root"


def test_a_file_below_the_directory_is_read(root: Path) -> None:
    (made,) = below(root).of([file(path="2026/a.pdf")])
    assert (made.name, made.content) == ("a.pdf", b"%PDF")


@pytest.mark.parametrize(
    "path",
    [
        *("../secret", "2026/../../secret", "/etc/passwd", "./2026/a.pdf", "2026//a.pdf", "2026/", "..", "a\0b"),
        *("link", "folder/secret", "inside", "pipe", "2026", "2026/none.pdf", "2026/a.pdf/x", "x" * 5000),
    ],
)
def test_no_path_leads_out_and_each_refusal_names_it(root: Path, path: str) -> None:
    with pytest.raises(Unsendable, match="attachments: ") as refused:
        below(root).of([file(path=path)])
    assert not isinstance(refused.value, NotNow)


def test_a_path_without_a_directory_is_the_rows_fault_and_a_directory_that_is_away_is_not(root: Path) -> None:
    with pytest.raises(Unsendable, match="directory is configured"):
        Files(fetch=lambda _: None).of([file(path="a.pdf")])
    with pytest.raises(NotNow, match="can't be reached"):
        below(root / "gone").of([file(path="a.pdf")])


def open_handles() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list them")
def test_no_handle_stays_open(root: Path) -> None:
    files = below(root)
    before = open_handles()
    for path in ("2026/a.pdf", "link", "folder/secret", "pipe", "2026"):
        for ask in (lambda path=path: files.of([file(path=path)]), lambda path=path: files.size_of(path)):
            try:
                ask()
            except Unsendable:
                continue
    assert open_handles() == before


def test_size_and_type_are_limited_whatever_the_source(root: Path) -> None:
    files = below(root, max_size=3, types=("application/*", "image/png"))
    for source in ({"path": "2026/a.pdf"}, {"content": b"%PDF"}):
        with pytest.raises(TooLarge, match="4 bytes, more than the 3"):
            files.of([file(**source)])
    assert files.of([file(content=b"x"), file(content=b"x", content_type="IMAGE/png; name=x")])
    with pytest.raises(Unsendable, match="text/html"):
        files.of([file(content=b"x", content_type="text/html")])


def test_a_shared_file_is_fetched_once_and_the_longest_unused_goes_first() -> None:
    fetched: list[str] = []

    def fetch(sha256: str) -> bytes | None:
        fetched.append(sha256)
        return None if sha256 == "damaged" else bytes(MOST_KEPT // 2)

    files = Files(fetch=fetch, settings=AttachmentSettings(max_size=MOST_KEPT))
    for name in ("a", "a", "b", "a", "c", "a", "b"):
        (made,) = files.of([file(blob_sha256=name)])
        assert len(made.content) == MOST_KEPT // 2
    assert fetched == ["a", "b", "c", "b"]
    with pytest.raises(Unsendable, match="not what its hash says"):
        files.of([file(blob_sha256="damaged")])
