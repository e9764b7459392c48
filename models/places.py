"""Where data sets lie on this machine: one folder for each under one that the user names once.

`--set data=cifar10` finds $ESPALIER_DATA/cifar10, so that configurations and commands need no path and mean the same on
every machine.  Nothing is searched for and nothing is downloaded; a set that is not there is answered with where to get
it.  Read `data.py` for what is done with the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import DataError

VARIABLE = "ESPALIER_DATA"


def place_of(kind: str, fix: str) -> Path:
    """The folder of the data set `kind`: the first of $ESPALIER_DATA's folders that has one of that name.

    Several are separated as in PATH; links are followed.  Raises DataError, with `fix`, where there is none.
    """
    roots = [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    for root in roots:
        if (root / kind).is_dir():
            return root / kind
    looked = f"not at {', '.join(str(root / kind) for root in roots)}" if roots else f"${VARIABLE} is not set"
    raise DataError(
        f"the data set is not on this machine: {looked}", where=f"data {kind}",
        expected=f"{kind}:DIR, or a folder {kind} in the one that ${VARIABLE} names", fix=fix,
    )  # fmt: skip
