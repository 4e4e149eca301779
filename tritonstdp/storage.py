"""Where the project keeps what it has found out on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_folder"]


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
    folder = Path(chosen) if chosen else platformdirs.user_cache_path("tritonstdp")
    return folder.expanduser().absolute() / part
