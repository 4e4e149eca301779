"""The cache is the old or the new one whenever a writer dies, and loses nothing that several processes add."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tritonstdp import storage
from tritonstdp.autotune import cache

DEVICE = "Some CPU, 2 threads"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(storage, "_warned", set())
    storage.make_private(tmp_path / "tuning")


def entry(synapses=4**8, device=DEVICE, config=None, **key):
    fields = dict(
        rule="stdp", topology="dense", backend="cpu", positive_bound="soft_bound", negative_bound="no_bound",
        clamp=False, dtype="float32", synapses=synapses, rate=None, device=device, driver="llvmlite 1",
        torch="2", triton="3", numba="0", source="ab", space="cd",
    )  # fmt: skip
    return cache.Entry(cache.Key(**{**fields, **key}), config or {"rows": 32}, {"speedup": 1.25})


def test_what_is_saved_is_loaded_and_is_readable(tmp_path):
    cache.save([entry(), entry(synapses=4**9)])
    path = cache.path_of(DEVICE)
    assert path.parent == tmp_path / "tuning"
    assert cache.load(path) == {e.key: e for e in (entry(), entry(synapses=4**9))}
    first = json.loads(path.read_text())["entries"][0]
    assert first["rule"] == "stdp" and first["config"] == {"rows": 32} and first["synapses"] == 65536
    assert set(first) == {*cache.Key._fields, "config", "measured"}


def test_each_device_has_its_file():
    cache.save([entry(), entry(device="NVIDIA H100")])
    assert len(cache.load(cache.path_of("NVIDIA H100"))) == len(cache.load(cache.path_of(DEVICE))) == 1
    assert len(cache.load_all()) == 2


def test_saving_adds_to_what_is_there_and_replaces_the_same_key():
    cache.save([entry(), entry(synapses=4**9)])
    cache.save([entry(config={"rows": 8}), entry(synapses=4**10)])
    found = cache.load(cache.path_of(DEVICE))
    assert len(found) == 3
    assert found[entry().key].config == {"rows": 8}


def with_field(name, value):
    """A file in which one value of an entry is another one."""
    item = {**entry().key._asdict(), "config": {"rows": 32}, "measured": {"speedup": 1.25}}
    return json.dumps({"format": cache.FORMAT, "entries": [{**item, name: value}]}).encode()


WRONG: dict[str, list] = {
    **{name: [3, None, [], {}, "a\nb", "x" * 300, "\ud800"] for name in ("rule", "device", "source")},
    "rate": ["2", 2, 0, -0.1, True, [], float("nan"), float("inf"), 10**400],
    "synapses": ["64", 64.0, -1, 2**63, True, None, []],
    "clamp": [0, "false", None],
    "config": [None, [], "rows", {"rows": [1]}, {"rows": {}}, {"rows": 10**400}, {"rows": "\n"}],
    "measured": [None, [], {"speedup": "fast"}, {"spread": -1}, {"speedup": None}, {"x": float("inf")}],
}
DAMAGED = [
    b"", b"{", b"\xff\xfe", b"[]", b"null", b"3", b'"entries"', b'{"format": 2}', b'{"format": 2, "entries": {"a": 1}}',
    b'{"format": 2, "entries": [{"rule": "stdp"}]}', b'{"format": 2, "entries": [3]}', b'{"format": 2, "entries": 3}',
    b'{"format": 2, "entries": [[]]}', b"[" * 100_000, b'{"a":' * 100_000, b'{"format": 2, "entries": [NaN]}',
    b'{"format": ' + b"9" * 5000 + b"}",
    *(with_field(name, value) for name, values in WRONG.items() for value in values),
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[-60:]))
def test_a_damaged_file_is_a_warning_until_the_next_writer_sets_it_aside(tmp_path, caplog, content):
    path = cache.path_of(DEVICE)
    path.write_bytes(content)
    assert cache.load(path) == cache.load(path) == {}
    [warning] = caplog.records
    assert "is damaged" in warning.getMessage() and "defaults" in warning.getMessage()
    assert "\n" not in warning.getMessage() and len(warning.getMessage()) < 1000
    assert path.read_bytes() == content, "a reader has written"
    cache.save([entry()])
    [aside] = (tmp_path / "tuning").glob("*.aside-*.json")
    assert aside.read_bytes() == content
    assert list(cache.load(path)) == [entry().key]
    assert len(cache.load_all()) == 1, "what was set aside is not read again"


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[-60:]))
def test_a_damaged_file_is_not_imported(tmp_path, content):
    path = tmp_path / "exported"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no exported settings") as caught:
        cache.import_(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert cache.load_all() == []


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("rate", "2", "rate is '2', not a fraction above 0 and up to 1"),
        ("synapses", "64", "synapses is '64', not a whole number"),
    ],
)
def test_what_is_wrong_is_said_by_name(tmp_path, field, value, what):
    path = tmp_path / "exported"
    path.write_bytes(with_field(field, value))
    with pytest.raises(ValueError, match=what):
        cache.import_(path)


@pytest.mark.parametrize("number", [1, 3])
def test_settings_of_another_release_are_set_aside_without_alarm(tmp_path, caplog, number):
    caplog.set_level(logging.INFO, "tritonstdp")
    path = cache.path_of(DEVICE)
    path.write_text(json.dumps({"format": number, "entries": []}))
    assert cache.load(path) == cache.load(path) == {}
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert f"is of format {number}" in caplog.text
    cache.save([entry()])
    assert list(cache.load(path)) == [entry().key]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def as_folder(path):
    path.mkdir()


def as_fifo(path):
    os.mkfifo(path)


def as_link(path):
    path.symlink_to("nowhere")


def as_a_file_of_everybody(path):
    path.write_bytes(with_field("rule", "stdp"))
    path.chmod(0o666)


def as_a_file_of_another(path):
    if os.geteuid():
        pytest.skip("takes root")
    path.write_bytes(with_field("rule", "stdp"))
    os.chown(path, 12345, -1)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are neither owners nor FIFOs here")
@pytest.mark.parametrize("put", [as_folder, as_fifo, as_link, as_a_file_of_everybody, as_a_file_of_another])
def test_what_is_no_file_of_this_user_is_a_warning_and_never_waited_for(caplog, put):
    path = cache.path_of(DEVICE)
    put(path)
    found = []
    reader = threading.Thread(target=lambda: found.append(cache.load(path)), daemon=True)
    reader.start()
    reader.join(10)
    assert found == [{}]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert cache.load_all() == []
    cache.save([entry()])
    assert list(cache.load(path)) == [entry().key]


def test_a_file_that_may_not_be_read_is_a_warning(monkeypatch, caplog):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert cache.load(cache.path_of(DEVICE)) == {}
    assert "Permission denied" in caplog.text


def test_a_cache_that_is_no_folder_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path / "file"))
    assert cache.load(cache.path_of(DEVICE)) == {}
    assert cache.load_all() == [] and cache.clear() == 0
    assert len(caplog.records) == 1
    with pytest.raises(OSError):
        cache.save([entry()])


def test_readers_do_not_wait_for_a_lock_and_writers_give_up(monkeypatch):
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    cache.save([entry()])
    path = cache.path_of(DEVICE)
    with FileLock(path.with_suffix(".lock")):
        begin = time.monotonic()
        assert len(cache.load(path)) == 1
        path.write_bytes(b"{")
        assert cache.load(path) == {}
        assert time.monotonic() - begin < 5
        with pytest.raises(OSError, match="is held by another process: try again"):
            cache.save([entry()])
        with pytest.raises(OSError, match="is held by another process"):
            cache.clear()
    cache.save([entry()])
    assert len(cache.load(path)) == 1


def test_a_folder_in_the_locks_place_is_an_error_of_the_system(monkeypatch):
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    cache.path_of(DEVICE).with_suffix(".lock").mkdir()
    with pytest.raises(OSError):
        cache.save([entry()])


def test_a_truncated_file_does_not_stop_a_writer(tmp_path, caplog):
    cache.save([entry()])
    path = cache.path_of(DEVICE)
    path.write_bytes(path.read_bytes()[:-30])
    cache.save([entry(synapses=4**9)])
    assert [key.synapses for key in cache.load(path)] == [4**9]
    assert "is damaged" in caplog.text


def test_clearing_removes_what_is_selected():
    cache.save([entry(), entry(rule="istdp"), entry(device="other")])
    assert cache.clear(lambda e: e.key.rule == "stdp") == 2
    assert [e.key.rule for e in cache.load_all()] == ["istdp"]
    assert not cache.path_of("other").exists()
    assert cache.clear() == 1


def test_an_export_can_be_imported_elsewhere(tmp_path, monkeypatch):
    cache.save([entry(), entry(device="other")])
    exported = tmp_path / "mine.exported"
    cache.export(exported, cache.load_all())
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", str(tmp_path / "elsewhere"))
    cache.save([entry(synapses=4**9)])
    assert len(cache.import_(exported)) == 2
    assert len(cache.load_all()) == 3


def test_what_is_no_export_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt holds no exported settings"):
        cache.import_(path)
    assert path.read_text() == "hello"


def add_one_after_another(folder, numbers, started=None):
    os.environ["TRITONSTDP_CACHE_DIR"] = folder
    for n in numbers:
        if started is not None:
            started.value = n
        cache.save([entry(synapses=n, config={"rows": n})])


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tritonstdp.autotune.cache", "test_autotune_cache"])
    return context


def test_eight_processes_at_once_lose_nothing(processes, tmp_path):
    shares = [range(100 * k, 100 * k + 20) for k in range(8)]
    writers = [processes.Process(target=add_one_after_another, args=(str(tmp_path), share)) for share in shares]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    found = cache.load(cache.path_of(DEVICE))
    assert {key.synapses for key in found} == {n for share in shares for n in share}


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_cache(processes, tmp_path):
    path = cache.path_of(DEVICE)
    cache.save([entry(synapses=0, config={"rows": 0})])
    first, killed_at = 1, []
    for _ in range(25):
        started = processes.Value("q", 0, lock=False)
        writer = processes.Process(target=add_one_after_another, args=(str(tmp_path), range(first, 10**6), started))
        writer.start()
        while not started.value:
            time.sleep(0.0005)
        time.sleep(random.uniform(0, 0.03))
        writer.kill()
        writer.join()
        assert writer.exitcode == -9
        found = sorted(key.synapses for key in cache.load(path))
        assert found == list(range(len(found))), "an entry is missing"
        assert found[-1] in (started.value - 1, started.value), "neither the old nor the new one"
        killed_at.append(found[-1])
        first = found[-1] + 1
    assert not list((tmp_path / "tuning").glob("*.aside-*")), "a reader saw half a file"
    assert killed_at[-1] > 25, "the writer never got anywhere"
    cache.save([entry(synapses=2**40)])
    assert len(cache.load(path)) == killed_at[-1] + 2, "a dead writer keeps no lock"
    assert {p.name for p in (tmp_path / "tuning").iterdir()} <= {path.name, path.with_suffix(".lock").name}


def test_the_folder_is_the_users_cache_unless_the_environment_says_another(monkeypatch):
    monkeypatch.delenv("TRITONSTDP_CACHE_DIR")
    assert "tritonstdp" in cache.directory().parts
    monkeypatch.setenv("TRITONSTDP_CACHE_DIR", "~/tuned")
    assert cache.directory() == Path.home() / "tuned" / "tuning"


def test_a_file_that_cannot_be_read_now_is_not_set_aside(monkeypatch):
    cache.save([entry()])
    path = cache.path_of(DEVICE)
    before = path.read_bytes()

    def out_of_descriptors(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(cache, "read_private", out_of_descriptors)
    with pytest.raises(OSError, match="Too many open files"):
        cache.save([entry()])
    assert cache.clear() == 0
    assert path.read_bytes() == before
