"""Compiled loops are loaded from disk only if they are what was written, and a disk that takes none is no error."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import numba
import pytest

from tritonstdp import storage
from tritonstdp.kernels import object_cache
from tritonstdp.kernels.object_cache import Recipe, key_of, load, save

KEY = "0123456789abcdef"


def loop(n):
    return n + 1


@pytest.fixture(scope="module")
def compiled():
    return next(iter(numba.njit("int64(int64)")(loop).overloads.values()))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_warned", set())
    return tmp_path / "cache" / "loops"


@pytest.fixture
def kept(compiled, folder):
    save(KEY, compiled)
    return folder / f"{KEY}.bin"


def test_what_is_kept_is_loaded(kept):
    assert load(KEY).entry_point(41) == 42
    assert load("another") is None


def test_no_flipped_byte_is_loaded(kept, caplog):
    content = kept.read_bytes()
    for position in [*range(120), *range(120, len(content), len(content) // 200), len(content) - 1]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        kept.write_bytes(flipped)
        assert load(KEY) is None, position
    assert 1 <= len(caplog.records) <= 3, "not once a reason"
    assert "compiled anew" in caplog.text
    kept.write_bytes(content)
    assert load(KEY) is not None


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"damaged", b"tritonstdp-loop-2\n", b"\x80\x04K\x01.", b"tritonstdp-loop-1 x y\n"]
)
def test_what_is_no_loop_is_not_unpickled(kept, content, caplog, monkeypatch):
    monkeypatch.setattr(object_cache.pickle, "loads", lambda payload: pytest.fail("unpickled"))
    kept.write_bytes(content)
    assert load(KEY) is None
    assert len(caplog.records) == 1


def test_a_truncated_loop_is_not_loaded(kept):
    kept.write_bytes(kept.read_bytes()[:-1])
    assert load(KEY) is None


def test_a_renamed_loop_does_not_run_as_another(kept, caplog):
    kept.rename(kept.with_name("another.bin"))
    assert load("another") is None
    assert "was kept as another loop" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no owners here")
def test_what_somebody_else_may_have_written_is_not_unpickled(kept, monkeypatch, caplog):
    monkeypatch.setattr(object_cache.pickle, "loads", lambda payload: pytest.fail("unpickled"))
    kept.chmod(0o666)
    for _ in range(2):
        assert load(KEY) is None
    kept.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert load(KEY) is None
    assert len(caplog.records) == 2
    assert "may be written by other users" in caplog.text and "belongs to another user" in caplog.text


def test_loops_that_were_used_longest_ago_make_room(compiled, folder, monkeypatch):
    monkeypatch.setattr(object_cache, "MOST_FILES", 3)
    keys = [f"{k:032x}" for k in range(6)]
    (folder.mkdir(mode=0o700, parents=True), (folder / "not_ours.bin").write_bytes(b"kept"))
    for k, key in enumerate(keys[:5]):
        save(key, compiled)
        os.utime(folder / f"{key}.bin", (time.time() - 1000 + k,) * 2)
        if k:
            load(keys[0])
    assert sorted(path.stem for path in folder.iterdir()) == [keys[0], keys[3], keys[4], "not_ours"]
    size = (folder / f"{keys[0]}.bin").stat().st_size
    monkeypatch.setattr(object_cache, "MOST_BYTES", 2 * size + 100)
    save(keys[5], compiled)
    assert sorted(path.stem for path in folder.iterdir()) == [keys[0], keys[5], "not_ours"]


def test_leftovers_of_killed_writers_are_removed(compiled, folder, kept):
    for name in (f"tmp-{'0' * 32}.bin-1", "tmpthesis.txt"):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (0, 0))
    save("another", compiled)
    assert sorted(path.name for path in folder.iterdir()) == [f"{KEY}.bin", "another.bin", "tmpthesis.txt"]


def full_disk(monkeypatch, folder):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def read_only_folder(monkeypatch, folder):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "mkstemp", refuse)


def unreadable_folder(monkeypatch, folder):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)


def file_in_the_folders_place(monkeypatch, folder):
    folder.parent.mkdir()
    folder.write_text("")


def file_in_the_caches_place(monkeypatch, folder):
    folder.parent.write_text("")


def folder_of_others(monkeypatch, folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def no_current_folder(monkeypatch, folder):
    def gone():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", "relative")
    monkeypatch.setattr(os, "getcwd", gone)


@pytest.mark.parametrize(
    "disturb",
    [
        full_disk, read_only_folder, unreadable_folder, file_in_the_folders_place, file_in_the_caches_place,
        folder_of_others, no_current_folder,
    ],
)  # fmt: skip
def test_a_folder_that_takes_no_loops_is_no_error_and_says_so_once(compiled, folder, monkeypatch, caplog, disturb):
    with monkeypatch.context() as patched:
        disturb(patched, folder)
        for key in ("a", "b"):
            assert load(key) is None
            save(key, compiled)
    messages = [record.getMessage() for record in caplog.records]
    assert 1 <= len(messages) <= 2 and len(set(messages)) == len(messages)
    assert any("compiled loops are not kept" in message for message in messages)
    if folder.is_dir():
        assert not list(folder.iterdir()), "something is left of the attempt"


@pytest.mark.parametrize("option", object_cache._CODE_OPTIONS)
def test_a_loop_compiled_with_other_options_is_another(monkeypatch, option):
    before = key_of(loop, Recipe((loop,), ()))
    assert before == key_of(loop, Recipe((loop,), ()))
    monkeypatch.setattr(numba.config, option, "another")
    assert key_of(loop, Recipe((loop,), ())) != before


def test_an_installation_without_sources_keeps_nothing(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(object_cache, "digest_of", missing)
    assert key_of(loop, Recipe((), ())) is None


def test_the_folder_may_vanish_at_any_time(compiled, folder, kept):
    shutil.rmtree(folder.parent)
    assert load(KEY) is None
    save(KEY, compiled)
    assert load(KEY) is not None
