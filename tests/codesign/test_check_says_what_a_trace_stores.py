"""`espalier check TRACE`: the weights' bytes dense and in the smallest format of each layer."""

import numpy as np

from codesign.cli import main
from simulator import Gemm, LayerTrace, Trace
from simulator.structure import parse, project


def test_each_layer_gets_its_smallest_format(tmp_path, capsys):
    mask = project(np.random.default_rng(0).random((64, 16)), parse("2:4"))
    few = np.zeros((64, 16), dtype=bool)
    few[3, 5] = True
    path = tmp_path / "trace.safetensors"
    Trace([LayerTrace("dense", Gemm(2, 8, 8)), LayerTrace("nm", Gemm(2, 64, 16), mask, structure="2:4"),
           LayerTrace("few", Gemm(2, 64, 16), few)]).save(path)
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().out
    # Dense 64 + 1024 + 1024 bytes.  Smallest: 64 bytes as they are; 512 values with a bit for each of 1024 places (the
    # two bits per value of 2:4 are as many: the map comes first); one value behind a run of 53 zeros: 6 bits.
    assert "weights 2,112 bytes dense" in said
    bits = 64 * 8 + (512 * 8 + 1024) + (8 + 6)
    assert f"{-(-bits // 8):,} in the smallest formats" in said
    assert "rle 6 in 1 layers" in said
    assert "bitmask in 1 layers" in said
