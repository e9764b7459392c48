"""The one error that a mistake in the user's input raises.

It says what was found, where, what was expected and what to do; the command line prints it and exits
with status 2.  All mistakes of one file travel in one error (`InputError.collect`).  Programming
mistakes stay ordinary Python exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake in what the user gave: file, field, layer or argument."""

    def __init__(self, what: str, *, where: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        text = f"{where}: {what}" if where else what
        if expected:
            text += f"; expected {expected}"
        if fix:
            text += f"; {fix}"
        super().__init__(text)

    @classmethod
    def collect(cls, errors: Iterable[InputError]) -> InputError:
        """One error that lists all of `errors`, a line each; a single one is returned as it is."""
        found = list(errors)
        if len(found) == 1:
            return found[0]
        return cls(f"{len(found)} mistakes:\n" + "\n".join(f"  {error}" for error in found))


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean ...' for a misspelt word, or the list of what there is."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names))}"
