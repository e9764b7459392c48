"""Random machines, layers and files, by the thousand: a report whose laws hold, or a message with status 2.

    python benchmarks/fuzz.py [--examples 10000] [--files 3000] [--seed 0] [--write]

`--examples` machines and layers are drawn over all models (simulator/testing.py) and held to simulator/laws.py;
`--files` machine TOMLs, SCALE-Sim configurations and topologies, most of them damaged (simulator/fuzzing.py), go
through the command `espalier simulate`.  A traceback, a broken law, a negative count or an example of more than 300 s
is a defect: each kind is printed with its smallest example, and the exit status is 1.  `make test` draws fewer.
"""

import argparse
import faulthandler
import io
import json
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from machine import describe, write_result

from codesign.cli import main as espalier
from simulator.errors import InputError
from simulator.fuzzing import cfg_texts, machine_texts, problems, topology_texts
from simulator.laws import broken_laws
from simulator.machines import MACHINES
from simulator.testing import grouped_layers, layers_for, machines

HANG_S = 300  # a first call compiles
MOST_BYTES = 6 << 30  # of address space: an example that asks for more is a defect, not the end of this computer


class Findings:
    """How many examples ended how, and the smallest example of each kind of defect."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.defects: dict[str, str] = {}

    def defect(self, kind: str, example: str) -> None:
        """Keep the example if it is the shortest of its kind."""
        self.outcomes["defect"] += 1
        if len(example) < len(self.defects.get(kind, example + " ")):
            self.defects[kind] = example

    def guarded(self, body: Callable[[], str], example: Callable[[], str]) -> None:
        """Run one example; `body` names its outcome, or raises."""
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            self.outcomes[body()] += 1
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "/site-packages/" not in frame.filename]
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
            self.defect(f"{type(error).__name__} at {place}: {str(error)[:300]}", example())
        finally:
            faulthandler.cancel_dump_traceback_later()


def drawn(count: int, start: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Settings of a run: `count` examples from a seed, no time limit, no shrinking."""
    quiet = settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate],
                     suppress_health_check=list(HealthCheck))
    return lambda test: seed(start)(quiet(test))


def descriptions(findings: Findings, count: int, start: int) -> None:
    """Machines and layers of every model, held to the laws."""
    for index, name in enumerate(MACHINES):
        share = count // len(MACHINES) + (index < count % len(MACHINES))

        @drawn(share, start)
        @given(st.one_of(layers_for(name), layers_for(name), grouped_layers()), machines(name))
        def check(layer: object, machine: object) -> None:
            def body() -> str:
                try:
                    broken = broken_laws(layer, machine)
                except InputError as error:
                    return "refused, buffers too small" if "misses the buffers by" in str(error) else "refused"
                if broken:
                    raise AssertionError("; ".join(broken))
                return "report"

            findings.guarded(body, lambda: f"{layer!r}\n    {machine!r}")

        before, begun = findings.outcomes.copy(), time.perf_counter()
        check()
        print(f"{name:24} {dict(findings.outcomes - before)} {time.perf_counter() - begun:.0f} s", flush=True)


def command(machine: str, suffix: str, topology: str, gemm: bool, folder: Path) -> str:
    """`espalier simulate` on a machine file and a topology; the outcome, or an AssertionError."""
    (folder / f"machine.{suffix}").write_bytes(machine.encode())
    (folder / "layers.csv").write_bytes(topology.encode())
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = espalier(["simulate", str(folder / "layers.csv"), "--machine", str(folder / f"machine.{suffix}"),
                           "--json", *(["--gemm"] if gemm else [])])
    if status == 2:
        assert "error: " in err.getvalue(), err.getvalue()  # notes on the topology may stand before it
        assert "Traceback" not in err.getvalue() and not out.getvalue(), err.getvalue()
        return "file refused"
    assert status == 0, f"status {status}"
    found = list(problems(json.loads(out.getvalue())))
    assert not found, "; ".join(found)
    return "file simulated"


def files(findings: Findings, count: int, start: int) -> None:
    """Damaged and whole files through the command line."""
    with tempfile.TemporaryDirectory() as name:

        @drawn(count, start)
        @given(st.one_of(st.tuples(machine_texts(), st.just("toml")), st.tuples(cfg_texts(), st.just("cfg"))),
               st.booleans().flatmap(lambda gemm: st.tuples(topology_texts(gemm), st.just(gemm))))
        def check(machine: tuple[str, str], topology: tuple[str, bool]) -> None:
            findings.guarded(lambda: command(*machine, *topology, Path(name)),
                             lambda: f"{machine[0]}\n--- {machine[1]}; csv, gemm {topology[1]}:\n{topology[0]}")

        check()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    options.add_argument("--examples", type=int, default=10_000, metavar="N", help="machines with layers")
    options.add_argument("--files", type=int, default=3_000, metavar="N", help="machine files with topologies")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--write", action="store_true", help="keep the outcome in results/fuzz.json")
    given_ = options.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    findings, begun = Findings(), time.process_time()
    if given_.examples:
        descriptions(findings, given_.examples, given_.seed)
    if given_.files:
        files(findings, given_.files, given_.seed)
    cpu_s = time.process_time() - begun
    print(f"{dict(findings.outcomes)}; {cpu_s:.0f} s of CPU")
    for kind, example in findings.defects.items():
        print(f"\nDEFECT {kind}\n    {example[:4000]}")
    if given_.write:
        write_result("fuzz", {"examples": given_.examples, "files": given_.files, "seed": given_.seed,
                              "outcomes": dict(findings.outcomes), "defects": sorted(findings.defects),
                              "cpu_seconds": round(cpu_s)}, describe())
    return 1 if findings.defects else 0


if __name__ == "__main__":
    sys.exit(main())
