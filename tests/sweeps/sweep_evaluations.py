"""Evaluation functions that the sweep tests name by dotted path; cheap, and wicked where a test needs it."""

import os
import signal
import time


def quick(trace, machine, seed):
    """Numbers that differ from point to point and follow from the arguments alone."""
    work = sum(layer.operation.macs for layer in trace.layers)
    cycles = work // (machine.array.rows * machine.array.cols) + machine.array.rows + seed
    return {"latency_s": cycles / 3e9, "energy_j": cycles * 1e-11 / 7, "area_mm2": machine.array.rows * 0.1}


def slow(trace, machine, seed):
    time.sleep(0.01)
    return quick(trace, machine, seed)


def fragile(trace, machine, seed):
    """Fails for 8 rows, kills its own process for 16, is right for all others."""
    if machine.array.rows == 8:
        raise ValueError("eight rows <b>are</b> too many")
    if machine.array.rows == 16:
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(trace, machine, seed)


def dies_once(trace, machine, seed):
    """Kills its process the first time that it sees 16 rows, as the kernel does when memory runs out."""
    if machine.array.rows == 16 and not os.path.exists(os.environ["DIED_ONCE"]):
        open(os.environ["DIED_ONCE"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(trace, machine, seed)


def returns_a_list(trace, machine, seed):
    return {"latency_s": [1.0]}


def with_accuracy(trace, machine, seed):
    return {"latency_s": 1.0 / machine.array.rows, "accuracy": 100.0 - abs(machine.array.rows - 8)}
