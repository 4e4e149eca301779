"""Where the project keeps what it has found out on this machine, and whose files it believes."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import platformdirs

__all__ = [
    "RefusedError",
    "cache_folder",
    "make_private",
    "read_private",
    "remove_leftovers",
    "replace_whole",
    "warn_once",
]

logger = logging.getLogger("tritonstdp")

_FLAGS = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LARGEST = 2**28
_warned: set[tuple[str, str]] = set()


class RefusedError(OSError):
    """A file or folder of the cache that is not what it should be, or that somebody else may have written.

    Parameters
    ----------
    path : Path
        Which.
    fault : str
        What is wrong with it.
    remedy : str
        What to do; nothing by default.

    Examples
    --------
    >>> str(RefusedError(Path("loops"), "is no folder", "remove it"))
    'loops is no folder: remove it'
    """

    def __init__(self, path: Path, fault: str, remedy: str = "") -> None:
        super().__init__(f"{path} {fault}" + (f": {remedy}" if remedy else ""))
        self.fault = fault


def cache_folder(part: str) -> Path:
    """A folder of the cache: in ``TRITONSTDP_CACHE_DIR`` if set, else in the user's cache folder.

    Parameters
    ----------
    part : str
        "tuning" for tuned settings, "loops" for compiled CPU loops.

    Returns
    -------
    Path
        The folder, absolute; it need not exist.

    Examples
    --------
    >>> cache_folder("tuning").is_absolute()
    True
    """
    chosen = os.environ.get("TRITONSTDP_CACHE_DIR")
    folder = os.path.expanduser(chosen) if chosen else platformdirs.user_cache_path("tritonstdp")
    return Path(os.path.abspath(folder)) / part


def make_private(folder: Path) -> None:
    """Make a folder of the cache, for nobody but this user.

    Parameters
    ----------
    folder : Path
        What :func:`cache_folder` gives.

    Raises
    ------
    OSError
        If it can't be made; a :class:`RefusedError` if it is there and somebody else may write to it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     make_private(Path(root) / "loops")
    ...     print((Path(root) / "loops").is_dir())
    True
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    _check_folder(folder)


def read_private(path: Path) -> bytes:
    """Read a file of the cache that nobody but this user can have written.

    Parameters
    ----------
    path : Path
        A file in a folder that :func:`cache_folder` gives.

    Returns
    -------
    bytes
        What is in it.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    OSError
        If it can't be read; a :class:`RefusedError` if it is no regular file, or it or its folders belong to another
        user or may be written by one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     make_private(Path(root) / "loops")
    ...     replace_whole(Path(root) / "loops" / "x", b"content")
    ...     print(read_private(Path(root) / "loops" / "x"))
    b'content'
    """
    descriptor = os.open(path, _FLAGS)
    try:
        _check_file(path, os.fstat(descriptor))  # of what is open: nothing can take its place in between
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def replace_whole(path: Path, content: bytes, private: bool = True) -> None:
    """Write a file in one step: whoever reads it sees the old or the new one, whenever the writer is killed.

    Parameters
    ----------
    path : Path
        The file.
    content : bytes
        What will be in it.
    private : bool
        Whether nobody else may read it; otherwise it gets the permissions that new files get.

    Raises
    ------
    OSError
        If it can't be written; nothing is left of the attempt.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     replace_whole(Path(folder) / "x", b"content")
    ...     print((Path(folder) / "x").read_bytes())
    b'content'
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f"tmp-{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if not private and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path, pattern: str, older_than: float = 3600.0) -> None:
    """Remove what writers that were killed have left.

    Parameters
    ----------
    folder : Path
        Where.
    pattern : str
        Which files.
    older_than : float
        Seconds since they were last written: a younger one may still be in use.

    Examples
    --------
    >>> remove_leftovers(Path("nowhere"), "tmp-*")
    """
    with suppress(OSError):
        for path in folder.glob(pattern):
            if time.time() - path.lstat().st_mtime >= older_than:
                path.unlink()


def warn_once(consequence: str, error: OSError, level: int = logging.WARNING) -> None:
    """Log a warning, the first time in a process that there is this reason for it, whatever the file.

    Parameters
    ----------
    consequence : str
        What comes of it.
    error : OSError
        The reason.
    level : int
        The level, where it is less than a warning.

    Examples
    --------
    >>> warn_once("the table is not kept", OSError(28, "No space left on device"))
    """
    reason = consequence, str(getattr(error, "fault", None) or error.strerror or error)
    if reason in _warned:
        return
    _warned.add(reason)
    logger.log(level, "%s: %s", consequence, error)


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(path, "is no regular file", "remove it")
    _check_owner(path, status)
    _check_folder(path.parent)
    if status.st_size > _LARGEST:
        raise RefusedError(path, f"is larger than {_LARGEST:,} bytes", "remove it")


def _check_folder(folder: Path) -> None:
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):  # a link might be another user's, and lead anywhere
        raise RefusedError(folder, "is no folder", "remove it")
    _check_owner(folder, status)
    _check_root(folder.parent)


def _check_root(root: Path) -> None:
    status = os.stat(root)
    if status.st_mode & stat.S_ISVTX and status.st_uid == 0:  # as /tmp: nobody else can move a folder of ours in it
        return
    _check_owner(root, status)


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not hasattr(os, "geteuid"):  # Windows, where a mode says nothing of other users
        return
    if status.st_uid != os.geteuid():
        raise RefusedError(path, "belongs to another user", "set TRITONSTDP_CACHE_DIR to a folder of your own")
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise RefusedError(path, "may be written by other users", "run chmod go-w on it")
