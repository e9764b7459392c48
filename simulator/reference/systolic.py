"""The slow twin of machines/systolic.py: a clocked array, buffers with real data and a DRAM channel, edge by edge.

`run` steps until the last result is visible and the last store is done; cycles and counts are what was seen to
happen, and the product that the array made comes out beside them.  Energy is left out.  Read operands.py,
program.py, sequencer.py and the two arrays for the parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..counts import Count
from ..hardware import Machine
from ..mapping import Tiling
from ..report import LayerCounts
from ..trace import LayerTrace
from ..workload import Gemm
from .accesses import AccessLog
from .banks import Banks
from .buffers import InputHalf, OutputHalf, Space, WeightHalf
from .channel import Channel, Job
from .dram import Dram, Layout
from .operands import Group, Operands, prepare
from .output_stationary import OutputStationaryArray
from .program import Fold, Load, Occupancy, Program, Step, compile_program, executed_weights
from .registers import COLUMN, SUM, Records, bubbles, row_type
from .sequencer import Sequencer
from .stationary import StationaryArray
from .storage import Form, Store


def run(
    layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: NDArray[np.int64], weights: NDArray[np.int64],
    arrivals: list[tuple[int, int, int]] | None = None,
) -> tuple[LayerCounts, NDArray[np.int64]]:
    """Step one layer through the machine.

    inputs: int[batch, c, h, w] or [m, k]; weights: int[out, c/groups, kh, kw] or [k, n], zero exactly where the
    masks are False.  Returns the counts and the output, int64[batch, out, oh, ow] or [m, n].  With an ideal
    memory the tiling is not used.  To `arrivals` is added what leaves the array, in order of time: (edge after which a
    result is visible, column, value), rows and columns that are not in use included.  Raises ValueError for a tiling
    that does not fit the buffers.
    """
    if machine.array.compact_channels and layer.weight_nnz == 0:
        return _left_out(layer, tiling)
    operands = prepare(layer, machine, inputs, weights)
    if machine.memory.memory == "ideal":
        tiling = Tiling(operands.m, operands.k, operands.n)
    twin = _Twin(layer, machine, operands, compile_program(operands, machine, tiling))
    twin.arrivals = arrivals
    now = 0
    while not twin.step(now):
        now += 1
    executed_as = "dense"
    if operands.of > 1:
        executed_as = f"{operands.keep}:{operands.of}"
    elif operands.covers:
        executed_as = f"n:{operands.lanes} per {machine.array.nm_cover}"
    elif twin.program.skipped_a_fold:
        executed_as = f"block {machine.array.rows}x{machine.array.cols}"
    return LayerCounts(twin.final_counts(), tiling, executed_as), twin.output()


def accesses(layer: LayerTrace, machine: Machine, tiling: Tiling, inputs: NDArray[np.int64],
             weights: NDArray[np.int64], first: int, stop: int | None) -> tuple[NDArray[np.int64], int]:
    """(accesses of the cycles [first, stop) as accesses.AccessLog.table has them, cycles that were stepped)."""
    if machine.array.compact_channels and layer.weight_nnz == 0:
        return np.zeros((0, 6), dtype=np.int64), 0
    operands = prepare(layer, machine, inputs, weights)
    twin = _Twin(layer, machine, operands, compile_program(operands, machine, tiling))
    twin.log = AccessLog(operands, first)
    now = 0
    while (stop is None or now < stop) and not twin.step(now):
        now += 1
    return twin.log.table(), now


def _left_out(layer: LayerTrace, tiling: Tiling) -> tuple[LayerCounts, NDArray[np.int64]]:
    """A layer that has lost all its channels takes no step at all."""
    counts = np.zeros(len(Count), dtype=np.int64)
    counts[[Count.DENSE_MACS, Count.SKIPPED_MACS]] = layer.operation.macs
    operation = layer.operation
    shape = (operation.m, operation.n) if isinstance(operation, Gemm) else (
        operation.batch, operation.out_channels, operation.out_h, operation.out_w)
    return LayerCounts(counts, tiling, "removed"), np.zeros(shape, dtype=np.int64)


class _Twin:
    """Everything that has a clock, and the counters."""

    def __init__(self, layer: LayerTrace, machine: Machine, operands: Operands, program: Program) -> None:
        self.layer, self.machine, self.operands, self.program = layer, machine, operands, program
        spec, memory = machine.array, machine.memory
        self.stationary = spec.dataflow != "os"
        self.array = (StationaryArray if self.stationary else OutputStationaryArray)(spec, operands.lanes)
        # Edges after which an operand that entered last, and its result, have left every register.
        self.depth = ((spec.rows + 1) * (spec.psum_hop_registers + 1) + (spec.cols + 1) * spec.activation_hop_registers
                      + spec.multiplier_latency + spec.accumulator_latency + spec.input_register + spec.output_register)
        self.quiet = self.depth
        self.arrivals: list[tuple[int, int, int]] | None = None
        self.log: AccessLog | None = None
        memory_banks = memory.input_banks or memory.weight_banks or memory.output_banks
        banks = Banks(layer, machine, operands)
        one_edge = memory.memory == "ideal" or not memory_banks
        self.sequencer = Sequencer(machine, program, (lambda fold, position: 1) if one_edge else banks.edges)
        self.counts = np.zeros(len(Count), dtype=np.int64)
        self.input_halves: dict[int, InputHalf] = {}
        self.weight_halves: dict[int, WeightHalf] = {}
        self.output_halves: dict[int, OutputHalf] = {}
        self.sizes: dict[tuple[str, int], int] = {}  # bytes that a load takes in its buffer
        shape = (len(operands.groups), operands.m, operands.n)
        self.dram = np.zeros(shape, dtype=np.int64)  # outputs and partial sums
        self.written = np.zeros(shape, dtype=bool)  # in the output buffer, at any time in the layer
        self.ideal = memory.memory == "ideal"
        self.store = Store(layer, machine, operands, program)
        shared = Space(memory.shared_buffer_bytes)
        self.space = {
            name: shared if memory.shared_buffer_bytes else Space(capacity)
            for name, capacity in (("input", memory.input_buffer_bytes), ("weight", memory.weight_buffer_bytes),
                                   ("output", memory.output_buffer_bytes))
        }
        self.layout = Layout(memory)
        self.staying: list[Job] = []
        jobs = [] if self.ideal else self._jobs()
        self.channel: Channel | Dram
        if memory.memory == "dram":
            self.channel = Dram(memory, jobs)
        else:
            self.channel = Channel(*memory.bandwidth(), memory.dram_latency_cycles, jobs)
        # What stays on chip has a queue of its own, which no bandwidth holds up.
        self.on_chip = Channel(0, 1, 0, self.staying)
        if self.ideal:
            for load in program.loads["input"] + program.loads["weight"]:
                self._fill(load)

    def step(self, now: int) -> bool:
        """One clock edge and what settles before it; True when nothing was left to do."""
        if self.log is not None:
            self.log.now = now
        self.channel.settle(now)
        while self.on_chip.queue and self.on_chip.queue[0].ready():
            self.on_chip.settle(now)
            self.channel.settle(now)
        if self.sequencer.done and self.channel.idle and self.on_chip.idle:
            self._let_operands_run_out()
            return True
        vector, row = self.sequencer.decide(now)
        results = self._array_edge(vector, row)
        self.channel.edge()
        ended = self.sequencer.close_edge(now)
        self._collect(now, results.reshape(-1, self.machine.array.cols))
        if ended is not None and ended.last_of_step:
            self._release(self.program.steps[ended.step])
        return False

    def _array_edge(self, vector: tuple[Fold, int] | None, row: tuple[Fold, int] | None) -> Records:
        self.quiet = 0 if vector or row else self.quiet + 1
        if self.quiet > self.depth:
            return bubbles(self.machine.array.cols, SUM)  # nothing is left in the array that an edge could move
        if isinstance(self.array, StationaryArray):
            return self.array.edge(self._row_vector(vector), self._stationary_row(row))
        return self.array.edge(self._row_vector(vector), self._column_vector(vector))

    def _let_operands_run_out(self) -> None:
        """Operands pass registers beyond the last element that needs them: no cycle of this layer, but energy."""
        for _ in range(self.depth):
            self._array_edge(None, None)

    # --- what the array is fed -----------------------------------------------------------------------------

    def _row_vector(self, vector: tuple[Fold, int] | None) -> Records:
        """One record per array row: an input with its n:m candidates (ws, os) or a weight (is)."""
        records = bubbles(self.machine.array.rows, row_type(self.operands.lanes))
        if vector is None:
            return records
        fold, time = vector
        used = len(fold.rows)
        records["fold"], records["time"] = fold.number, time
        records["real"][:used] = True
        if time == 0:
            self._count_decoder_reads(fold)
        at = fold.stream[time]
        flow = self.machine.array.dataflow
        if flow == "is":
            value, _ = self._weights(fold).read(np.array(fold.rows), at)
            records["value"][:used, 0], records["live"][:used, 0] = value, value != 0
            records["fetched"][:used] = 1
            self._count_weight_reads(used)
            if self.log is not None:
                self.log.weights(self._group(fold), np.array(fold.rows), at)
            return records
        half = self._inputs(fold)
        if flow == "ws":
            held = fold.placement
            candidates, fetched = (held.lanes, held.fetched) if held else self.operands.bundles(fold.rows)
            value, live = half.read(np.array(at), candidates)
        else:
            # Along the stream the lanes are fetched with the first slot of their n:m group and then kept.
            candidates, fetched_over_time = self.operands.bundles(fold.stream)
            value, live = half.read(np.array(fold.rows)[:, None], candidates[time][None])
            fetched = np.full(used, fetched_over_time[time])
        records["value"][:used], records["live"][:used], records["fetched"][:used] = value, live, fetched
        self.counts[Count.INPUT_SRAM_READS] += int(fetched.sum())
        if self.log is not None:
            pixels = np.full(used, at) if flow == "ws" else np.array(fold.rows)
            chosen = candidates if flow == "ws" else np.tile(candidates[time], (used, 1))
            self.log.inputs(self._group(fold), pixels, chosen, fetched)
        return records

    def _stationary_row(self, row: tuple[Fold, int] | None) -> Records:
        """One record per array column of the weights (ws) or inputs (is) that rest in an array row."""
        records = bubbles(self.machine.array.cols, COLUMN)
        if row is None:
            return records
        fold, array_row = row
        used = len(fold.cols)
        records["fold"] = fold.number
        records["column"][:used] = True
        records["last"][:used] = True if fold.placement is None else fold.placement.ends
        if fold.first_of_step and array_row == self.machine.array.rows - 1:
            self._count_descriptor_reads(fold)
        if array_row >= len(fold.rows):
            return records  # zeros fill the rows that an edge fold does not have
        if fold.placement is not None:
            self._fill_placed(records, fold, array_row)
            return records
        records["real"][:used] = True
        at = fold.rows[array_row]
        if self.machine.array.dataflow == "ws":
            self._fill_weights(records, fold, at, fold.cols)
        else:
            value, live = self._inputs(fold).read(np.array(fold.cols), np.array(at))
            records["value"][:used], records["live"][:used] = value, live
            self.counts[Count.INPUT_SRAM_READS] += used
            if self.log is not None:
                self.log.inputs(self._group(fold), np.array(fold.cols), np.full((used, 1), at), np.ones(used, np.int64))
        return records

    def _column_vector(self, vector: tuple[Fold, int] | None) -> Records:
        """One weight per array column (os)."""
        records = bubbles(self.machine.array.cols, COLUMN)
        if vector is None:
            return records
        fold, time = vector
        records["fold"], records["time"], records["last"] = fold.number, time, time + 1 == len(fold.stream)
        records["column"][: len(fold.cols)] = records["real"][: len(fold.cols)] = True
        self._fill_weights(records, fold, fold.stream[time], fold.cols)
        return records

    def _fill_weights(self, records: Records, fold: Fold, k: int, n: range) -> None:
        value, source = self._weights(fold).read(k, np.array(n))
        records["value"][: len(n)], records["live"][: len(n)] = value, value != 0
        records["choice"][: len(n)] = source - self.operands.bundle(k).start
        self._count_weight_reads(len(n))
        if self.log is not None:
            self.log.weights(self._group(fold), k, np.array(n))

    def _fill_placed(self, records: Records, fold: Fold, array_row: int) -> None:
        held = fold.placement
        assert held is not None  # the caller asked
        real = held.weight_row[array_row] >= 0
        used = len(real)
        value, _ = self._weights(fold).read(held.weight_row[array_row][real], held.outputs[real])
        records["real"][:used] = real
        records["value"][:used][real], records["live"][:used][real] = value, value != 0
        records["choice"][:used] = held.choice[array_row]
        self.counts[Count.WEIGHT_SRAM_READS] += int(real.sum())
        if self.log is not None:
            self.log.placed(fold, self._group(fold), array_row)
        indices = int((real & held.indexed).sum())
        self.counts[Count.METADATA_SRAM_READ_BITS] += indices * (self.operands.lanes - 1).bit_length()

    def _count_descriptor_reads(self, fold: Fold) -> None:
        """The n:m of a step's tiles or rows is read with its first weights."""
        if not self.operands.covers:
            return
        cover, load = self.operands.covers[fold.group], self.program.steps[fold.step].weight
        assert load is not None  # a step with folds has both
        nothing = np.zeros((self.operands.k, self.operands.n), dtype=bool)
        bits = cover.metadata_bits(load.tile.k, load.tile.n, nothing, self.machine.array.cols)
        self.counts[Count.METADATA_SRAM_READ_BITS] += bits

    def _count_decoder_reads(self, fold: Fold) -> None:
        """A tile that is decoded behind its buffer is read whole: with the first of the folds that share it out."""
        load = self.program.steps[fold.step].weight
        if self.ideal or load is None or not self.store.decoder_behind_buffer:
            return
        flow = self.machine.array.dataflow
        if fold.first_of_step if flow == "ws" else (
                fold.cols.start == load.tile.n.start if flow == "os" else fold.rows.start == load.tile.k.start):
            form = self.store.form(load)
            self.counts[Count.WEIGHT_SRAM_READS] += form.buffer_values
            self.counts[Count.METADATA_SRAM_READ_BITS] += form.buffer_metadata_bits

    def _count_weight_reads(self, reads: int) -> None:
        if not self.ideal and self.store.decoder_behind_buffer:
            return  # the array's reads are the decoder's
        self.counts[Count.WEIGHT_SRAM_READS] += reads
        self.counts[Count.METADATA_SRAM_READ_BITS] += reads * self.operands.metadata_bits

    def _group(self, fold: Fold) -> Group:
        return self.operands.groups[fold.group]

    def _inputs(self, fold: Fold) -> InputHalf:
        load = self.program.steps[fold.step].input
        assert load is not None  # a step with folds has both, and the sequencer waited for them
        return self.input_halves[load.number]

    def _weights(self, fold: Fold) -> WeightHalf:
        load = self.program.steps[fold.step].weight
        assert load is not None  # a step with folds has both, and the sequencer waited for them
        return self.weight_halves[load.number]

    # --- what it gives back --------------------------------------------------------------------------------

    def _collect(self, now: int, results: Records) -> None:
        """Results that became visible at this edge go to the output half that their fold belongs to."""
        for line in results:
            for col in np.flatnonzero(line["fold"] >= 0):
                result = line[col]
                fold = self.program.folds[int(result["fold"])]
                if result["real"]:
                    m, n = self._place(fold, int(result["time"]), int(result["row"]), int(col))
                    self._accumulate(fold, m, n, int(result["value"]))
                if self.arrivals is not None:
                    self.arrivals.append((now, int(col), int(result["value"])))
                self.sequencer.collected(fold, int(result["time"]), col == self.machine.array.cols - 1)

    def _place(self, fold: Fold, time: int, row: int, col: int) -> tuple[int, int]:
        flow = self.machine.array.dataflow
        if fold.placement is not None:
            return fold.stream[time], int(fold.placement.outputs[col])
        if flow == "ws":
            return fold.stream[time], fold.cols[col]
        return (fold.cols[col], fold.stream[time]) if flow == "is" else (fold.rows[row], fold.cols[col])

    def _accumulate(self, fold: Fold, m: int, n: int, value: int) -> None:
        self._output_half(self.program.steps[fold.step].output).add(m, n, value)
        self.counts[Count.OUTPUT_SRAM_WRITES] += 1
        self.counts[Count.OUTPUT_SRAM_READS] += int(self.written[fold.group, m, n])
        if self.log is not None:
            if self.written[fold.group, m, n]:
                self.log.outputs(self._group(fold), m, n, False)
            self.log.outputs(self._group(fold), m, n, True)
        self.written[fold.group, m, n] = True

    def _output_half(self, stay: Occupancy) -> OutputHalf:
        if stay.number not in self.output_halves:
            if not self.ideal:
                self.space["output"].take(self._output_bytes(stay, self.machine.memory.psum_bits))
            self.output_halves[stay.number] = OutputHalf(stay.tile)
        return self.output_halves[stay.number]

    # --- the memory system ---------------------------------------------------------------------------------

    def _may_be_stored(self, stay: Occupancy) -> bool:
        """All results of the stay are visible, and the partial sums that were asked for it are there."""
        last = stay.last_fold
        return (last is None or self.sequencer.completed > last.number) and (stay.arrived or not stay.returns)

    def _jobs(self) -> list[Job]:
        jobs = []
        for transfer in self.program.transfers:
            visit = transfer.visit
            if isinstance(visit, Load):
                jobs += self._load_jobs(visit, self.store.form(visit))
            else:
                stays = self.machine.memory.outputs_on_chip and transfer.kind != "psum" and visit.complete
                (self.staying if stays else jobs).append(self._output_job(transfer.kind, visit))
        return jobs

    def _load_jobs(self, load: Load, form: Form) -> list[Job]:
        size, held = -(-form.bits // 8), -(-form.buffer_bits // 8)
        writes = Count.WEIGHT_SRAM_WRITES if load.operand == "weight" else Count.INPUT_SRAM_WRITES
        if load.operand == "input" and self.machine.memory.inputs_on_chip:
            self._fill(load)
            self.counts[Count.INPUT_SRAM_WRITES] += form.buffer_values
            return []
        if size == 0:
            self._fill(load)  # a tile that lies wholly in the padding, or of which nothing is stored: nothing to move
            self.counts[writes] += form.buffer_values
            return []
        count = Count.WEIGHT_DRAM_READ_BYTES if load.operand == "weight" else Count.INPUT_DRAM_READ_BYTES

        def begin() -> None:
            self.space[load.operand].take(held)
            if self.log is not None:
                self.log.dram(load.operand, address, False, size_moved)
            self.counts[count] += self._whole_bursts(size)
            self.counts[Count.METADATA_BYTES] += -(-form.metadata_bits // 8)

        def deliver() -> None:
            self._fill(load)
            if self.log is not None:
                halves = self.weight_halves if load.operand == "weight" else self.input_halves
                self.log.filled(halves[load.number])
            self.counts[writes] += form.buffer_values
            self.counts[Count.METADATA_SRAM_WRITE_BITS] += form.buffer_metadata_bits
            self.sizes[load.operand, load.number] = held

        size_moved = self._whole_bursts(size)
        address = self.layout.address(load.operand, load.tile, size_moved)
        return [Job(size_moved, True, self._half_is_free(load), begin, deliver, address)]

    def _half_is_free(self, load: Load) -> Callable[[], bool]:
        memory = self.machine.memory
        double = memory.weight_double_buffered if load.operand == "weight" else memory.input_double_buffered
        older = load.number - (2 if double else 1)
        return lambda: older < 0 or self.program.loads[load.operand][older].released

    def _output_job(self, kind: str, stay: Occupancy) -> Job:
        memory, tile = self.machine.memory, stay.tile
        at = np.s_[tile.group, tile.m.start : tile.m.stop, tile.n.start : tile.n.stop]
        elements = len(tile.m) * len(tile.n)
        size = self._whole_bursts(self._output_bytes(stay, memory.psum_bits))
        older = stay.number - (2 if memory.output_double_buffered else 1)
        if kind == "psum":

            def begin_psum() -> None:
                self._output_half(stay)
                self.counts[Count.PSUM_DRAM_READ_BYTES] += size
                if self.log is not None:
                    self.log.dram("psum", address, False, size)

            def deliver_psum() -> None:
                self._output_half(stay).sums[:] = self.dram[at]
                self.counts[Count.OUTPUT_SRAM_WRITES] += elements
                if self.log is not None:
                    self.log.output_tile(self.operands.groups[tile.group], tile.m, tile.n, True)
                stay.arrived = True

            address = self.layout.address("psum", tile, size)
            return Job(size, True, lambda: older < 0 or self.program.outputs[older].stored, begin_psum, deliver_psum,
                       address)
        if stay.complete:
            size = self._whole_bursts(self._output_bytes(stay, self.layer.output_bits))

        def begin_store() -> None:
            self.dram[at] = self._output_half(stay).sums
            self.counts[Count.OUTPUT_SRAM_READS] += elements
            if self.log is not None:
                self.log.output_tile(self.operands.groups[tile.group], tile.m, tile.n, False)
            if stay.complete and memory.outputs_on_chip:
                return
            if self.log is not None:
                self.log.dram(region, address, True, size)
            self.counts[Count.OUTPUT_DRAM_WRITE_BYTES if stay.complete else Count.PSUM_DRAM_WRITE_BYTES] += size

        def deliver_store() -> None:
            stay.stored = True
            del self.output_halves[stay.number]
            self.space["output"].give(self._output_bytes(stay, memory.psum_bits))

        region = "output" if stay.complete else "psum"
        address = self.layout.address(region, tile, size)
        return Job(size, False, lambda: self._may_be_stored(stay), begin_store, deliver_store, address)

    def _fill(self, load: Load) -> None:
        if load.operand == "weight":
            present = executed_weights(load, self.operands, self.program, self.machine)
            self.weight_halves[load.number] = WeightHalf(self.operands.groups[load.tile.group], present)
        else:
            self.input_halves[load.number] = InputHalf(self.operands, load.tile)
        load.arrived = True

    def _release(self, step: Step) -> None:
        """After the stream of a step: the tiles that no later step uses give up their halves."""
        for load in (step.weight, step.input):
            if load is not None and load.last_step == step.number:
                load.released = True
                halves: dict[int, WeightHalf] | dict[int, InputHalf]
                halves = self.weight_halves if load.operand == "weight" else self.input_halves
                del halves[load.number]
                self.space[load.operand].give(self.sizes.get((load.operand, load.number), 0))

    def _output_bytes(self, stay: Occupancy, bits: int) -> int:
        return -(-len(stay.tile.m) * len(stay.tile.n) * bits // 8)

    def _whole_bursts(self, size: int) -> int:
        burst = self.machine.memory.burst_bytes
        return -(-size // burst) * burst

    # --- the result ----------------------------------------------------------------------------------------

    def final_counts(self) -> NDArray[np.int64]:
        """The counters, with the array's own and the work that was left out."""
        counts, array = self.counts, self.array
        if isinstance(self.channel, Dram):
            for item, number in self.channel.count().items():
                counts[item] += number
        for cause, cycles in self.sequencer.cycles.items():
            counts[cause] += cycles
        weights_move_along_rows = self.machine.array.dataflow == "is"
        across, down = Count.INPUT_HOPS, Count.WEIGHT_HOPS
        if weights_move_along_rows:
            across, down = down, across
        counts[across], counts[down], counts[Count.PSUM_HOPS] = array.row_hops, array.column_hops, array.sum_hops
        useful = array.useful
        if self.layer.packed_input is None:
            useful = math.floor(self.layer.input_density * useful + 0.5)
        counts[Count.DENSE_MACS] = self.layer.operation.macs
        counts[Count.USEFUL_MACS] = useful
        counts[Count.GATED_MACS] = array.slots - useful if self.machine.array.gating == "zeros" else 0
        counts[Count.ISSUED_MACS] = array.slots - counts[Count.GATED_MACS]
        counts[Count.SKIPPED_MACS] = counts[Count.DENSE_MACS] - array.slots
        return counts

    def output(self) -> NDArray[np.int64]:
        """The product, in the operation's own shape; removed filters are zero."""
        for half in self.output_halves.values():  # an ideal memory has no stores
            tile = half.tile
            self.dram[tile.group, tile.m.start : tile.m.stop, tile.n.start : tile.n.stop] = half.sums
        shape = self.operands.shape
        product = np.zeros((self.operands.m, shape.out_channels), dtype=np.int64)
        for group, part in zip(self.operands.groups, self.dram, strict=True):
            product[:, group.filters] = part
        if isinstance(self.layer.operation, Gemm):
            return product
        return product.reshape(shape.batch, shape.out_h, shape.out_w, -1).transpose(0, 3, 1, 2)
