"""Machine files and topologies, whole and damaged: the command gives a report or status 2 and a message, nothing else.

`python benchmarks/fuzz.py` draws thousands of the same; what it found stands here as tests of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from codesign.cli import main
from simulator import Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.fuzzing import cfg_texts, machine_texts, problems, topology_texts

MACHINES = st.one_of(st.tuples(machine_texts(), st.just("toml")), st.tuples(cfg_texts(), st.just("cfg")))
TOPOLOGIES = st.booleans().flatmap(lambda gemm: st.tuples(topology_texts(gemm), st.just(gemm)))
CONV = "Layer, H, W, R, S, C, K, stride, N:M\n"


@settings(max_examples=120, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
          suppress_health_check=list(HealthCheck))
@given(MACHINES, TOPOLOGIES)
def test_a_report_or_a_message(
    tmp_path_factory: pytest.TempPathFactory,
    machine: tuple[str, str], topology: tuple[str, bool],
) -> None:
    folder = tmp_path_factory.mktemp("files", numbered=True)
    status, out, err = run(folder, *machine, *topology)
    if status == 2:
        assert "error: " in err
        assert "Traceback" not in err
        assert out == ""
        return
    assert status == 0
    assert list(problems(json.loads(out))) == []


def run(folder: Path, machine: str, suffix: str, topology: str, gemm: bool) -> tuple[int, str, str]:
    """Status, stdout and stderr of `espalier simulate` on two texts."""
    import contextlib
    import io

    (folder / f"machine.{suffix}").write_bytes(machine.encode())
    (folder / "layers.csv").write_bytes(topology.encode())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["simulate", str(folder / "layers.csv"), "--machine", str(folder / f"machine.{suffix}"), "--json",
                       *(["--gemm"] if gemm else [])])
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(("row", "told"), [
    ("a, 8, 8, 3, 3, 4, " + "9" * 5000 + ", 1,", "up to 18 digits"),
    ("a, 8, 8, 3, 3, 4, 8, 1, 1:" + "9" * 5000, "up to 18 digits"),
    ("a, 3, 3, 3, 3, 65536, 65536, 1, 2:4", "a mask of 38654705664 weights"),
    ("aDP, 8, 8, 3, 3, 2147483648, 1, 1,", "2147483648 channels in the depthwise layer"),
])
def test_numbers_that_nobody_meant_are_refused(tmp_path: Path, row: str, told: str) -> None:
    status, out, err = run(tmp_path, 'base = "scalesim_ws"\n', "toml", CONV + row + "\n", gemm=False)
    assert (status, out) == (2, "")
    assert told in err
    assert len(err) < 1000


def test_utilisation_is_of_clock_edges_also_where_cycles_are_an_index() -> None:
    """SCALE-Sim's cycles are the last one's index: 12 products on one multiplier in edges 0 to 11 are no 109 %."""
    machine = load_machine("scalesim_os", {"rows": 1, "cols": 1})
    total = simulate(Trace([LayerTrace("one", Gemm(3, 4, 1))]), machine).total
    assert total.cycles + 1 >= total.to_dict()["useful_macs"]
    assert total.utilisation <= 1


def test_a_layer_of_billions_of_tiles_is_refused_before_it_is_played() -> None:
    with pytest.raises(ValueError, match=r"layer 'huge' on .*visits of tiles to play; expected at most"):
        simulate(Trace([LayerTrace("huge", Gemm(2**17, 2**17, 2**16))]), load_machine("systolic_ws"))
