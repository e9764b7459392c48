"""Compressed formats of a sparse matrix: exact sizes in bits, and the encoders and decoders that prove them.

Bitmask, CSR, CSC, n:m index, run length, coordinate list and filter-kernel-weight, in Sparseloop's vocabulary of one
format per rank.  Left out: alignment to words and banks, and what a decoder costs in time.  docs/formats.md has the
layout of every field; machines/sparten.py charges a bitmask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, nearest
from .kernel_order import filter_kernel_order, kernel_patterns

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = ("uncompressed", "bitmask", "csr", "csc", "coordinate")
"""Formats without parameters; beside them "n:m" ("2:4"), "rle B" (runs of B bits), "fkw W" (kernels of W rows)."""

CANDIDATES = (*KINDS, "1:2", "2:4", "1:4", "rle 2", "rle 3", "rle 4", "rle 5", "rle 6", "rle 8", "fkw 9")
"""What `best` tries, in the order in which ties are decided."""


STORABLE = ("dense", "bitmask", "csr", "csc", "run_length", "coordinate",
            "rle 2", "rle 3", "rle 4", "rle 5", "rle 6", "rle 8")
"""What a machine's memory may declare for an operand, beside "native" and "auto", which takes the smallest of these."""


@dataclass(frozen=True)
class Format:
    """A format with its parameters.  kind: one of KINDS, "n:m" (keep, of), "rle" (run_bits) or "fkw" (window)."""

    kind: str
    keep: int = 0
    of: int = 0
    run_bits: int = 0
    window: int = 0

    def __str__(self) -> str:
        if self.kind == "n:m":
            return f"{self.keep}:{self.of}"
        if self.kind == "fkw":
            return f"fkw {self.window}"
        return f"rle {self.run_bits}" if self.kind == "rle" else self.kind


@dataclass(frozen=True, eq=False)
class Encoded:
    """A matrix in a format: the stored values and the fields of metadata, each an array and its bits per entry."""

    format: Format
    shape: tuple[int, int]
    value_bits: int
    values: Ints
    fields: tuple[tuple[Ints, int], ...]

    @property
    def metadata_bits(self) -> int:
        """Bits of all that is not a value."""
        return sum(entries.size * bits for entries, bits in self.fields)

    @property
    def size_bits(self) -> int:
        """Bits of values and metadata."""
        return self.values.size * self.value_bits + self.metadata_bits


def parse_format(text: str) -> Format:
    """The format that `text` names; InputError for an unknown one."""
    if text in KINDS:
        return Format(text)
    if match := re.fullmatch(r"(\d+):(\d+)", text):
        keep, of = int(match[1]), int(match[2])
        if 1 <= keep <= of:
            return Format("n:m", keep=keep, of=of)
    if (match := re.fullmatch(r"rle (\d+)", text)) and 1 <= int(match[1]) <= 62:
        return Format("rle", run_bits=int(match[1]))
    if (match := re.fullmatch(r"fkw (\d+)", text)) and 1 <= int(match[1]) < 2**20:
        return Format("fkw", window=int(match[1]))
    raise InputError(f"unknown format {text!r}", expected='one of '
                     f'{", ".join(KINDS)}, "n:m" such as "2:4", "rle B" with runs of B = 1 to 62 bits or "fkw W" with '
                     'kernels of W rows such as "fkw 9"',
                     fix=nearest(text, CANDIDATES))


def candidates_of(declared: str) -> tuple[Format, ...]:
    """The formats that a memory's declaration stands for: none for "native", for "auto" all, else one.

    "dense" is uncompressed, "run_length" runs of 4 bits, "rle B" runs of B.  Raises InputError for another text.
    """
    if declared == "native":
        return ()
    if declared == "auto":
        return tuple(dict.fromkeys(fmt for text in STORABLE for fmt in candidates_of(text)))
    fmt = parse_format({"dense": "uncompressed", "run_length": "rle 4"}.get(declared, declared)) if (
        declared in STORABLE or declared.startswith("rle ")) else None
    if fmt is None:
        raise InputError(f"unknown format {declared!r}",
                         expected=f'"native", "auto", {", ".join(STORABLE[:6])} or "rle B"',
                         fix=nearest(declared, ("native", "auto", *STORABLE)))
    return (fmt,)


def index_bits(count: int) -> int:
    """Bits of an index that tells `count` places apart: ceil(log2 count)."""
    return max(0, count - 1).bit_length()


def size_bits(mask: Bools, fmt: Format, value_bits: int) -> tuple[int, int]:
    """(bits of values, bits of metadata) of a matrix with nonzeros at `mask`, bool[rows, cols].

    Raises InputError where the mask does not conform to an n:m format or has no whole number of kernels.
    """
    rows, cols = mask.shape
    nonzeros = int(mask.sum())
    match fmt.kind:
        case "uncompressed":
            return rows * cols * value_bits, 0
        case "bitmask":
            return nonzeros * value_bits, rows * cols
        case "csr":
            return nonzeros * value_bits, (rows + 1) * index_bits(rows * cols + 1) + nonzeros * index_bits(cols)
        case "csc":
            return nonzeros * value_bits, (cols + 1) * index_bits(rows * cols + 1) + nonzeros * index_bits(rows)
        case "coordinate":
            return nonzeros * value_bits, nonzeros * (index_bits(rows) + index_bits(cols))
        case "n:m":
            _require_conforming(mask, fmt)
            slots = (rows // fmt.of * fmt.keep + min(rows % fmt.of, fmt.keep)) * cols
            return slots * value_bits, slots * index_bits(fmt.of)
        case "rle":
            runs = np.diff(np.flatnonzero(mask), prepend=-1) - 1
            # A run longer than the counter is cut by entries of a full run and a stored zero.
            entries = int((runs >> fmt.run_bits).sum()) + nonzeros
            return entries * value_bits, entries * fmt.run_bits
        case "fkw":
            _require_kernels(rows, fmt)
            patterns, pattern = kernel_patterns(_kernels(mask, fmt))
            return nonzeros * value_bits, fkw_metadata_bits(rows // fmt.window, cols, fmt.window, len(patterns),
                                                            int((pattern >= 0).sum()))
    raise ValueError(f"no format {fmt.kind!r}")


def best(mask: Bools, value_bits: int, candidates: Iterable[str] = CANDIDATES) -> Format:
    """The smallest of the candidate formats for this mask; those that cannot hold it are passed over.

    Ties go to the earlier candidate.  Raises InputError where none of the candidates can hold the mask.
    """
    chosen: tuple[int, Format] | None = None
    for text in candidates:
        fmt = parse_format(text)
        if (fmt.kind == "n:m" and not _conforms(mask, fmt)) or (fmt.kind == "fkw" and len(mask) % fmt.window):
            continue
        size = sum(size_bits(mask, fmt, value_bits))
        if chosen is None or size < chosen[0]:
            chosen = size, fmt
    if chosen is None:
        raise InputError("no candidate format can hold the mask", expected="at least one that is not n:m")
    return chosen[1]


def fkw_metadata_bits(channels: int, filters: int, window: int, patterns: int, kernels: int) -> int:
    """Bits of filter order, pattern table, run lengths per (filter, pattern) and channel of each kept kernel."""
    return (filters * index_bits(filters) + patterns * window + filters * patterns * index_bits(channels + 1)
            + kernels * index_bits(channels))


def encode(matrix: Ints, fmt: Format, value_bits: int) -> Encoded:
    """int64[rows, cols] in a format; zeros are what is left out.  Raises InputError as size_bits does."""
    values, fields = _ENCODERS[fmt.kind](matrix, fmt)
    return Encoded(fmt, (matrix.shape[0], matrix.shape[1]), value_bits, values, fields)


def decode(encoded: Encoded) -> Ints:
    """int64[rows, cols]: the matrix that was encoded, from values, fields and shape alone."""
    rows, cols = encoded.shape
    matrix = np.zeros((rows, cols), dtype=np.int64)
    values, fields = encoded.values, [entries for entries, _ in encoded.fields]
    match encoded.format.kind:
        case "uncompressed":
            matrix[:] = values.reshape(rows, cols)
        case "bitmask":
            matrix[fields[0].reshape(rows, cols) == 1] = values
        case "csr":
            matrix[np.repeat(np.arange(rows), np.diff(fields[0])), fields[1]] = values
        case "csc":
            matrix[fields[1], np.repeat(np.arange(cols), np.diff(fields[0]))] = values
        case "coordinate":
            matrix[fields[0], fields[1]] = values
        case "n:m":
            keep, of = encoded.format.keep, encoded.format.of
            slots = values.reshape(-1, cols) if cols else values.reshape(0, 0)
            places = fields[0].reshape(slots.shape)
            first = np.arange(slots.shape[0]) // keep * of
            for row in range(slots.shape[0]):
                matrix[first[row] + places[row], np.arange(cols)] += slots[row]
        case "rle":
            at = np.cumsum(fields[0] + 1) - 1
            matrix.reshape(-1)[at] = values
        case "fkw":
            _decode_kernels(matrix, values, fields, encoded.format.window)
    return matrix


def _uncompressed(matrix: Ints, _fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    return matrix.reshape(-1).copy(), ()


def _bitmask(matrix: Ints, _fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    mask = matrix != 0
    return matrix[mask], ((mask.astype(np.int64).reshape(-1), 1),)


def _csr(matrix: Ints, _fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    offsets, columns, values = _by_rows(matrix)
    return values, ((offsets, index_bits(matrix.size + 1)), (columns, index_bits(matrix.shape[1])))


def _csc(matrix: Ints, _fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    offsets, rows, values = _by_rows(matrix.T)
    return values, ((offsets, index_bits(matrix.size + 1)), (rows, index_bits(matrix.shape[0])))


def _by_rows(matrix: Ints) -> tuple[Ints, Ints, Ints]:
    """(offset of each row and of the end, column of each nonzero, its value), row by row."""
    rows, columns = np.nonzero(matrix)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=matrix.shape[0]))]).astype(np.int64)
    return offsets, columns.astype(np.int64), matrix[rows, columns]


def _coordinate(matrix: Ints, _fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    rows, columns = np.nonzero(matrix)
    return matrix[rows, columns], ((rows.astype(np.int64), index_bits(matrix.shape[0])),
                                   (columns.astype(np.int64), index_bits(matrix.shape[1])))


def _n_of_m(matrix: Ints, fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    _require_conforming(matrix != 0, fmt)
    values, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first in range(0, matrix.shape[0], fmt.of):
        group = matrix[first : first + fmt.of]
        # The nonzeros, then the first zeros as fillers; slots in order of row (docs/model.md 1.1).
        order = np.sort(np.argsort(group == 0, axis=0, kind="stable")[: fmt.keep], axis=0)
        values.append(np.take_along_axis(group, order, axis=0).reshape(-1))
        places.append(order.reshape(-1).astype(np.int64))
    return np.concatenate(values), ((np.concatenate(places), index_bits(fmt.of)),)


def _run_length(matrix: Ints, fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    longest = 2**fmt.run_bits - 1
    runs, values, run = [], [], 0
    last = int(np.flatnonzero(matrix)[-1]) if matrix.any() else -1
    for value in matrix.reshape(-1)[: last + 1].tolist():  # trailing zeros follow from the shape
        if value == 0 and run < longest:
            run += 1
            continue
        runs.append(run)
        values.append(value)
        run = 0
    return np.array(values, dtype=np.int64), ((np.array(runs, dtype=np.int64), fmt.run_bits),)


def _filter_kernel_weight(matrix: Ints, fmt: Format) -> tuple[Ints, tuple[tuple[Ints, int], ...]]:
    _require_kernels(len(matrix), fmt)
    weights = _kernels(matrix, fmt)
    order = filter_kernel_order(weights != 0)
    (filters, channels), number = order.pattern.shape, len(order.patterns)
    runs = np.zeros((filters, number), dtype=np.int64)
    values, indices = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for place, one in enumerate(order.filters.tolist()):
        mine = order.kernels(one)
        runs[place] = np.bincount(order.pattern[one, mine], minlength=number)
        values += [weights[one, channel][order.patterns[order.pattern[one, channel]]] for channel in mine]
        indices.append(mine)
    return np.concatenate(values), (
        (order.filters, index_bits(filters)), (order.patterns.astype(np.int64), 1), (runs, index_bits(channels + 1)),
        (np.concatenate(indices), index_bits(channels)))


def _decode_kernels(matrix: Ints, values: Ints, fields: list[Ints], window: int) -> None:
    order, patterns, runs, indices = fields
    kernel = first = 0
    for one, lengths in zip(order, runs, strict=True):
        for pattern, length in zip(patterns, lengths, strict=True):
            rows = np.flatnonzero(pattern)
            for channel in indices[kernel : kernel + length]:
                matrix[channel * window + rows, one] = values[first : first + len(rows)]
                first += len(rows)
            kernel += length


def _kernels(matrix: NDArray[Any], fmt: Format) -> NDArray[Any]:
    """[channels * window, filters] as [filters, channels, window]."""
    return np.ascontiguousarray(matrix.T).reshape(matrix.shape[1], -1, fmt.window)


def _require_kernels(rows: int, fmt: Format) -> None:
    if rows % fmt.window:
        raise InputError(f"{rows} rows", where="format", expected=f"a multiple of {fmt.window} for {fmt}",
                         fix="give the number of entries of one kernel, such as fkw 9 for 3x3")


_ENCODERS: dict[str, Callable[[Ints, Format], tuple[Ints, tuple[tuple[Ints, int], ...]]]] = {
    "uncompressed": _uncompressed, "bitmask": _bitmask, "csr": _csr, "csc": _csc, "coordinate": _coordinate,
    "n:m": _n_of_m, "rle": _run_length, "fkw": _filter_kernel_weight,
}


def _conforms(mask: Bools, fmt: Format) -> bool:
    rows, cols = mask.shape
    padded = np.pad(mask, ((0, -rows % fmt.of), (0, 0))).reshape(-1, fmt.of, cols)
    return int(padded.sum(axis=1).max(initial=0)) <= fmt.keep


def _require_conforming(mask: Bools, fmt: Format) -> None:
    if not _conforms(mask, fmt):
        raise InputError(f"the mask does not conform to {fmt}", where="format",
                         expected=f"at most {fmt.keep} nonzeros in {fmt.of} consecutive rows of a column",
                         fix="choose another format")
