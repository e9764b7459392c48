"""One pruned network, two designs, three energy tables: which design wins depends on the table.

    python examples/energy_tables.py
"""

from pathlib import Path

from simulator import Trace, load_machine, simulate

TRACE = Path(__file__).resolve().parents[1] / "sweeps" / "workloads" / "resnet8_pruned.safetensors"
TABLES = ("horowitz_45nm", "cacti_45nm", "accelergy_45nm")
BUFFERS = ("input_buffer_bytes", "weight_buffer_bytes", "output_buffer_bytes")
QUESTIONS = {
    "which machine, at 8 KB per buffer?": (("nm_array", 8), ("sigma", 8)),
    "which buffers for systolic_os?": (("systolic_os", 8), ("systolic_os", 32)),
}

trace = Trace.load(TRACE)
for question, designs in QUESTIONS.items():
    print(question)
    for table in TABLES:
        found = {}
        for name, kilobytes in designs:
            machine = load_machine(name, {"energy_table": table, **dict.fromkeys(BUFFERS, kilobytes * 1024)})
            energy_uj = simulate(trace, machine, compare_dense=False).energy_pj * 1e-6
            found[f"{name} with {kilobytes} KB"] = energy_uj
        row = ", ".join(f"{design} {energy_uj:.2f} uJ" for design, energy_uj in found.items())
        print(f"  {table:14} {row}; takes less: {min(found, key=found.__getitem__)}")
