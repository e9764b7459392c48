"""What a kernel counts: one int64 vector over a fixed enum, additive over layers.

Every machine fills the same vector and leaves at zero what it does not have.  SRAM traffic is counted in
elements of the operand (widths become bytes in report.py), DRAM traffic in bytes as they cross the
channel, bursts included.  The cycle entries are disjoint: they sum to the layer's cycles.
"""

from __future__ import annotations

from enum import IntEnum, auto


class Count(IntEnum):
    """Index into a Counts vector (int64[len(Count)])."""

    # work, in multiply-accumulates; dense = issued + gated + skipped, useful <= issued
    DENSE_MACS = 0  # every product of the dense operation, products with padding included
    USEFUL_MACS = auto()  # both operands nonzero
    ISSUED_MACS = auto()  # the multiplier switched
    GATED_MACS = auto()  # the slot was spent, the multiplier did not switch
    SKIPPED_MACS = auto()  # neither slot nor energy
    VECTOR_OPERATIONS = auto()  # scalar operations of operators that are not GEMMs
    # array registers: one count per operand element per register it enters
    INPUT_HOPS = auto()
    WEIGHT_HOPS = auto()
    PSUM_HOPS = auto()
    # on-chip buffers, in elements
    INPUT_SRAM_READS = auto()
    INPUT_SRAM_WRITES = auto()
    WEIGHT_SRAM_READS = auto()
    WEIGHT_SRAM_WRITES = auto()
    OUTPUT_SRAM_READS = auto()
    OUTPUT_SRAM_WRITES = auto()
    METADATA_SRAM_READ_BITS = auto()
    METADATA_SRAM_WRITE_BITS = auto()
    # DRAM channel, in bytes
    INPUT_DRAM_READ_BYTES = auto()
    WEIGHT_DRAM_READ_BYTES = auto()  # values and metadata, as they are stored together
    PSUM_DRAM_READ_BYTES = auto()
    OUTPUT_DRAM_WRITE_BYTES = auto()
    PSUM_DRAM_WRITE_BYTES = auto()
    METADATA_BYTES = auto()  # of WEIGHT_DRAM_READ_BYTES, before rounding to bursts
    # DRAM commands, with memory = "dram" only; bursts = hits + misses + conflicts, activates = misses + conflicts
    DRAM_ROW_HITS = auto()  # the burst's row was open
    DRAM_ROW_MISSES = auto()  # its bank was closed
    DRAM_ROW_CONFLICTS = auto()  # its bank had another row open
    DRAM_REFRESHES = auto()  # of all banks of a channel
    # links between arrays, in bytes
    LINK_BYTES = auto()  # inputs that are scattered and outputs that are gathered
    # cycles by cause; disjoint
    COMPUTE = auto()  # operands stream into the array
    FILL = auto()  # first stationary operand or bias enters, nothing can stream yet
    WEIGHT_SHIFT = auto()  # a later stationary operand enters and no stream hides it
    DRAIN = auto()  # results leave and nothing streams
    QUEUE = auto()  # the request queue is full
    COLD_FILL = auto()  # the first operands come from DRAM
    STALL_WEIGHT = auto()
    STALL_INPUT = auto()
    STALL_PSUM = auto()
    STALL_OUTPUT = auto()  # no free output buffer, or the last results go to DRAM
    # losses of sparse machines, where the array could have worked but its parts were not all busy
    IMBALANCE = auto()  # at a barrier, units wait for the slowest
    BANK_CONFLICT = auto()  # products queue for the same accumulator bank
    FRAGMENTATION = auto()  # slots of a vector or a pass that the nonzeros do not fill
    HALO = auto()  # partial sums at tile borders are exchanged
    # between layers
    VECTOR = auto()  # the vector unit works, and the array's own time does not hide it
    STARTUP = auto()  # a layer or an operator is configured and launched
    EXCHANGE = auto()  # operands cross the link between arrays


FIRST_CAUSE = Count.COMPUTE
CAUSES = tuple(item for item in Count if item >= FIRST_CAUSE)
