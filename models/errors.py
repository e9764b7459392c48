"""The one error that a mistake in what the user asked of this package raises.

It says what was found, where, what was expected and what to do, and covers both data sets and networks.
Programming mistakes stay ordinary Python exceptions.  It imports no torch, so a command line can catch
it without loading any; read `data.py` next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A mistake in a data set, a network's name or an argument that the user gave."""

    def __init__(self, what: str, *, where: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        text = f"{where}: {what}" if where else what
        if expected:
            text += f"; expected {expected}"
        if fix:
            text += f"; {fix}"
        super().__init__(text)


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean ...' for a misspelt word, or the list of what there is."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listing = f"known: {', '.join(sorted(names))}"
    return f"did you mean {close[0]!r}? {listing}" if close else listing


def check_positive(value: object, *, name: str, where: str) -> int:
    """`value` as an int of at least 1; raises DataError otherwise (True and 2.0 are not accepted)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"{name} is {value!r}", where=where, expected="a whole number of at least 1")
    return value


def check_widths(values: object, count: int, *, where: str) -> tuple[int, ...]:
    """`values` as a tuple of `count` ints of at least 1; raises DataError otherwise."""
    if not isinstance(values, (list, tuple)) or len(values) != count:
        raise DataError(f"widths is {values!r}", where=where, expected=f"{count} whole numbers, one per stage")
    return tuple(check_positive(value, name=f"widths[{i}]", where=where) for i, value in enumerate(values))
