"""SCALE-Sim's .cfg and topology .csv: what they become, what is coped with and said, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator import Conv2d, Gemm, InputError, load_machine
from simulator.importers.scalesim import machine_from_cfg, read_topology
from simulator.structure import conforms, parse

V2 = """[general]
run_name = "old"
[architecture_presets]
ArrayHeight = 16
ArrayWidth = 8
IfmapSramSzkB = 64
FilterSramSzkB = 32
OfmapSramSzkB = 16
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = os
Bandwidth = 10
[run_presets]
InterfaceBandwidth = CALC
"""


def cfg(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "machine.cfg"
    path.write_text(text)
    return path


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "net.csv"
    path.write_text(text)
    return path


def notes(trace: object) -> list[str]:
    return trace.provenance["notes"]  # type: ignore[attr-defined, no-any-return]


def test_a_version_2_file_becomes_an_array_in_its_convention(tmp_path: Path) -> None:
    machine = machine_from_cfg(cfg(tmp_path, V2))
    array, memory = machine.array, machine.memory
    assert (array.rows, array.cols, array.dataflow, array.drain, array.weight_buffers) == (16, 8, "os", "in_place", 1)
    assert (array.convention, array.cycle_offset, memory.memory) == ("scalesim", -1, "ideal")
    assert (memory.input_buffer_bytes, memory.weight_buffer_bytes, memory.output_buffer_bytes) == (65536, 32768, 16384)


def test_colons_comments_and_overrides_work(tmp_path: Path) -> None:
    path = cfg(tmp_path, "# a comment\n; another\n" + V2.replace(" = ", " : "))
    assert load_machine(path).array.rows == 16
    assert load_machine(f"{path}?rows=4&cols=32").array.peak_macs_per_cycle == 128


@pytest.mark.parametrize(("old", "new", "line", "words"), [
    ("ArrayWidth = 8", "ArrayWidht = 8", 5, ["'ArrayWidht'", "did you mean 'ArrayWidth'?"]),
    ("ArrayHeight = 16", "ArrayHeight = 0", 4, ["ArrayHeight = '0'", "an integer of at least 1"]),
    ("OfmapSramSzkB = 16", "OfmapSramSzkB = sixteen", 8, ["'sixteen'", "an integer of at least 1"]),
    ("Dataflow = os", "Dataflow = rs", 12, ["Dataflow = 'rs'", "ws, os or is"]),
    ("InterfaceBandwidth = CALC", "InterfaceBandwidth = BOTH", 15, ["CALC or USER"]),
    ("[run_presets]", "[run_preset]", 14, ["[run_preset]", "did you mean 'run_presets'?"]),
    ("ArrayWidth = 8", "ArrayWidth", 5, ["'ArrayWidth'", "`Key = value`"]),
    ("ArrayWidth = 8", "ArrayWidth = 8\nArrayWidth = 9", 6, ["given twice"]),
])
def test_a_mistake_in_a_configuration_names_its_file_line_and_remedy(
        tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    path = cfg(tmp_path, V2.replace(old, new))
    with pytest.raises(InputError) as error:
        machine_from_cfg(path)
    assert f"{path}, line {line}: " in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_all_mistakes_of_a_configuration_come_at_once(tmp_path: Path) -> None:
    text = V2.replace("ArrayHeight = 16\n", "").replace("Dataflow = os", "Dataflow = rs").replace("Ifmap", "ifmapp", 1)
    with pytest.raises(InputError) as error:
        machine_from_cfg(cfg(tmp_path, text))
    for word in ("4 mistakes", "'ArrayHeight' is missing", "'IfmapSramSzkB' is missing", "Dataflow = 'rs'", "ifmapp"):
        assert word in str(error.value)


def test_row_wise_sparsity_is_refused_with_what_to_do(tmp_path: Path) -> None:
    text = V2 + "[sparsity]\nSparsitySupport = true\nOptimizedMapping = true\n"
    with pytest.raises(InputError, match=r"line 18: OptimizedMapping = true; expected false; .*masks in a trace"):
        machine_from_cfg(cfg(tmp_path, text))


def test_a_missing_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.cfg: cannot read it"):
        load_machine(tmp_path / "nowhere.cfg")


def test_output_sizes_follow_the_convention(tmp_path: Path) -> None:
    # (12 - 3 + 2) / 2 = 5.5: six windows by the ceil rule, the last sticking out; five in PyTorch
    path = csv(tmp_path, "head\nconv, 12, 11, 3, 2, 5, 9, 2,\n")
    (peer,), (ours,) = read_topology(path, convention="scalesim").layers, read_topology(path).layers
    assert peer.operation == Gemm(m=6 * 6, k=30, n=9)
    assert ours.operation == Conv2d(in_channels=5, out_channels=9, in_h=12, in_w=11, kernel_h=3, kernel_w=2,
                                    stride_h=2, stride_w=2)
    assert (ours.operation.out_h, ours.operation.out_w) == (5, 5)


def test_gemm_rows_are_name_m_n_k(tmp_path: Path) -> None:
    (layer,) = read_topology(csv(tmp_path, "Layer, M, N, K,\nfc, 2, 3, 5,\n"), gemm=True).layers
    assert layer.operation == Gemm(m=2, k=5, n=3)


@pytest.mark.parametrize("convention", ["pytorch", "scalesim"])
def test_an_nm_column_keeps_the_first_rows_of_every_group_for_every_filter(tmp_path: Path, convention: str) -> None:
    (layer,) = read_topology(csv(tmp_path, "h\nc, 5, 5, 3, 3, 2, 4, 1, 1:4,\n"), convention=convention).layers
    (mask,) = layer.weight_matrix()
    assert layer.structure == "1:4"
    assert conforms(mask, parse("1:4"))
    assert np.flatnonzero(mask[:, 0]).tolist() == [0, 4, 8, 12, 16]  # K = 18: K' = 4 + min(2, 1)
    assert (mask == mask[:, :1]).all()


def test_untidy_files_are_read_and_what_was_ignored_is_said(tmp_path: Path) -> None:
    text = ("Layer, H, W, R, S, C, K, s, N:M, note\n"
            "\n"
            "a, 5, 5, 3, 3, 2, 4, 1,\n"
            ",,,,,,,,\n"
            "b, 5, 5, 3, 3, 2, 4, 1\n"  # no trailing comma
            "b, 5, 5, 3, 3, 2, 4, 1, , the second block,\n"
            "c, 5, 5, 3, 3, 2, 4, 1, 2:4")  # neither comma nor final newline
    trace = read_topology(csv(tmp_path, text))
    assert [(layer.name, layer.structure) for layer in trace.layers] == [
        ("a", "dense"), ("b", "dense"), ("b#2", "dense"), ("c", "2:4")]
    assert notes(trace) == [
        "line 2: blank row skipped", "line 4: blank row skipped",
        "line 6: 'the second block' after the layer's sizes was ignored",
        "line 6: the name 'b' is taken; the layer is called 'b#2'"]


def test_a_first_line_that_is_a_layer_is_skipped_and_said(tmp_path: Path) -> None:
    trace = read_topology(csv(tmp_path, "a, 5, 5, 3, 3, 2, 4, 1,\nb, 5, 5, 3, 3, 2, 4, 1,\n"))
    assert [layer.name for layer in trace.layers] == ["b"]
    assert "line 1 looks like a layer" in notes(trace)[0]


def test_a_depthwise_row_has_groups_or_one_layer_per_channel(tmp_path: Path) -> None:
    path = csv(tmp_path, "h\nDP1, 6, 6, 3, 3, 8, 1, 1,\n")
    (ours,) = read_topology(path).layers
    assert isinstance(ours.operation, Conv2d)
    assert (ours.operation.groups, ours.operation.out_channels) == (8, 8)
    peers = read_topology(path, convention="scalesim").layers
    assert [layer.name for layer in peers][:2] == ["DP1Channel_0", "DP1Channel_1"]
    assert len(peers) == 8
    assert peers[0].operation == Gemm(m=16, k=9, n=1)


def test_every_broken_row_is_told_with_its_line_and_what_was_expected(tmp_path: Path) -> None:
    path = csv(tmp_path, "h\na, 5, 5, 3, 3, 2,\nb, 5, 5, 3, 3, two, 4, 1,\nc, 5, 5, 3, 3, 2, -4, 1,\n"
                         "d, 5, 5, 7, 3, 2, 4, 1,\ne, 5, 5, 3, 3, 2, 4, 1, 5:4,\nf, 5, 5, 3, 3, 2, 4, 1,\n")
    with pytest.raises(InputError) as error:
        read_topology(path)
    text = str(error.value)
    assert "5 mistakes" in text
    for line, words in {2: "6 filled field(s)", 3: "'two' in layer 'b'; expected integers of at least 1", 4: "'-4'",
                        5: "filter 7x3 on an input of 5x5", 6: "sparsity '5:4'; expected N:M with 1 <= N <= M"}.items():
        assert f"{path}, line {line}: " in text
        assert words in text


def test_gemm_rows_in_the_convolution_form_name_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--gemm"):
        read_topology(csv(tmp_path, "Layer, M, N, K,\nfc, 2, 3, 5,\n"))


@pytest.mark.parametrize(("text", "words"), [("", "the file is empty"), ("only a header\n\n", "no layers")])
def test_a_file_without_layers_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_topology(csv(tmp_path, text))


def test_a_binary_or_missing_topology_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_topology(tmp_path / "net.csv")
    with pytest.raises(InputError, match="cannot read it"):
        read_topology(tmp_path / "gone.csv")


def test_the_shipped_resnet_18_has_its_published_multiply_accumulates() -> None:
    # 1.814 G multiply-accumulates at 224 x 224 (He et al., CVPR 2016: 1.8 G); both size rules agree on this file
    path = Path(__file__).parents[2] / "examples" / "resnet18.csv"
    for convention in ("pytorch", "scalesim"):
        layers = read_topology(path, convention=convention).layers
        assert len(layers) == 21
        assert sum(layer.operation.macs for layer in layers) == 1_814_073_344
