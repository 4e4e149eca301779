"""Images in IDX files, the format of MNIST and of the data sets that take its place."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

UNSIGNED_BYTES = b"\0\0\x08"
"""How an IDX file of bytes begins; the number of dimensions and their sizes follow."""


class Images(NamedTuple):
    """Images to learn from and images held out.

    Attributes
    ----------
    train_images, test_images : Tensor
        Intensities from 0 to 1, ``(n, height * width)``.
    train_labels, test_labels : Tensor
        The classes, int64 ``(n,)``.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(folder: Path) -> Images:
    """Read the four files of a data set, as they are published: ``train-images-idx3-ubyte`` and so on, ``.gz`` or not.

    Parameters
    ----------
    folder : Path
        Where the files lie. Debian's package ``dataset-fashion-mnist`` has them in
        ``/usr/share/datasets/fashion-mnist``.

    Returns
    -------
    Images
        The images and their labels.

    Raises
    ------
    ValueError
        If a file is missing, is no IDX file of bytes, or does not fit the others.
    """
    read = []
    for part in ("train", "t10k"):
        images, labels = (read_file(_find(folder, f"{part}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{folder}: the {part} files hold images {images.shape} and labels {labels.shape}: use files with "
                "images (n, height, width) and one label each"
            )
        read += [torch.tensor(images).flatten(1) / 255, torch.tensor(labels).long()]
    data = Images(*read)
    if data.train_images.shape[1] != data.test_images.shape[1]:
        raise ValueError(f"{folder}: training and test images differ in size: use files of one data set")
    return data


def read_file(path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The file, compressed if its name ends in ``.gz``.

    Returns
    -------
    ndarray
        uint8, of the shape that the file states.

    Raises
    ------
    ValueError
        If it is damaged, is of another kind, or is shorter or longer than it states.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.zlib.error) as error:
        raise ValueError(f"{path}: {error}: get the file anew") from None
    if content[:3] != UNSIGNED_BYTES or len(content) < 4 + 4 * content[3]:
        raise ValueError(f"{path} begins with {content[:4].hex() or 'nothing'}, as no IDX file of bytes does")
    header = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content, ">u4", content[3], offset=4).tolist())
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"{path} holds {len(content) - header} bytes, and states {math.prod(shape)} in the shape {shape}: it is "
            "truncated, or damaged; get it anew"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(f"{folder} has no file {name} or {name}.gz: name the folder with a data set's four IDX files")
