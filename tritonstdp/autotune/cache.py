"""The tuned settings that a machine keeps: readable JSON, one file a device, safe to write from many processes."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from tritonstdp.storage import (
    RefusedError,
    cache_folder,
    make_private,
    read_private,
    remove_leftovers,
    replace_whole,
    warn_once,
)

__all__ = ["Entry", "Key", "clear", "directory", "export", "import_", "load", "path_of", "save"]

FORMAT = 2
LOCK_SECONDS = 5.0
"""How long a writer waits for another one; a reader waits for nobody."""

_ASIDE = ".aside-"
_LONGEST_TEXT = 200


class Key(NamedTuple):
    """All that a tuned setting depends on; a difference in any field is a miss.

    Attributes
    ----------
    rule, topology, backend, positive_bound, negative_bound : str
        Names.
    clamp : bool
        Whether weights are clipped.
    dtype : str
        The weights' dtype, as "float32".
    synapses : int
        The size bucket: the power of four next to the number of synapses.
    rate : float or None
        The rate bucket, as a fraction; None where one setting serves all rates.
    device, driver, torch, triton, numba : str
        The device (with the number of threads, for a CPU), what drives or generates code for it, and the versions.
    source, space : str
        Hashes of the kernel's source and formulas, and of the space of configurations.
    """

    rule: str
    topology: str
    backend: str
    positive_bound: str
    negative_bound: str
    clamp: bool
    dtype: str
    synapses: int
    rate: float | None
    device: str
    driver: str
    torch: str
    triton: str
    numba: str
    source: str
    space: str


class Entry(NamedTuple):
    """A tuned setting.

    Attributes
    ----------
    key : Key
        What it is for.
    config : dict
        The fields of the kernel's ``Config``.
    measured : dict
        How it was found: times of a step, speed-up over the default, spread.
    """

    key: Key
    config: dict[str, Any]
    measured: dict[str, Any]


def directory() -> Path:
    """The folder of the settings; see :func:`tritonstdp.storage.cache_folder`.

    Examples
    --------
    >>> directory().is_absolute()
    True
    """
    return cache_folder("tuning")


def path_of(device: str) -> Path:
    """The file that holds a device's entries.

    Examples
    --------
    >>> path_of("NVIDIA H100 80GB HBM3").name
    'nvidia-h100-80gb-hbm3.json'
    """
    return directory() / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json")


def load(path: Path) -> dict[Key, Entry]:
    """Read a file of entries, without waiting for its writers; one that can't be used counts as empty, with a warning.

    Parameters
    ----------
    path : Path
        The file; one that does not exist counts as empty.

    Returns
    -------
    dict
        The entries by key.

    Examples
    --------
    >>> load(directory() / "no-such-device.json")
    {}
    """
    try:
        return _read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        _report("kernels use their defaults", error)
        return {}


def save(entries: Iterable[Entry]) -> None:
    """Add entries to the files of their devices; what other processes have added meanwhile stays.

    Parameters
    ----------
    entries : iterable of Entry
        The entries; one replaces another of the same key.

    Raises
    ------
    OSError
        If the folder can't be written, or another process keeps holding the lock.

    Examples
    --------
    >>> save([])
    """
    by_path: dict[Path, dict[Key, Entry]] = {}
    for entry in entries:
        by_path.setdefault(path_of(entry.key.device), {})[entry.key] = entry
    for path, added in by_path.items():
        make_private(path.parent)
        with _locked(path):
            _write(path, {**_read_or_set_aside(path), **added})


def load_all() -> list[Entry]:
    """The entries of every device in the cache.

    Examples
    --------
    >>> isinstance(load_all(), list)
    True
    """
    return [entry for path in _files() for entry in load(path).values()]


def clear(selected: Callable[[Entry], bool] = lambda entry: True) -> int:
    """Remove entries.

    Parameters
    ----------
    selected : callable
        Which entries to remove; all by default.

    Returns
    -------
    int
        How many were removed.

    Raises
    ------
    OSError
        As :func:`save`.
    """
    removed = 0
    for path in _files():
        with _locked(path):
            try:
                entries = _read(path)
            except OSError as error:
                _report("left as it is", error)
                continue
            kept = {key: entry for key, entry in entries.items() if not selected(entry)}
            removed += len(entries) - len(kept)
            if kept:
                _write(path, kept)
            else:
                path.unlink(missing_ok=True)
    return removed


def export(path: Path, entries: Iterable[Entry]) -> None:
    """Write entries, of any devices, to a file of the user's choice, in the format of the cache.

    Parameters
    ----------
    path : Path
        The file.
    entries : iterable of Entry
        The entries.
    """
    replace_whole(path, _formatted({entry.key: entry for entry in entries}), private=False)


def import_(path: Path) -> list[Entry]:
    """Add the entries of an exported file to the cache.

    Parameters
    ----------
    path : Path
        The file, which is left as it is.

    Returns
    -------
    list of Entry
        What was added.

    Raises
    ------
    ValueError
        If it is no such file, or anything in it is not of the type and range that it should be.
    OSError
        If it can't be read, or as :func:`save`.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} holds no exported settings: it is no regular file")
    try:
        entries = list(_parse(path.read_bytes()).values())
    except ValueError as error:
        raise ValueError(f"{path} holds no exported settings: {error}") from None
    save(entries)
    return entries


def _files() -> list[Path]:
    try:
        names = os.listdir(directory())
    except OSError:
        return []
    return [directory() / name for name in sorted(names) if name.endswith(".json") and _ASIDE not in name]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise RefusedError(Path(lock.lock_file), "is held by another process", "try again when it has ended") from None
    except NotImplementedError as error:  # a file system without locks
        raise RefusedError(Path(lock.lock_file), "can't be locked", str(error)) from None
    try:
        yield
    finally:
        lock.release()


def _read(path: Path) -> dict[Key, Entry]:
    content = read_private(path)
    try:
        return _parse(content)
    except _OtherFormatError as error:
        raise _OldFileError(path, str(error)) from None
    except ValueError as error:
        raise RefusedError(path, f"is damaged ({error})") from None


def _read_or_set_aside(path: Path) -> dict[Key, Entry]:
    """Read under the lock, so that what is set aside is the damaged file and not one written since."""
    try:
        return _read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        if not isinstance(error, RefusedError) and error.errno != errno.ELOOP:  # a link
            raise  # it may be good, and can't be read now
        aside = path.with_suffix(f"{_ASIDE}{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}.json")
        os.replace(path, aside)
        _report(f"set aside as {aside.name}", error)
        return {}


def _report(consequence: str, error: OSError) -> None:
    warn_once(consequence, error, logging.INFO if isinstance(error, _OldFileError) else logging.WARNING)


class _OtherFormatError(ValueError):
    """Settings as another release writes them."""


class _OldFileError(RefusedError):
    """A file of another release's settings."""


def _parse(content: bytes) -> dict[Key, Entry]:
    """The entries in a file, each of whose values is of the type and range that it should be."""
    try:
        data = json.loads(content.decode(), parse_float=_finite, parse_constant=_finite)
        if data["format"] != FORMAT:
            raise _OtherFormatError(f"is of format {reprlib.repr(data['format'])}, and this release has {FORMAT}")
        entries = [_entry_of(item) for item in data["entries"]]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"not as the cache writes it: {error!r}") from None
    except RecursionError:
        raise ValueError("not as the cache writes it: nested too deeply") from None
    return {entry.key: entry for entry in entries}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _entry_of(item: dict[str, Any]) -> Entry:
    key = Key(**{name: item[name] for name in Key._fields})
    for name, value in key._asdict().items():
        _check(name, value, *_WANTED.get(name, _TEXT))
    config, measured = item["config"], item["measured"]
    for name, part in (("config", config), ("measured", measured)):
        _check(name, part, "a table", lambda part: type(part) is dict)
    for name, value in config.items():
        _check(f"config {reprlib.repr(name)}", value, "a number, a text, true, false or null", _is_plain)
    for name in ("speedup", "spread"):
        _check(name, measured.get(name, 1.0), "a number above or equal to 0", _is_measure)
    return Entry(key, config, measured)


def _check(name: str, value: Any, wanted: str, holds: Callable[[Any], bool]) -> None:
    if not holds(value):
        raise ValueError(f"{name} is {reprlib.repr(value)}, not {wanted}")


def _is_text(value: Any) -> bool:
    return type(value) is str and value.isprintable() and len(value) <= _LONGEST_TEXT


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_measure(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**63


def _is_rate(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 < value <= 1)


def _is_plain(value: Any) -> bool:
    number = type(value) is int and abs(value) < 2**63
    return value is None or type(value) in (bool, float) or number or _is_text(value)


_TEXT = (f"a printable text of at most {_LONGEST_TEXT} characters", _is_text)
_WANTED = {
    "clamp": ("true or false", lambda value: type(value) is bool),
    "synapses": ("a whole number", _is_count),
    "rate": ("a fraction above 0 and up to 1, or null", _is_rate),
}


def _write(path: Path, entries: dict[Key, Entry]) -> None:
    """Write under the lock: what is found half-written is a dead writer's."""
    remove_leftovers(path.parent, f"tmp-{path.name}-*", older_than=0.0)
    replace_whole(path, _formatted(entries))


def _formatted(entries: dict[Key, Entry]) -> bytes:
    ordered = sorted(entries.values(), key=lambda entry: [(value is not None, value) for value in entry.key])
    items = [{**entry.key._asdict(), "config": entry.config, "measured": entry.measured} for entry in ordered]
    return (json.dumps({"format": FORMAT, "entries": items}, indent=2) + "\n").encode()
