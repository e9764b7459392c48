"""Total Cycles, SRAM counts and efficiencies equal SCALE-Sim 3.0.0's own reports, to the last digit.

The reports in tests/golden/scalesim were written by SCALE-Sim; its README says how.  Its known faults are compared as
what they are: an excess of known size.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from simulator import Report, load_machine, simulate
from simulator.importers.scalesim import read_topology
from simulator.importers.scalesim_reports import write_reports

GOLDEN = Path(__file__).parent.parent / "golden" / "scalesim"
DATAFLOWS = ("ws", "os", "is")
RUNS = [f"{dataflow}{suffix}" for dataflow in DATAFLOWS for suffix in ("", "_nm")]
ROWS, COLS = 12, 10


def run(name: str) -> Report:
    topology = "small_nm.csv" if name.endswith("_nm") else "small.csv"
    return simulate(read_topology(GOLDEN / topology, convention="scalesim"), load_machine(GOLDEN / f"{name}.cfg"))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return [{key.strip(): value.strip() for key, value in row.items() if key.strip()}
                for row in csv.DictReader(handle)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name in RUNS:
        folders[name] = tmp_path_factory.mktemp(name)
        write_reports(run(name), folders[name])
    return folders


@pytest.mark.parametrize("name", RUNS)
def test_total_cycles_and_efficiencies_equal_the_peers_to_the_last_digit(name: str, written: dict[str, Path]) -> None:
    ours, theirs = table(written[name] / "COMPUTE_REPORT.csv"), table(GOLDEN / name / "COMPUTE_REPORT.csv")
    columns = ["LayerID", "Total Cycles", "Stall Cycles", "Overall Util %", "Mapping Efficiency %", "Compute Util %"]
    assert len(ours) == len(theirs) > 0
    for mine, peer in zip(ours, theirs, strict=True):
        assert [float(mine[column]) for column in columns] == [float(peer[column]) for column in columns]


@pytest.mark.parametrize("name", RUNS)
def test_the_total_of_the_network_is_the_sum_of_the_peers_layers(name: str) -> None:
    report = run(name)
    assert report.cycles == sum(int(row["Total Cycles"]) for row in table(GOLDEN / name / "COMPUTE_REPORT.csv"))
    assert sum(report.cycles_by_cause.values()) == report.cycles


@pytest.mark.parametrize("name", RUNS)
def test_sram_counts_equal_the_peers_but_for_its_known_faults(name: str, written: dict[str, Path]) -> None:
    ours, theirs = (table(folder / "DETAILED_ACCESS_REPORT.csv") for folder in (written[name], GOLDEN / name))
    topology = read_topology(GOLDEN / ("small_nm.csv" if name.endswith("_nm") else "small.csv"), convention="scalesim")
    for layer, mine, peer in zip(topology.layers, ours, theirs, strict=True):
        gemm = layer.operation.gemm()
        reads, writes = float(peer["SRAM IFMAP Reads"]), float(peer["SRAM OFMAP Writes"])
        if name == "ws_nm" and layer.structure != "dense":
            kept, of = map(int, layer.structure.split(":"))
            reads = reads * kept / of  # fault: every read counted M/N times
        if name.startswith("os"):
            folds = -(-gemm.m // ROWS) * -(-gemm.n // COLS)
            writes -= folds * (ROWS + COLS)  # fault: a write per cycle of the drain's skew, per fold
        assert float(mine["SRAM IFMAP Reads"]) == pytest.approx(reads, abs=1e-6)
        assert float(mine["SRAM Filter Reads"]) == float(peer["SRAM Filter Reads"])
        assert float(mine["SRAM OFMAP Writes"]) == writes


@pytest.mark.parametrize("name", RUNS)
def test_streams_start_and_stop_when_the_peers_do(name: str, written: dict[str, Path]) -> None:
    ours, theirs = (table(folder / "DETAILED_ACCESS_REPORT.csv") for folder in (written[name], GOLDEN / name))
    columns = [f"SRAM {operand} {edge} Cycle" for operand in ("IFMAP", "Filter", "OFMAP") for edge in ("Start", "Stop")]
    sticks_out = {"ragged", "quarter"}  # ceil rule: the last window has no address, so the peer stops early
    lines = (GOLDEN / ("small_nm.csv" if name.endswith("_nm") else "small.csv")).read_text().splitlines()[1:]
    for line, mine, peer in zip(lines, ours, theirs, strict=True):
        skip = "SRAM IFMAP Stop Cycle" if line.split(",")[0] in sticks_out else ""
        for column in columns:
            if column != skip:
                assert float(mine[column]) == float(peer[column]), (line, column)


@pytest.mark.parametrize("name", [f"{dataflow}_nm" for dataflow in DATAFLOWS])
def test_filter_storage_of_nm_layers_equals_the_peers(name: str, written: dict[str, Path]) -> None:
    ours, theirs = table(written[name] / "SPARSE_REPORT.csv"), table(GOLDEN / name / "SPARSE_REPORT.csv")
    for mine, peer in zip(ours, theirs, strict=True):
        assert mine.keys() == peer.keys()
        assert mine["Sparsity Representation"] == peer["Sparsity Representation"]
        for column in list(peer)[2:]:
            assert float(mine[column]) == float(peer[column])


@pytest.mark.parametrize("name", RUNS)
def test_every_report_has_the_peers_name_columns_and_number_of_rows(name: str, written: dict[str, Path]) -> None:
    assert {path.name for path in written[name].iterdir()} == {path.name for path in (GOLDEN / name).iterdir()}
    for path in written[name].iterdir():
        mine, peer = path.read_text().splitlines(), (GOLDEN / name / path.name).read_text().splitlines()
        assert [cell.strip() for cell in mine[0].split(",")] == [cell.strip() for cell in peer[0].rstrip().split(",")]
        assert len(mine) == len(peer)
        assert {line.count(",") for line in mine[1:]} == {line.count(",") for line in peer[1:]}


def test_nm_columns_are_ignored_where_the_configuration_says_no_sparsity_support(tmp_path: Path) -> None:
    sparse = read_topology(GOLDEN / "small_nm.csv", convention="scalesim")
    machine = load_machine(GOLDEN / "ws.cfg")
    assert simulate(sparse, machine).cycles == simulate(sparse.dense(), machine).cycles
    assert simulate(sparse, load_machine(GOLDEN / "ws_nm.cfg")).cycles < simulate(sparse.dense(), machine).cycles


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_preset_equals_the_configuration_it_stands_for(dataflow: str) -> None:
    preset = load_machine(f"scalesim_{dataflow}", {"rows": ROWS, "cols": COLS})
    trace = read_topology(GOLDEN / "small_nm.csv", convention="scalesim")
    cycles = [layer.cycles for layer in simulate(trace, preset).layers]
    assert cycles == [int(row["Total Cycles"]) for row in table(GOLDEN / f"{dataflow}_nm" / "COMPUTE_REPORT.csv")]


def test_reports_of_another_machine_count_stalls_and_dram_bytes(tmp_path: Path) -> None:
    machine = load_machine("scalesim_ws").replace(
        name="narrow", convention="pytorch", weight_buffers=2, memory="channel", dram_bytes_per_cycle=1.0,
        rows=8, cols=8)
    report = simulate(read_topology(GOLDEN / "small_nm.csv"), machine)
    write_reports(report, tmp_path / "new" / "folder")
    compute = table(tmp_path / "new" / "folder" / "COMPUTE_REPORT.csv")
    detail = table(tmp_path / "new" / "folder" / "DETAILED_ACCESS_REPORT.csv")
    assert [int(row["Total Cycles"]) for row in compute] == [layer.cycles for layer in report.layers]
    for layer, row, access in zip(report.layers, compute, detail, strict=True):
        stalls = {"stall_weight", "stall_input", "stall_psum", "stall_output", "cold_fill", "queue"}
        assert int(row["Stall Cycles"]) == sum(v for k, v in layer.cycles_by_cause.items() if k in stalls) > 0
        T = layer.total.to_dict()
        assert int(access["DRAM IFMAP Reads"]) + int(access["DRAM Filter Reads"]) <= T["dram_read_bytes"]
        assert int(access["DRAM OFMAP Writes"]) == T["dram_write_bytes"] > 0
        assert 0 < float(row["Mapping Efficiency %"]) <= 100
        assert 0 < float(row["Compute Util %"]) <= float(row["Mapping Efficiency %"])
