"""The state directory: one process at a time, an identity that stays, and a copy that is known for one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from poller.machine import boot
from poller.worker import state
from poller.worker.state import StateDirectory, StateTaken, default_directory


def identity_of(path: Path) -> tuple[str, bool]:
    state = StateDirectory(path)
    state.release()
    return state.identity, state.is_copy


def test_one_process_holds_it_at_a_time_and_is_named(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "w1")
    with pytest.raises(StateTaken, match=f"in use by process {os.getpid()}; give this worker its own"):
        StateDirectory(tmp_path / "w1")
    state.release()
    StateDirectory(tmp_path / "w1").release()


def test_an_identity_stays_with_its_directory(tmp_path: Path) -> None:
    first = identity_of(tmp_path / "w1")
    assert identity_of(tmp_path / "w1") == first
    assert identity_of(tmp_path / "w2")[0] != first[0]
    assert first[1] is False


def test_a_directory_that_was_moved_is_no_copy(tmp_path: Path) -> None:
    first = identity_of(tmp_path / "w1")
    (tmp_path / "w1").rename(tmp_path / "moved")
    assert identity_of(tmp_path / "moved") == first


def test_a_copy_is_known_for_one_until_it_is_settled(tmp_path: Path) -> None:
    identity, _ = identity_of(tmp_path / "w1")
    shutil.copytree(tmp_path / "w1", tmp_path / "copy")
    assert identity_of(tmp_path / "copy") == (identity, True)
    state = StateDirectory(tmp_path / "copy")
    state.settle()
    state.release()
    assert identity_of(tmp_path / "copy") == (identity, False)
    assert identity_of(tmp_path / "w1") == (identity, False)


def test_an_identity_that_a_power_cut_emptied_is_made_anew(tmp_path: Path) -> None:
    before, _ = identity_of(tmp_path / "w1")
    (tmp_path / "w1" / "identity").write_text("")
    identity, is_copy = identity_of(tmp_path / "w1")
    assert (len(identity), is_copy) == (len(before), False)
    assert identity != before


def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    StateDirectory(tmp_path / "w1").release()
    assert (tmp_path / "w1").stat().st_mode & 0o777 == 0o700


def test_a_place_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        StateDirectory(tmp_path / "file" / "w1")


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"STATE_DIRECTORY": "/var/lib/poller"}, "/var/lib/poller/w1"),
        ({"STATE_DIRECTORY": "/var/lib/poller:/var/lib/other", "XDG_STATE_HOME": "/x"}, "/var/lib/poller/w1"),
        ({"XDG_STATE_HOME": "/home/me/state"}, "/home/me/state/poller/w1"),
        ({}, str(Path.home() / ".local/state/poller/w1")),
    ],
)
def test_without_a_setting_it_is_where_such_things_belong(environ: dict[str, str], where: str) -> None:
    assert str(default_directory("w1", environ)) == where


def test_the_kernel_names_its_present_life_alike_each_time() -> None:
    assert boot() == boot()


def test_a_copy_with_the_same_inode_number_is_known_by_machine_and_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, is_copy = identity_of(tmp_path / "w1")
    assert not is_copy
    place = state._place_of(tmp_path / "w1" / "identity")
    for part, changed in ((1, "0" * 32), (3, "99")):
        there = [*place[:part], changed, *place[part + 1 :]]
        monkeypatch.setattr(state, "_place_of", lambda _, there=there: there)
        assert identity_of(tmp_path / "w1") == (identity, True)


def test_a_device_that_is_numbered_anew_at_a_boot_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity, _ = identity_of(tmp_path / "w1")
    place = state._place_of(tmp_path / "w1" / "identity")
    monkeypatch.setattr(state, "_place_of", lambda file: [str(file.stat().st_ino), place[1], "another-life", "99"])
    assert [identity_of(tmp_path / "w1") for _ in range(2)] == [(identity, False)] * 2


def test_a_file_system_without_a_device_tells_nothing_by_its_number() -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc, whose file system has no device")
    assert state._place_of(Path("/proc/self/status"))[3] == "-"
