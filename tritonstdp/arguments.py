"""What commands are given, parsed and checked before any time is spent: types for ``argparse``.

Each takes the text of an option and returns its value, or raises ``argparse.ArgumentTypeError``, of which argparse
makes one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import stat
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

__all__ = ["Parser", "device", "existing_file", "output_file", "rate", "rows_file", "seconds", "shape", "whole"]


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, instead of below a screen of usage.

    Examples
    --------
    >>> Parser(prog="squaring").parse_args([])
    Namespace()
    """

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A type of argument: whole numbers within limits.

    Examples
    --------
    >>> whole(1)("12")
    12
    >>> whole(1)("0")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: '0' must be a whole number from 1 to 2147483647
    """

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise ArgumentTypeError(f"{text!r} must be a whole number from {least} to {most}")
        return number

    return parse


def rate(text: str) -> float:
    """How much of a group spikes in a step.

    Parameters
    ----------
    text : str
        A fraction above 0 and up to 1.

    Returns
    -------
    float
        The fraction.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is anything else, a percentage included.

    Examples
    --------
    >>> rate("0.02")
    0.02
    """
    value = _number(text)
    if not 0 < value <= 1:
        raise ArgumentTypeError(
            f"{text!r} is no rate: give the fraction of neurons that spike in a step, above 0 and up to 1 (2 % is 0.02)"
        )
    return value


def seconds(text: str) -> float:
    """A length of time.

    Parameters
    ----------
    text : str
        A number of seconds, above 0 and finite.

    Returns
    -------
    float
        The seconds.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is anything else.

    Examples
    --------
    >>> seconds("0.5")
    0.5
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no length of time: give a number of seconds above 0")
    return value


def shape(text: str) -> tuple[int, ...]:
    """The sizes of a group.

    Parameters
    ----------
    text : str
        Whole numbers above 0 with x between.

    Returns
    -------
    tuple of int
        The numbers.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is anything else.

    Examples
    --------
    >>> shape("4000x3000")
    (4000, 3000)
    """
    parts = text.split("x")
    # no size has more digits, and int() itself refuses thousands of them
    if not all(re.fullmatch("[0-9]{1,18}", part) and int(part) for part in parts):
        raise ArgumentTypeError(
            f"{_shortened(text)} is no shape: give whole numbers above 0 with x between, as 4000x4000"
        )
    return tuple(map(int, parts))


def device(text: str) -> str:
    """A torch device that is there.

    Parameters
    ----------
    text : str
        As torch names it: "cpu", "cuda", "cuda:1".

    Returns
    -------
    str
        Its name.

    Raises
    ------
    argparse.ArgumentTypeError
        If torch does not know it, or this machine does not have it.

    Examples
    --------
    >>> device("cpu")
    'cpu'
    """
    try:
        named = torch.device(text)
    except RuntimeError:
        raise ArgumentTypeError(f"{text!r} is no device: give one as cpu, cuda or cuda:1") from None
    there = _device_count(named.type)
    if not there:
        raise ArgumentTypeError(f"there is no {named.type} device here: torch {torch.__version__} finds none")
    if named.index is not None and named.index >= there:
        raise ArgumentTypeError(f"there is no device {text!r} here: {named.type} devices count from 0 to {there - 1}")
    return "cpu" if named.type == "cpu" else str(named)


def existing_file(text: str) -> Path:
    """A file to read.

    Parameters
    ----------
    text : str
        Its path.

    Returns
    -------
    Path
        Its path.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not there, no regular file, or may not be read.

    Examples
    --------
    >>> existing_file(__file__).name
    'arguments.py'
    """
    kind = _kind_of(text)
    if kind is None:
        raise ArgumentTypeError(f"there is no file {_shortened(text)}")
    if not stat.S_ISREG(kind):
        raise ArgumentTypeError(f"{_shortened(text)} is no regular file")
    if not os.access(text, os.R_OK):
        raise ArgumentTypeError(f"{_shortened(text)} may not be read")
    return Path(text)


def output_file(text: str) -> Path:
    """A file to write: nothing is written yet, but it is known that it can be.

    Parameters
    ----------
    text : str
        Its path. Its folder must be there.

    Returns
    -------
    Path
        Its path.

    Raises
    ------
    argparse.ArgumentTypeError
        If its folder is not there or may not be written, or if it is there and no regular file, or may not be written.

    Examples
    --------
    >>> output_file("table.json").name
    'table.json'
    """
    path = Path(text)
    kind, folder_kind = _kind_of(text), _kind_of(str(path.parent))
    if folder_kind is None or not stat.S_ISDIR(folder_kind):
        raise ArgumentTypeError(f"there is no folder {_shortened(str(path.parent))} to write to")
    if kind is not None and not stat.S_ISREG(kind):
        raise ArgumentTypeError(f"{_shortened(text)} is no regular file: give another name")
    if not os.access(path.parent, os.W_OK | os.X_OK) or (kind is not None and not os.access(path, os.W_OK)):
        raise ArgumentTypeError(f"{_shortened(text)} may not be written")
    return path


def rows_file(text: str) -> Path:
    """A file to write rows to, as a type of argument.

    Examples
    --------
    >>> rows_file("rows.csv").name
    'rows.csv'
    """
    path = output_file(text)
    if path.suffix not in (".json", ".csv"):
        raise ArgumentTypeError(f"{text} is no file of rows: its name must end in .json or .csv")
    return path


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _device_count(kind: str) -> int:
    if kind == "cpu":
        return 1
    count = getattr(getattr(torch, kind, None), "device_count", None)
    return count() if count else 0


def _kind_of(path: str) -> int | None:
    """The mode of what is at a path; None where nothing is."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentTypeError(f"{_shortened(path)} can't be opened: {reason}") from None


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
