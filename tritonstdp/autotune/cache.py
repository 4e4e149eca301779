"""The tuned settings that a machine keeps: readable JSON, one file a device, safe to write from many processes."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from tritonstdp.storage import cache_folder

__all__ = ["Entry", "Key", "clear", "directory", "export", "import_", "load", "path_of", "save"]

logger = logging.getLogger("tritonstdp")

FORMAT = 1
LOCK_SECONDS = 60.0


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
        The rate bucket, in percent; None where one setting serves all rates.
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
    """Read a file of entries; a damaged one is set aside with a warning and counts as empty.

    Parameters
    ----------
    path : Path
        The file; one that does not exist counts as empty.

    Returns
    -------
    dict
        The entries by key.
    """
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    with _locked(path):
        return _read_or_set_aside(path)


def save(entries: Iterable[Entry]) -> None:
    """Add entries to the files of their devices; what other processes have added meanwhile stays.

    Parameters
    ----------
    entries : iterable of Entry
        The entries; one replaces another of the same key.

    Raises
    ------
    OSError
        If the folder can't be written, or another process has held the lock for a minute.

    Examples
    --------
    >>> save([])
    """
    by_path: dict[Path, dict[Key, Entry]] = {}
    for entry in entries:
        by_path.setdefault(path_of(entry.key.device), {})[entry.key] = entry
    for path, added in by_path.items():
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """
    removed = 0
    for path in _files():
        with _locked(path):
            entries = _read_or_set_aside(path)
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
    _write(path, {entry.key: entry for entry in entries})


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
        If it is no such file.
    """
    try:
        entries = list(_parse(path.read_bytes()).values())
    except ValueError as error:
        raise ValueError(f"{path} holds no exported settings: {error}") from None
    save(entries)
    return entries


def _files() -> list[Path]:
    return sorted(path for path in directory().glob("*.json") if ".damaged-" not in path.name)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
        yield


def _read_or_set_aside(path: Path) -> dict[Key, Entry]:
    """Read under the lock, so that what is set aside is the damaged file and not one written since."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        aside = path.with_suffix(f".damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%f}.json")
        os.replace(path, aside)
        logger.warning("%s is damaged (%s): set aside as %s; kernels use their defaults", path, error, aside.name)
        return {}


def _parse(content: bytes) -> dict[Key, Entry]:
    try:
        data = json.loads(content.decode())
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}, not {FORMAT}")
        entries = [
            Entry(Key(**{name: item[name] for name in Key._fields}), dict(item["config"]), dict(item["measured"]))
            for item in data["entries"]
        ]
        return {entry.key: entry for entry in entries}
    except (KeyError, TypeError) as error:
        raise ValueError(f"not as the cache writes it: {error!r}") from None


def _write(path: Path, entries: dict[Key, Entry]) -> None:
    """Replace a file in one step: whoever reads it sees the old or the new one, whenever the writer is killed."""
    ordered = sorted(entries.values(), key=lambda entry: [(value is not None, value) for value in entry.key])
    items = [{**entry.key._asdict(), "config": entry.config, "measured": entry.measured} for entry in ordered]
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "entries": items}, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
