"""Reports with SCALE-Sim's file names and columns, from any Report.

COMPUTE, BANDWIDTH, DETAILED_ACCESS and, where a layer has a mask, SPARSE_REPORT.csv: one row per layer, in order.
On a machine of SCALE-Sim's convention the utilisations and the first and last cycle of each stream are its formulas;
on any other machine they are read off the counts.  Its faults are not copied: docs/model.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..counts import Count
from ..errors import InputError
from ..lowering import Physical
from ..machines import model
from ..report import LayerReport, Report
from ..structure import parse

STALLS = (Count.QUEUE, Count.COLD_FILL, Count.STALL_WEIGHT, Count.STALL_INPUT, Count.STALL_PSUM, Count.STALL_OUTPUT)
COMPUTE = ("LayerID", "Total Cycles (incl. prefetch)", "Total Cycles", "Stall Cycles", "Overall Util %",
           "Mapping Efficiency %", "Compute Util %")
OPERANDS = ("IFMAP Reads", "Filter Reads", "OFMAP Writes")
DETAIL = ("LayerID", *(f"{level} {operand.split()[0]} {what}" for level in ("SRAM", "DRAM") for operand in OPERANDS
                       for what in ("Start Cycle", "Stop Cycle", operand.split()[1])))
SPARSE = ("LayerID", "Sparsity Representation", "Original Filter Storage", "New Storage (Filter+Metadata)",
          "Filter Metadata Storage", "Avg FILTER Metadata SRAM BW")
Cell = int | float | str
Window = tuple[int, int]


def write_reports(report: Report, directory: str | Path) -> list[Path]:
    """Write the reports of a simulation into `directory`, which is made if need be; returns the files.

    Cycles are clock cycles, SRAM accesses elements, DRAM accesses bytes (SCALE-Sim's word).  A memory that is off has
    no DRAM accesses.  Raises InputError where the directory cannot be written.
    """
    rows = [_row(layer, report) for layer in report.layers]
    sparse = any(layer.layer.packed_weight is not None for layer in report.layers)
    metadata = "Avg FILTER Metadata SRAM BW"
    bandwidth = ["LayerID", "Avg IFMAP SRAM BW", "Avg FILTER SRAM BW", *([metadata] if sparse else []),
                 "Avg OFMAP SRAM BW", "Avg IFMAP DRAM BW", "Avg FILTER DRAM BW", "Avg OFMAP DRAM BW"]
    texts = {
        "COMPUTE_REPORT.csv": _csv(COMPUTE, [row.compute() for row in rows]),
        "BANDWIDTH_REPORT.csv": _csv(bandwidth, [row.bandwidth(sparse) for row in rows]),
        "DETAILED_ACCESS_REPORT.csv": _csv(DETAIL, [row.detail() for row in rows]),
    }
    if sparse:
        texts["SPARSE_REPORT.csv"] = _csv(SPARSE, [row.sparse() for row in rows])
    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write reports ({error.strerror})", where=str(folder),
                         expected="a writable folder") from None
    return [folder / name for name in texts]


@dataclass(frozen=True)
class _Row:
    """What one layer says in all reports.

    windows: (first, last) cycle of SRAM input, filter and output, in SCALE-Sim's numbering, which gives a read the
    cycle after it was asked for; dram: bytes of the same three.
    """

    cycles: int
    stalls: int
    overall: float
    mapping: float
    utilisation: float
    sram: tuple[int, int, int]
    windows: tuple[Window, Window, Window]
    dram: tuple[int, int, int]
    storage: tuple[str, int, float, float]  # representation, dense words, words with metadata, metadata words

    def compute(self) -> list[Cell]:
        return [self.cycles, self.cycles, self.stalls, self.overall, self.mapping, self.utilisation]

    def detail(self) -> list[Cell]:
        dram = [(0, self.cycles - 1, count) if count else (0, 0, 0) for count in self.dram]
        sram = [(first, last, count) for (first, last), count in zip(self.windows, self.sram, strict=True)]
        return [cell for cells in (*sram, *dram) for cell in cells]

    def bandwidth(self, sparse: bool) -> list[Cell]:
        reads = [self.sram[0], self.sram[1], *([self.storage[3]] if sparse else []), self.sram[2], *self.dram]
        return [count / self.cycles for count in reads]

    def sparse(self) -> list[Cell]:
        return [*self.storage, self.storage[3] / self.cycles]


def _row(layer: LayerReport, report: Report) -> _Row:
    counts, cycles, array = layer.total.counts, layer.cycles, report.machine.array
    slots = int(counts[Count.ISSUED_MACS] + counts[Count.GATED_MACS])
    streaming = int(counts[Count.COMPUTE])
    peak = array.peak_macs_per_cycle
    stalls = sum(int(counts[cause]) for cause in STALLS)
    if getattr(array, "convention", "") == "scalesim":
        physical: Physical = model(report.machine.model).physical_gemm(layer.layer, report.machine)
        mapping, utilisation = _efficiency(physical, array)
        windows = _windows(physical, array, cycles)
    else:
        mapping = slots / (streaming * peak) if streaming else 0.0
        utilisation = slots / ((cycles - stalls) * peak) if cycles > stalls else 0.0
        windows = ((0, cycles - 1),) * 3  # the counts say how much, not when
    return _Row(
        cycles=cycles, stalls=stalls,
        overall=int(counts[Count.DENSE_MACS]) * 100 / (cycles * peak),
        mapping=mapping * 100, utilisation=utilisation * 100,
        sram=(int(counts[Count.INPUT_SRAM_READS]), int(counts[Count.WEIGHT_SRAM_READS]),
              int(counts[Count.OUTPUT_SRAM_WRITES])),
        windows=windows,
        dram=(int(counts[Count.INPUT_DRAM_READ_BYTES]), int(counts[Count.WEIGHT_DRAM_READ_BYTES]),
              int(counts[Count.OUTPUT_DRAM_WRITE_BYTES] + counts[Count.PSUM_DRAM_WRITE_BYTES])),
        storage=_storage(layer),
    )


def _folds(extent: int, size: int) -> list[int]:
    """Real rows or columns of each fold along one held axis."""
    return [min(size, extent - first) for first in range(0, extent, size)]


def _held(physical: Physical, dataflow: str) -> tuple[int, int, int]:
    """(held on rows, held on columns, streamed) of the GEMM."""
    m, k, n = physical.m, physical.k, physical.n
    return {"ws": (k, n, m), "os": (m, n, k), "is": (k, m, n)}[dataflow]


def _efficiency(physical: Physical, array: Any) -> tuple[float, float]:
    """(mapping efficiency, compute utilisation): the mean over folds, summed in SCALE-Sim's order to its last digit."""
    held_rows, held_cols, streamed = _held(physical, array.dataflow)
    slots = array.rows * array.cols
    cycles = (streamed + array.rows + array.cols - 2 if array.dataflow == "os"
              else 2 * array.rows + 2 * array.cols + streamed - 3)
    used = [rows * cols for cols in _folds(held_cols, array.cols) for rows in _folds(held_rows, array.rows)]
    return (sum(macs / slots for macs in used) / len(used),
            sum(macs * streamed / (slots * cycles) for macs in used) / len(used))


def _windows(physical: Physical, array: Any, cycles: int) -> tuple[Window, Window, Window]:
    """First and last cycle of the input's, filter's and output's stream in SCALE-Sim's numbering.

    The last fold starts `lines` before the end; operand i of a diagonal enters i cycles after the first; the outputs of
    the last column leave last.  (The peer stops earlier where its windows stick out of the input: no address there.)
    """
    held_rows, held_cols, streamed = _held(physical, array.dataflow)
    rows, cols = array.rows, array.cols
    # A short fold is loaded from the bottom row up, and read out at the bottom: its first word comes later.
    first_rows, last_rows = _folds(held_rows, rows)[0], _folds(held_rows, rows)[-1]
    last_cols = _folds(held_cols, cols)[-1]
    lines = streamed + rows + cols - 2 if array.dataflow == "os" else 2 * rows + cols + streamed - 2
    last = cycles + 1 - lines
    if array.dataflow == "os":
        return ((1, last + streamed + last_rows - 1), (1, last + streamed + last_cols - 1),
                (streamed - 1 + rows - first_rows, cycles - (cols - last_cols)))
    stationary = (1 + rows - first_rows, last + rows)
    streaming = (rows + 1, last + rows + streamed + last_rows - 1)
    outputs = (2 * rows - 1, cycles - (cols - last_cols))
    return (streaming, stationary, outputs) if array.dataflow == "ws" else (stationary, streaming, outputs)


def _storage(layer: LayerReport) -> tuple[str, int, float, float]:
    """(representation, dense words, words with metadata, metadata words) of the filter, by SCALE-Sim's formulas.

    n:m masks as blocked ELLPACK, kept slots and ceil(log2 m) bits of a 32-bit word each; any other mask as CSR, a word
    per index and per row pointer.  A dense layer has no metadata, also where its topology says 4:4 (the peer stores
    positions even then).
    """
    gemm, groups = layer.layer.operation.gemm(), layer.layer.operation.groups
    dense = gemm.k * gemm.n * groups
    structure = parse(layer.layer.structure)
    if layer.layer.packed_weight is None or structure.is_plain_n_of_m:
        kept, of = (structure.keep or 1, int(structure.group[0])) if structure.is_plain_n_of_m else (1, 1)
        slots = (gemm.k // of * kept + min(gemm.k % of, kept)) * gemm.n * groups
        metadata = slots * math.ceil(math.log2(of)) / 32
        return "ellpack_block", dense, slots + metadata, metadata
    indices = layer.layer.weight_nnz + gemm.k * groups + 1
    return "csr", dense, layer.layer.weight_nnz + indices, indices


def _csv(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    lines = [", ".join(header) + ",", *(", ".join(map(str, [index, *row])) + "," for index, row in enumerate(rows))]
    return "\n".join(lines) + "\n"
