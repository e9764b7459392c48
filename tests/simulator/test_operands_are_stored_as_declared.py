"""Weights and inputs in a declared format: bytes over the channel, bytes in the buffer, what the report says."""

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, LayerTrace, Trace, load_machine, simulate
from simulator.counts import Count
from simulator.formats import STORABLE, candidates_of, size_bits

ARRAY = {"rows": 2, "cols": 2, "dram_burst_bytes": 1, "compact_channels": False}


def run(layer, **fields):
    return simulate(Trace([layer]), load_machine("systolic_ws", {**ARRAY, **fields}), compare_dense=False).layers[0]


def counts(report, *names):
    return tuple(int(report.total.counts[Count[name]]) for name in names)


def hand():
    """GEMM of 3 vectors, weights of 4 x 4 bytes with 3 nonzeros: 1 . . . / . . . . / . . . 1 / 1 . . ."""
    mask = np.zeros((4, 4), dtype=bool)
    mask[[0, 2, 3], [0, 3, 0]] = True
    return LayerTrace("hand", Gemm(3, 4, 4), mask)


@pytest.mark.parametrize(("declared", "stored", "metadata_bits"), [
    ("dense", 16, 0),
    ("bitmask", 3, 16),
    ("csr", 3, 5 * 5 + 3 * 2),  # 5 offsets up to 16, 3 columns of 4
    ("csc", 3, 5 * 5 + 3 * 2),
    ("coordinate", 3, 3 * 4),
    ("run_length", 3, 3 * 4),  # runs of 0, 10 and 0 zeros fit 4 bits
    ("rle 2", 5, 5 * 2),  # 10 zeros: twice a full run of 3 and a stored zero, then 2
])
def test_a_tile_costs_what_the_format_takes(declared, stored, metadata_bits):
    whole = {"rows": 4, "cols": 4}  # one tile: smaller ones would not store the zeros after their last nonzero
    native, report = run(hand(), **whole), run(hand(), **whole, weight_format=declared)
    size = -(-(stored * 8 + metadata_bits) // 8)
    assert counts(native, "WEIGHT_DRAM_READ_BYTES", "METADATA_BYTES") == (16, 0)
    assert counts(report, "WEIGHT_DRAM_READ_BYTES", "METADATA_BYTES") == (size, -(-metadata_bits // 8))
    # Decoded ahead of the buffer: there and in the array nothing has changed.
    on_chip = ("WEIGHT_SRAM_WRITES", "WEIGHT_SRAM_READS", "METADATA_SRAM_WRITE_BITS", "METADATA_SRAM_READ_BITS",
               "ISSUED_MACS")
    assert counts(report, *on_chip) == counts(native, *on_chip)
    behind = run(hand(), **whole, weight_format=declared, weight_decoder="read")
    assert counts(behind, *on_chip) == (stored, stored, metadata_bits, metadata_bits, 48)
    assert counts(behind, "WEIGHT_DRAM_READ_BYTES") == (size,)


def test_a_buffer_ahead_of_the_decoder_holds_larger_tiles():
    # 8 x 8 dense bytes, 4 nonzeros: 4 bytes and 64 bits, 12 bytes.
    layer = LayerTrace("sparse", Gemm(8, 8, 8), np.arange(64).reshape(8, 8) % 17 == 0)
    small = {"weight_format": "bitmask", "weight_buffer_bytes": 12, "rows": 8, "cols": 8}
    with pytest.raises(InputError, match="misses the buffers by 52 bytes"):
        run(layer, **small)
    held = run(layer, **small, weight_decoder="read")
    assert counts(held, "WEIGHT_DRAM_READ_BYTES") == (12,)
    with pytest.raises(InputError, match="misses the buffers by 1 bytes"):
        run(layer, **{**small, "weight_buffer_bytes": 11}, weight_decoder="read")


@pytest.mark.parametrize(("flow", "times"), [("ws", 1), ("os", 3), ("is", 3)])
def test_a_decoder_behind_the_buffer_reads_the_tile_whenever_the_array_does(flow, times):
    # m = 6 on an array of 2 x 2: os and is hold 2 rows of m at a time, and stream the weights for each of them.
    layer = LayerTrace("streamed", Gemm(6, 4, 4), hand().weight_mask)
    report = run(layer, dataflow=flow, weight_format="bitmask", weight_decoder="read")
    assert counts(report, "WEIGHT_SRAM_READS", "METADATA_SRAM_READ_BITS") == (3 * times, 16 * times)


def test_inputs_take_their_channels_share():
    # Two channels of 4 x 4, 2 nonzeros in the first, none in the second; a 1x1 kernel of stride 2 reads 2 x 2 of each.
    mask = np.zeros((1, 2, 4, 4), dtype=bool)
    mask[0, 0, 0, 0] = mask[0, 0, 1, 1] = True
    conv = Conv2d(2, 2, 4, 4, 1, 1, stride_h=2, stride_w=2)
    layer = LayerTrace("strided", conv, None, mask)
    native, report = run(layer), run(layer, input_format="bitmask")
    assert counts(native, "INPUT_DRAM_READ_BYTES", "INPUT_SRAM_WRITES") == (8, 8)
    # What is read: 2 channels x 4 positions, one nonzero: 8 + 8 bits.  The buffer gets the decoded 8 values.
    assert counts(report, "INPUT_DRAM_READ_BYTES", "INPUT_SRAM_WRITES") == (2, 8)
    assert report.formats == {"weight": "dense", "input": "bitmask"}


def test_zeros_that_fill_a_tile_do_not_cross_the_channel():
    layer = LayerTrace("nothing", Gemm(3, 4, 4), None, np.zeros((3, 4), dtype=bool))
    report = run(layer, input_format="coordinate")
    assert counts(report, "INPUT_DRAM_READ_BYTES", "INPUT_SRAM_WRITES", "STALL_INPUT") == (0, 12, 0)


def test_auto_is_the_smallest_and_the_report_names_it():
    rng = np.random.default_rng(5)
    chosen = {}
    for density in (0.01, 0.1, 0.5, 1.0):
        mask = rng.random((64, 64)) < density
        layer = LayerTrace("drawn", Gemm(4, 64, 64), mask, rng.random((4, 64)) < density)
        report = run(layer, weight_format="auto", input_format="auto", rows=64, cols=64)
        sizes = {text: sum(size_bits(mask, candidates_of(text)[0], 8)) for text in STORABLE}
        assert counts(report, "WEIGHT_DRAM_READ_BYTES") == (-(-min(sizes.values()) // 8),)
        chosen[density] = report.to_dict()["formats"]["weight"]
        assert chosen[density] == str(candidates_of(min(sizes, key=sizes.__getitem__))[0])
    assert chosen == {0.01: "rle 8", 0.1: "rle 5", 0.5: "bitmask", 1.0: "uncompressed"}


def test_fewer_bytes_are_faster_and_cheaper_where_the_channel_is_narrow():
    rng = np.random.default_rng(0)
    layer = LayerTrace("pruned", Gemm(16, 256, 256), rng.random((256, 256)) < 0.1, rng.random((16, 256)) < 0.3)
    narrow = {"rows": 16, "cols": 16, "dram_bytes_per_cycle": 1.0}
    native = run(layer, **narrow)
    packed = run(layer, **narrow, weight_format="auto", input_format="auto")
    assert packed.cycles < 0.4 * native.cycles
    dram = [report.total.energy_pj_by_component["dram"] for report in (packed, native)]
    assert dram[0] < 0.5 * dram[1]
    assert counts(packed, "ISSUED_MACS", "INPUT_SRAM_READS") == counts(native, "ISSUED_MACS", "INPUT_SRAM_READS")


def test_a_density_alone_spreads_the_nonzeros_evenly():
    layer, whole = LayerTrace("known share", Gemm(10, 10, 2), None, input_density=0.25), {"rows": 10, "cols": 2}
    # 25 of 100 words, runs of 3 zeros between them: bitmask 25 x 8 + 100 bits; 2 bits say a run without a stored zero.
    assert counts(run(layer, **whole, input_format="bitmask"), "INPUT_DRAM_READ_BYTES") == (38,)
    assert counts(run(layer, **whole, input_format="rle 2"), "INPUT_DRAM_READ_BYTES") == (32,)
    assert counts(run(layer, **whole, input_format="rle 1"), "INPUT_DRAM_READ_BYTES") == (-(-(25 + 24) * 9 // 8),)


@pytest.mark.parametrize(("machine", "fields", "said"), [
    ("sparten", {"weight_format": "csr"}, r'weight_format = \'csr\'; expected "native" \(bitmask\)'),
    ("eie", {"input_format": "bitmask"}, r'input_format = \'bitmask\'; expected "native" \(dense\)'),
    ("nm_array", {"weight_format": "bitmask"}, r'expected "native" \(n:m\)'),
    ("systolic_ws", {"weight_format": "bitmsk"}, "did you mean 'bitmask'"),
    ("systolic_ws", {"input_format": "2:4"}, "unknown format '2:4'"),
    ("systolic_ws", {"weight_decoder": "read"}, "needs a weight_format"),
    ("systolic_ws", {"weight_format": "csr", "weight_decoder": "late"}, "expected one of load, read"),
])
def test_what_the_hardware_cannot_decode_is_refused(machine, fields, said):
    with pytest.raises(InputError, match=said):
        load_machine(machine, fields)


def test_a_machine_may_name_its_own_format():
    mask = np.random.default_rng(2).random((32, 32)) < 0.3
    layer = LayerTrace("own", Gemm(4, 32, 32), mask)
    named = simulate(Trace([layer]), load_machine("sparten", {"weight_format": "bitmask"}))
    assert named.layers[0].formats == {"weight": "bitmask", "input": "bitmask"}
    assert named.cycles == simulate(Trace([layer]), load_machine("sparten")).cycles
