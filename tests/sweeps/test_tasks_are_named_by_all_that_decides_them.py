"""The id of a task changes with everything that can change its row, and with nothing else."""

import dataclasses

import numpy as np

from simulator import Gemm, LayerTrace, Trace, load_machine
from simulator.operators import Operator
from sweeps.task import SIMULATION, simulation, task_id
from sweeps.workloads import digest, resnet18, shipped_names

MACHINE = load_machine("systolic_ws").to_dict()


def test_id_follows_machine_trace_seed_and_evaluation():
    ids = [
        task_id(MACHINE, "a", 0, SIMULATION),
        task_id({**MACHINE, "rows": 32}, "a", 0, SIMULATION),
        task_id(MACHINE, "b", 0, SIMULATION),
        task_id(MACHINE, "a", 1, SIMULATION),
        task_id(MACHINE, "a", 0, "sweep_evaluations:quick"),
    ]
    assert len(set(ids)) == 5


def test_id_ignores_names_and_the_order_of_fields():
    other = {**dict(reversed(MACHINE.items())), "name": "other", "description": "words"}
    assert task_id(other, "a", 0, SIMULATION) == task_id(MACHINE, "a", 0, SIMULATION)


RELU = Operator("relu", "relu", "activation", 8, 8, 8)


def _trace(mask, **more):
    return Trace([LayerTrace("fc", Gemm(2, 3, 4), mask, **more)], provenance={"seed": 3})


def test_digest_sees_each_mask_bit_and_not_the_provenance():
    mask = np.ones((3, 4), dtype=bool)
    flipped = mask.copy()
    flipped[1, 2] = False
    traces = [_trace(mask), _trace(flipped), _trace(None), _trace(mask, weight_bits=4), _trace(mask, input_density=0.5),
              _trace(None, input_mask=np.ones((2, 3), dtype=bool)), _trace(mask, weight_bits=16),
              _trace(mask, weight_number="bfloat", weight_bits=16), _trace(mask, weight_source="activation"),
              Trace(_trace(mask).layers, operators=[]), Trace(_trace(mask).layers, operators=[RELU]),
              Trace(_trace(mask).layers, operators=[dataclasses.replace(RELU, operations=9)])]
    assert len({digest(trace) for trace in traces}) == len(traces)
    assert digest(Trace(traces[0].layers, provenance={"seed": 4})) == digest(traces[0])


def test_digest_survives_saving(tmp_path):
    trace = resnet18()
    trace.save(tmp_path / "t.safetensors")
    assert digest(Trace.load(tmp_path / "t.safetensors")) == digest(trace)


def test_shipped_resnet18_is_the_network_of_the_paper():
    trace = resnet18()
    assert "resnet18" in shipped_names()
    assert len(trace.layers) == 21
    # 11,689,512 parameters of torchvision's resnet18, less 9,600 of batch norm and 1,000 of the last bias.
    assert sum(layer.weight_nnz for layer in trace.layers) == 11_689_512 - 9_600 - 1_000
    assert sum(layer.operation.macs for layer in trace.layers) == 1_814_073_344
    assert len(trace.edges) == len(set(trace.edges))


def test_simulation_row_says_what_the_report_says():
    from simulator import simulate

    trace, machine = _trace(np.eye(3, 4, dtype=bool)), load_machine("systolic_ws")
    row, report = simulation(trace, machine, 0), simulate(trace, machine)
    assert (row["cycles"], row["latency_s"]) == (report.cycles, report.cost.latency_s)
    assert (row["energy_j"], row["area_mm2"]) == (report.cost.energy_j, report.area_mm2)
    assert row["speedup"] == report.speedup
