"""Access traces: every read and write of buffers and DRAM in a window of cycles of one layer, as a table.

The table comes from the stepped twin, so it is what really happens in each cycle; over a whole layer it sums to the
engine's counts.  Metadata and machines other than the systolic model are left out.  Read reference/accesses.py next.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .hardware import Machine
from .machines import model
from .mapping import Tiling
from .trace import LayerTrace

COLUMNS = ("cycle", "level", "operand", "address", "write", "count")
LEVELS = ("sram", "dram")
OPERANDS = ("weight", "input", "output", "psum")
MOST_ELEMENTS = 1 << 24  # of any operand: the twin holds them all, several times


@dataclass(frozen=True, eq=False)
class AccessTrace:
    """Accesses in order of time; table: int64[accesses, 6], columns as in COLUMNS.

    level indexes LEVELS and operand OPERANDS.  On chip an access is one element (count = 1), its address the element's
    number in the tensor: inputs [batch, channel, h, w] (-1: padding), weights [out, in/groups, kh, kw], outputs
    [m, out]; a GEMM is a 1x1 convolution of m images.  In DRAM an access is a transfer in the cycle in which it begins,
    with its first byte's address in the blocked layout and its bytes (docs/model.md section 3).
    """

    table: NDArray[np.int64]
    cycles: int  # that the twin stepped: up to the window's end, or the layer's

    def total(self, level: str, operand: str, write: bool) -> int:
        """Elements (sram) or bytes (dram) of one kind of access."""
        at = self.table
        chosen = (at[:, 1] == LEVELS.index(level)) & (at[:, 2] == OPERANDS.index(operand)) & (at[:, 4] == write)
        return int(at[chosen, 5].sum())

    def save(self, path: str | Path) -> None:
        """Write .csv (names spelled out) or .npz (an int64 array per column); InputError for another ending."""
        path = Path(path)
        if path.suffix == ".npz":
            columns: dict[str, Any] = {name: self.table[:, i] for i, name in enumerate(COLUMNS)}
            np.savez_compressed(path, **columns)
        elif path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                for cycle, level, operand, address, write, count in self.table.tolist():
                    writer.writerow((cycle, LEVELS[level], OPERANDS[operand], address, "RW"[write], count))
        else:
            raise InputError(f"access trace {str(path)!r}", where="access trace", expected="a file named .csv or .npz")


def access_trace(layer: LayerTrace, machine: Machine, tiling: Tiling | None = None, *, first: int = 0,
                 stop: int | None = None) -> AccessTrace:
    """Accesses of `layer` in the cycles [first, stop), None = to its end; the tiling is searched unless given.

    The twin is stepped from cycle 0 in plain Python, some thousand cycles a second.  Raises InputError where the
    machine is not a systolic array, a tensor is too large for it, the window is empty or the layer does not run.
    """
    if machine.model != "systolic":
        raise InputError(f"an access trace of model {machine.model!r}", where=f"machine {machine.name!r}",
                         expected="model systolic")
    if first < 0 or (stop is not None and stop <= first):
        raise InputError(f"cycles {first} to {stop}", where=f"access trace of layer {layer.name!r}",
                         expected="0 <= first < stop")
    operation = layer.operation
    sizes = [math.prod(operation.weight_shape), math.prod(operation.input_shape), operation.macs // operation.gemm().k]
    if max(sizes) > MOST_ELEMENTS:
        raise InputError(f"a tensor of {max(sizes)} elements", where=f"access trace of layer {layer.name!r}",
                         expected=f"at most {MOST_ELEMENTS}", fix="trace a smaller layer of the same kind")
    chosen = model(machine.model).run(layer, machine, tiling).tiling
    from .reference import systolic as twin

    table, cycles = twin.accesses(layer, machine, chosen, _ones(layer.input_mask, operation.input_shape),
                                  _ones(layer.weight_mask, operation.weight_shape), first, stop)
    return AccessTrace(table, cycles)


def _ones(mask: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Operands of ones and zeros: values do not move accesses, zeros do."""
    return np.ones(shape, dtype=np.int64) if mask is None else mask.astype(np.int64)

