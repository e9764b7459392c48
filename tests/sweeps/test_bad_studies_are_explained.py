"""Each mistake of a study file is named with its line; all of them at once."""

import pytest

from simulator import InputError
from sweeps.space import load_study, study_names

GOOD = 'workloads = ["resnet18"]\nmachines = ["systolic_ws"]\n'


def _error(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_study(path)
    return str(caught.value)


@pytest.mark.parametrize(("text", "parts"), [
    ("workload = 1\n" + GOOD, ["bad.toml, line 1", "unknown key 'workload'", "did you mean 'workloads'?"]),
    ('machines = ["systolic_ws"]\n', ["key 'workloads' is missing", "a list of different texts"]),
    ('workloads = ["resnet81"]\nmachines = ["systolic_ws"]\n', ["line 1", "unknown workload 'resnet81'", "'resnet18'"]),
    ('workloads = ["gone.safetensors"]\nmachines = ["systolic_ws"]\n', ["no such workload file 'gone.safetensors'"]),
    ('workloads = ["resnet18"]\nmachines = ["systolic_sw"]\n',
     ["line 2", "unknown machine 'systolic_sw'", "'systolic_ws'"]),
    (GOOD + "[axes]\nrwos = [4]\n", ["line 4", "unknown axis 'rwos'", "did you mean 'rows'?"]),
    (GOOD + "[axes]\nrows = [4, 4]\n", ["line 4", "a value of rows is given twice"]),
    (GOOD + "[axes]\nrows = []\n", ["line 4", "rows = []", "a list of values or a range"]),
    (GOOD + '[axes]\nrows = ["four"]\n', ["line 4", "rows = 'four'", "expected an integer"]),
    (GOOD + "[axes]\nrows = [4.5]\n", ["line 4", "rows = 4.5", "expected an integer"]),
    (GOOD + "[axes]\nrows = [true]\n", ["rows = True", "expected an integer"]),
    (GOOD + "[axes]\ndataflow = [1]\n", ["dataflow = 1", "expected a text"]),
    (GOOD + "[axes]\nrows = {from = 4, until = 8}\n", ["line 4", "unknown key 'until' in a range"]),
    (GOOD + "[axes]\nrows = {from = 4}\n", ["rows: to = None", "a range needs from and to"]),
    (GOOD + "[axes]\nrows = {from = 8, to = 4}\n", ["from = 8 is above to = 4"]),
    (GOOD + "[axes]\nrows = {from = 5, to = 7, powers_of_two = true}\n", ["no power of two from 5 to 7"]),
    (GOOD + "[axes]\nrows = {from = 1, to = 7, step = 0}\n", ["step = 0", "more than 0"]),
    ('objectives = ["latency"]\n' + GOOD, ["line 1", "unknown objective 'latency'", "did you mean 'latency_s'?"]),
    ('evaluate = "nowhere_at_all:f"\n' + GOOD, ["line 1", "cannot be imported", "package.module:function"]),
    ('evaluate = "sweeps.task"\n' + GOOD, ["line 1", "package.module:function"]),
    ('evaluate = "sweeps.task:NUMBERS"\n' + GOOD, ["is not a function"]),
    ("seed = -1\n" + GOOD, ["seed = -1", "an integer of at least 0"]),
    ('name = "a/b"\n' + GOOD, ["name = 'a/b'", "a name that a file can have"]),
    ("axes = 3\n" + GOOD, ["axes = 3", "a table [axes]"]),
    ("workloads = [\n", ["not valid TOML"]),
    (GOOD + "seed = 1\nseed = 2\n", ["not valid TOML"]),
])
def test_one_mistake(tmp_path, text, parts):
    message = _error(tmp_path, text)
    for part in parts:
        assert part in message
    assert "mistakes" not in message, f"one mistake makes one message: {message}"


def test_every_mistake_at_once(tmp_path):
    message = _error(tmp_path, 'nmae = "x"\nworkloads = ["resnet81"]\nmachines = ["systolic_ws"]\nseed = "x"\n'
                               "[axes]\nrows = [1, 1]\ncolls = [2]\n")
    assert message.startswith("5 mistakes:")
    for part in ("line 1", "line 2", "line 4", "line 6", "line 7"):
        assert part in message


def test_a_missing_study_names_the_shipped_ones():
    with pytest.raises(InputError, match=r"no study 'aray_shape'.*did you mean 'array_shape'?"):
        load_study("aray_shape")


def test_ranges_are_exact_and_include_their_ends(tmp_path):
    path = tmp_path / "good.toml"
    path.write_text(GOOD + "[axes]\nrows = {from = 4, to = 64, powers_of_two = true}\n"
                           "cols = {from = 2, to = 9, step = 3}\n"
                           "dram_bytes_per_cycle = {from = 0.1, to = 0.5, step = 0.1}\n"
                           "clock_hz = [500000000]\n")
    study = load_study(path)
    assert study.axes == {"rows": (4, 8, 16, 32, 64), "cols": (2, 5, 8), "clock_hz": (5e8,),
                          "dram_bytes_per_cycle": (0.1, 0.2, 0.3, 0.4, 0.5)}
    assert isinstance(study.axes["clock_hz"][0], float), "an integer for a number is the same point as the number"
    assert study.size == len(list(study.points())) == 75


def test_files_are_found_beside_the_study(tmp_path):
    from sweeps.workloads import resnet18

    resnet18().save(tmp_path / "mine.safetensors")
    path = tmp_path / "good.toml"
    path.write_text('workloads = ["mine.safetensors"]\nmachines = ["systolic_ws"]\n')
    assert load_study(path).workloads == {"mine": str(tmp_path / "mine.safetensors")}


def test_a_topology_csv_has_the_output_sizes_of_its_machine(tmp_path):
    from sweeps.run import run_study
    from sweeps.store import read_store, rows

    # 5 wide, a window of 2, stride 2: PyTorch floors to 2 outputs, SCALE-Sim's ceil rule gives 3.
    (tmp_path / "net.csv").write_text("Layer,H,W,R,S,C,K,stride,\nconv1, 5, 5, 2, 2, 1, 1, 2,\n")
    path = tmp_path / "csv.toml"
    path.write_text('workloads = ["net.csv"]\nmachines = ["systolic_ws"]\n[axes]\n'
                    'convention = ["pytorch", "scalesim"]\n'
                    'memory = ["ideal"]\n')
    run_study(path, tmp_path / "a.db", jobs=1, progress=False)
    with read_store(tmp_path / "a.db") as db:
        macs = {row.axes["convention"]: (row.error, row.metrics.get("dense_macs")) for row in rows(db)}
    assert macs == {"pytorch": (None, 2 * 2 * 4), "scalesim": (None, 3 * 3 * 4)}


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_load(name):
    assert load_study(name).size >= 500
