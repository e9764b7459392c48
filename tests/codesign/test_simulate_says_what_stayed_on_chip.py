"""`espalier simulate` with keep_outputs_on_chip and with declared formats: the line, and the JSON."""

import json

from codesign.cli import main
from simulator import Gemm, LayerTrace, Trace

KEEPING = "systolic_ws?keep_outputs_on_chip=true&output_buffer_bytes=65536"


def chain(path):
    """Two layers; 8 x 32 bytes between them."""
    Trace([LayerTrace("first", Gemm(8, 16, 32)), LayerTrace("second", Gemm(8, 32, 16))],
          [("first", "second")]).save(path)
    return str(path)


def test_a_line_names_what_stayed_and_what_it_saved(tmp_path, capsys):
    trace = chain(tmp_path / "chain.safetensors")
    assert main(["simulate", trace, "--machine", KEEPING]) == 0
    # 256 bytes are not stored and not loaded; both are whole bursts of 64.
    assert "systolic_ws: on chip from layer to layer, 512 DRAM bytes saved: first" in capsys.readouterr().out
    assert main(["simulate", trace, "--machine", "systolic_ws"]) == 0
    assert "on chip from layer to layer" not in capsys.readouterr().out


def test_the_json_has_edges_formats_and_actions(tmp_path, capsys):
    trace = chain(tmp_path / "chain.safetensors")
    assert main(["simulate", trace, "--machine", f"{KEEPING}&weight_format=auto", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    [found] = report["machines"]
    assert found["kept_on_chip"] == [{"producer": "first", "consumers": ["second"], "bytes": 256,
                                      "dram_bytes_saved": 512}]
    assert [layer["formats"] for layer in found["layers"]] == [{"weight": "uncompressed", "input": "dense"}] * 2
    assert {action["action"] for action in found["sparse_actions"]} == {"skip"}
    assert main(["simulate", trace, "--machine", "sigma?keep_outputs_on_chip=true"]) == 2
    assert "partial sums cross the channel" in capsys.readouterr().err
