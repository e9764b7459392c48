"""A layer's mask as a small picture: the weight seen as [k, n], k downwards, the stronger the more weights kept.

A mask larger than the picture is averaged over squares, so stripes are removed channels, squares removed
blocks, and even grey a fine pattern such as 2:4.  Groups of a convolution stand side by side.  It leaves out
colour blending: shades are transparency, so the picture suits light and dark.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHADES = 16
FAINTEST = 22
"""Opacity, of 255, of a region without any weight: an empty mask must still be seen as one."""


def mask_png(mask: NDArray[np.bool_], colour: tuple[int, int, int], most: int) -> tuple[str, int, int]:
    """(data URI of a PNG, its width, its height) of bool[groups, k, n], neither side above `most` pixels."""
    return shares_png(averaged(np.concatenate(list(mask), axis=1), most), colour)


def shares_png(shares: NDArray[np.float64], colour: tuple[int, int, int]) -> tuple[str, int, int]:
    """(data URI of a PNG, its width, its height) of float64[rows, cols] from 0, faint, to 1, the whole colour."""
    shades = np.rint(shares * (SHADES - 1)).astype(np.uint8)
    height, width = shades.shape
    even = np.pad(shades, ((0, 0), (0, width % 2)))
    packed = (even[:, ::2] << 4 | even[:, 1::2]).astype(np.uint8)  # four bits a pixel
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    alphas = bytes(round(FAINTEST + (255 - FAINTEST) * i / (SHADES - 1)) for i in range(SHADES))
    image = b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(colour) * SHADES),
            _chunk(b"tRNS", alphas),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii"), width, height


def averaged(values: NDArray[Any], most: int) -> NDArray[np.float64]:
    """Mean over the cells of a grid with at most `most` rows and columns; cells differ by at most one entry."""
    rows, cols = (min(extent, most) for extent in values.shape)
    row_at = np.arange(rows) * values.shape[0] // rows
    col_at = np.arange(cols) * values.shape[1] // cols
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), row_at, axis=0), col_at, axis=1)
    areas = np.outer(np.diff(row_at, append=values.shape[0]), np.diff(col_at, append=values.shape[1]))
    return np.asarray(sums / areas)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
