"""What a kernel is made from: what was compiled or tuned is void once that changes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

SHARED = Path(__file__).parent
"""The folder of what all kernels share."""


@cache
def digest_of(path: str) -> str:
    """A hash of a kernel's file, of those beside it where it lies in a package, and of what all kernels share.

    Parameters
    ----------
    path : str
        The file in which the kernel is defined.

    Returns
    -------
    str
        The hash; the same in this process, whatever is written to the files meanwhile, as what was imported is.

    Raises
    ------
    OSError
        If the files can't be read, as in an installation without sources.

    Examples
    --------
    >>> len(digest_of(__file__))
    64
    """
    own = Path(path)
    files = {own, *SHARED.glob("*.py")}
    if (own.parent / "__init__.py").exists():
        files |= set(own.parent.glob("*.py"))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
