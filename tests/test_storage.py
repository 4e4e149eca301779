"""Files of the cache are believed only where nobody else can have written them, and are written whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from tritonstdp import storage

needs_owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no owners here")


@pytest.fixture
def kept(tmp_path):
    """A file in a folder of the cache."""
    storage.make_private(tmp_path / "cache" / "part")
    path = tmp_path / "cache" / "part" / "file"
    storage.replace_whole(path, b"content")
    return path


def refused(path):
    with pytest.raises(OSError) as caught:
        storage.read_private(path)
    return str(caught.value)


def test_what_is_written_is_read(kept):
    assert storage.read_private(kept) == b"content"
    storage.replace_whole(kept, b"other")
    assert storage.read_private(kept) == b"other"
    assert [path.name for path in kept.parent.iterdir()] == ["file"]


@needs_owners
def test_folders_and_files_are_made_for_nobody_else(kept):
    previous = os.umask(0)
    try:
        storage.make_private(kept.parent.parent / "another")
    finally:
        os.umask(previous)
    for path in (kept, kept.parent, kept.parent.parent, kept.parent.parent / "another"):
        assert path.stat().st_mode & 0o077 == 0


@needs_owners
@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o777])
def test_what_others_may_write_is_refused(kept, level, mode):
    changed = [kept, *kept.parents][level]
    changed.chmod(mode | 0o700)
    assert f"{changed} may be written by other users: run chmod go-w on it" in refused(kept)
    if level:
        with pytest.raises(storage.RefusedError):
            storage.make_private(kept.parent)


@needs_owners
@pytest.mark.parametrize("level", range(3))
def test_what_belongs_to_another_user_is_refused(kept, level, monkeypatch):
    if os.geteuid() == 0:
        os.chown([kept, *kept.parents][level], 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "belongs to another user" in refused(kept)


@needs_owners
def test_the_cache_may_lie_in_a_folder_where_nobody_can_move_what_belongs_to_others(kept):
    if os.geteuid():
        pytest.skip("takes root")
    kept.parent.parent.chmod(0o1777)
    assert storage.read_private(kept) == b"content"


@needs_owners
def test_an_owner_is_asked_of_the_file_that_is_read_and_not_of_its_name(kept, monkeypatch):
    monkeypatch.setattr(
        os, "fstat", lambda descriptor, real=os.fstat: os.stat_result((*real(descriptor)[:4], 12345, *[0] * 5))
    )
    assert f"{kept} belongs to another user" in refused(kept)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_what_is_no_regular_file_is_refused_and_never_waited_for(kept):
    def as_fifo():
        os.mkfifo(kept)

    def as_folder():
        kept.mkdir()

    def as_link():
        kept.symlink_to(kept.with_name("other"))

    storage.replace_whole(kept.with_name("other"), b"content")
    for make in (as_fifo, as_folder, as_link):
        kept.unlink() if not kept.is_dir() else kept.rmdir()
        make()
        begin = time.monotonic()
        refused(kept)
        assert time.monotonic() - begin < 5


def test_no_descriptor_stays_open(kept):
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for level in range(2):
        storage.read_private(kept) if level else refused(kept.parent)
    assert len(os.listdir("/proc/self/fd")) == before if before else True


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(kept, monkeypatch, call):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        storage.replace_whole(kept, b"new")
    assert [path.name for path in kept.parent.iterdir()] == ["file"]
    assert storage.read_private(kept) == b"content"


def test_leftovers_of_killed_writers_are_removed_once_nobody_can_be_writing_them(kept):
    old, young = kept.with_name("tmp-old"), kept.with_name("tmp-young")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    storage.remove_leftovers(kept.parent, "tmp-*")
    assert sorted(path.name for path in kept.parent.iterdir()) == ["file", "tmp-young"]


def test_writers_at_once_leave_one_whole_file(kept):
    contents = [bytes([k]) * 100_000 for k in range(8)]
    writers = [threading.Thread(target=storage.replace_whole, args=(kept, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert storage.read_private(kept) in contents
    assert [path.name for path in kept.parent.iterdir()] == ["file"]


def test_a_warning_is_given_once_a_reason(caplog, monkeypatch):
    monkeypatch.setattr(storage, "_warned", set())
    full = OSError(errno.ENOSPC, "No space left on device")
    for path in ("a", "b"):
        storage.warn_once("nothing is kept", storage.RefusedError(path, "is damaged"))
        storage.warn_once("nothing is kept", full)
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is kept: a is damaged",
        f"nothing is kept: {full}",
    ]


def test_a_home_that_is_not_known_is_no_error(monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", "~nobody-of-that-name/x")
    assert storage.cache_folder("loops").is_absolute()


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "root").mkdir(mode=0o700)
    (tmp_path / "root" / "loops").symlink_to(elsewhere)
    with pytest.raises(storage.RefusedError, match="is no folder"):
        storage.make_private(tmp_path / "root" / "loops")
