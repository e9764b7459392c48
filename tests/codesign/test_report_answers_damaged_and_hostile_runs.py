"""Names that are markup, files that are missing, damaged or of another run, and networks without a machine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from codesign.report import write_report
from codesign.report_bars import CAUSES
from simulator import Gemm, LayerTrace, Trace, load_machine, simulate
from simulator.counts import CAUSES as COUNTED
from simulator.errors import InputError

HOSTILE = "</title></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser's parser splits them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def with_layer(run: Path, layer: LayerTrace, machine: str = "nm_array") -> None:
    """Put a network of one layer into a run's directory, scored on one machine."""
    trace = Trace([layer], provenance={"seed": 0, "data": HOSTILE})
    trace.save(run / "trace.safetensors")
    table = json.loads((run / "report.json").read_text(encoding="utf-8"))
    table["machines"] = [simulate(trace, load_machine(machine)).to_dict()]
    (run / "report.json").write_text(json.dumps(table), encoding="utf-8")
    config = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(
        re.sub(r"machines = \[[^]]*\]", f'machines = ["{machine}"]', config), encoding="utf-8"
    )


def test_a_layer_named_as_markup_stays_a_name(tiny_run: Path) -> None:
    mask = np.zeros((64, 32), dtype=bool)
    mask[::2] = True
    with_layer(tiny_run, LayerTrace(HOSTILE, Gemm(8, 64, 32), mask, structure="unstructured"))
    text = write_report(tiny_run).read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert HOSTILE in tags.text
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert {attributes["src"][:11] for tag, attributes in tags.found if tag == "img"} == {"data:image/"}


def test_a_machine_and_a_finalist_named_as_markup_stay_names(tiny_run: Path, tmp_path: Path) -> None:
    machine = tmp_path / "hostile.toml"
    machine.write_text(f"base = 'nm_array'\nname = {json.dumps(HOSTILE)}\n", encoding="utf-8")
    with_layer(tiny_run, LayerTrace("only", Gemm(8, 64, 32)), str(machine))
    finalist = {"label": HOSTILE, "latency": 0.5, "energy": 0.25, "loss": 0.125, "judged": 0.0625}
    with (tiny_run / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps({"event": "selection", "step": 1, "chosen": HOSTILE, "finalists": [finalist]}) + "\n")
    text = write_report(tiny_run).read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert sum(tag == "script" for tag, _ in tags.found) == 1
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert all(number in tags.text for number in ("0.5000", "0.2500", "0.125", "0.0625"))


def test_nothing_is_fetched_from_anywhere(tiny_run: Path) -> None:
    tags = Tags()
    text = write_report(tiny_run).read_text(encoding="utf-8")
    tags.feed(text)
    links = [
        value
        for _, attributes in tags.found
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action")
    ]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "@import" not in text
    assert "url(" not in text


def test_a_removed_layer_has_no_cycles_no_speed_up_and_no_roofline_point(tiny_run: Path) -> None:
    with_layer(tiny_run, LayerTrace("gone", Gemm(8, 64, 32), np.zeros((64, 32), dtype=bool), structure="channel"))
    tags = Tags()
    text = write_report(tiny_run).read_text(encoding="utf-8")
    tags.feed(text)
    assert "0 of 64" in tags.text
    assert sum(attributes.get("class") == "from" for _, attributes in tags.found) == 2  # dense, counted both ways
    assert sum(attributes.get("class") == "to" for _, attributes in tags.found) == 0


@pytest.mark.parametrize("machine", ["nm_array?memory='ideal'", "nm_array?dram_bytes_per_cycle=inf"])
def test_a_machine_without_a_memory_limit_is_reported_too(tiny_run: Path, machine: str) -> None:
    with_layer(tiny_run, LayerTrace("only", Gemm(8, 64, 32)), machine)
    text = write_report(tiny_run).read_text(encoding="utf-8")
    assert ("there is no roofline" in text) == ("ideal" in machine)
    assert "no limit" in text or "ideal" in machine


def test_a_run_without_a_machine_is_reported_too(tiny_run: Path) -> None:
    table = json.loads((tiny_run / "report.json").read_text(encoding="utf-8"))
    (tiny_run / "report.json").write_text(json.dumps(table | {"machines": []}), encoding="utf-8")
    config = (tiny_run / "config.toml").read_text(encoding="utf-8")
    (tiny_run / "config.toml").write_text(re.sub(r"machines = \[[^]]*\]", "machines = []", config), encoding="utf-8")
    text = write_report(tiny_run).read_text(encoding="utf-8")
    assert "layer1.0.conv1" in text
    assert 'id="cycles-0"' not in text


def test_a_loss_that_overflowed_is_left_out_of_its_chart(tiny_run: Path) -> None:
    path = tiny_run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    overflowed = {**rows[-1], "epoch": 2, "step": 2 * rows[-1]["step"], "validation_loss": float("inf")}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, overflowed]), encoding="utf-8")
    text = write_report(tiny_run).read_text(encoding="utf-8")
    assert "inf" not in re.sub(r"[a-z]inf|inf[a-z]", "", text)
    assert "nan" not in re.findall(r'(?:cx|cy|d)="[^"]*"', text)


def test_dense_layers_that_no_longer_add_up_are_said(tiny_run: Path) -> None:
    table = json.loads((tiny_run / "report.json").read_text(encoding="utf-8"))
    table["machines"][0]["dense"]["cycles"] += 7
    (tiny_run / "report.json").write_text(json.dumps(table), encoding="utf-8")
    text = write_report(tiny_run).read_text(encoding="utf-8")
    assert f"the run logged {table['machines'][0]['dense']['cycles']:,}" in text


def test_every_cause_that_the_simulator_counts_has_a_colour_and_a_meaning() -> None:
    style = (Path(__file__).parents[2] / "codesign" / "report_assets" / "style.css").read_text(encoding="utf-8")
    assert list(CAUSES) == [cause.name.lower() for cause in COUNTED]
    for cause in CAUSES:
        assert f".c-{cause.replace('_', '-')} {{" in style


@pytest.mark.parametrize("name", ["report.json", "metrics.jsonl", "trace.safetensors"])
def test_a_missing_file_is_an_unfinished_run(tiny_run: Path, name: str) -> None:
    (tiny_run / name).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(name)}: no such file.*finish it: espalier train --resume"):
        write_report(tiny_run)


def test_a_directory_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no training run; expected a directory with config\.toml"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("report.json", lambda data: data[:-40], r"report\.json: not valid JSON"),
        ("report.json", lambda data: b"[1]", r"report\.json: holds a list; expected a JSON object"),
        ("report.json", lambda data: b"\xff" + data, r"report\.json: not text"),
        ("report.json", lambda data: data.replace(b'"accuracy"', b'"accurate"', 1), r"report\.json: accuracy missing"),
        ("report.json", lambda data: data.replace(b'"cycles_by_cause"', b'"by_cause"'), r"cycles_by_cause"),
        (
            "report.json",
            lambda data: data.replace(b'"energy_pj": ', b'"energy_pj": null, "x": '),
            r"machine nm_array: energy_pj = None",
        ),
        (
            "report.json",
            lambda data: data.replace(b'"utilisation": ', b'"utilisation": NaN, "x": '),
            r"machine nm_array: utilisation = nan",
        ),
        ("report.json", lambda data: data.replace(b'"layer1.0.conv1"', b'"other"'), r"not those of trace\.safetensors"),
        (
            "report.json",
            lambda data: data.replace(b'"machine": "nm_array"', b'"machine": "eie"'),
            r"scored on eie.*as config\.toml says",
        ),
        ("metrics.jsonl", lambda data: data[:-9], r"metrics\.jsonl, line \d+: not valid JSON"),
        ("metrics.jsonl", lambda data: data.replace(b"train_loss", b"los"), r"metrics\.jsonl: train_loss missing"),
        (
            "metrics.jsonl",
            lambda data: data + b'{"event": "selection", "step": 1, "finalists": [{"label": "a", "loss": "b"}]}',
            r"finalist a: latency missing, energy missing, loss = 'b'",
        ),
        ("metrics.jsonl", lambda data: b"", r"metrics\.jsonl: no line of an epoch"),
        ("trace.safetensors", lambda data: data[:-1], r"trace\.safetensors"),
        ("config.toml", lambda data: data + b"\nepohcs = 3\n", r"config\.toml, line \d+: unknown key"),
    ],
)
def test_a_damaged_file_is_named(tiny_run: Path, name: str, damage: Callable[[bytes], bytes], message: str) -> None:
    path, page = tiny_run / name, tiny_run / "report.html"
    page.unlink(missing_ok=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=message):
        write_report(tiny_run)
    assert not page.exists()
