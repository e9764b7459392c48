"""`espalier simulate --report, --tile, --timeline, --accesses`: files that open by themselves and show the counts."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from codesign.cli import main
from simulator import Trace, load_machine, simulate
from simulator.element_map import element_map

TRACE = Path(__file__).resolve().parents[2] / "sweeps" / "workloads" / "resnet8_pruned.safetensors"
SIMULATE = ("simulate", str(TRACE), "--machine", "nm_array")
LAYER = "layer3.0.conv2"
PAGES = ("report", "tile", "accesses")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every picture of one simulation."""
    folder = tmp_path_factory.mktemp("pictures")
    files = [f"--{name}={folder / name}.html" for name in PAGES] + [f"--timeline={folder / 'timeline.json'}"]
    assert main([*SIMULATE, "--layer", LAYER, "--window", "600:1100", *files]) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium and chromedriver must be installed on CI")
        pytest.skip("chromium or chromedriver is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,2000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def rows_of(text: str, section: str) -> list[list[str]]:
    """The cells of the tables of a section, out of the markup alone: no script has run."""
    part = text.split(f'<section id="{section}"')[1].split("</section>")[0]
    body = "".join(re.findall(r"<tbody>(.*?)</tbody>", part, re.DOTALL))
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]
            for row in re.findall(r"<tr.*?>(.*?)</tr>", body, re.DOTALL)]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [800, 1200])
def test_a_page_asks_for_nothing_but_itself_and_fits(made: Path, browser: Any, name: str, width: int) -> None:
    page = made / f"{name}.html"
    browser.set_window_size(width, 2000)
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    wide, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner
    assert page.stat().st_size < 500_000


def test_the_tables_of_the_report_are_the_simulations(made: Path) -> None:
    text = (made / "report.html").read_text(encoding="utf-8")
    found = simulate(Trace.load(TRACE), load_machine("nm_array"))
    causes = rows_of(text, "cycles")
    assert [row[:3] for row in causes[:-1]] == [[a.name, a.executed_as, f"{a.cycles:,}"] for a in found.layers]
    assert causes[-1][2] == f"{found.cycles:,}"
    for row, layer in zip(causes, [*found.layers, found], strict=True):
        assert sum(int(cell.replace(",", "")) for cell in row[4:]) == layer.cycles
    layer = next(layer for layer in found.layers if layer.name == LAYER)
    shares = 100 * element_map(layer, found.machine).utilisation
    elements = rows_of(text, "array")
    assert [row[1:] for row in elements] == [[f"{share:.1f}" for share in line] for line in shares]
    assert [row[2:4] for row in rows_of(text, "time")] == [
        [f"{sum(b.cycles for b in found.layers[:at]):,}", f"{a.cycles:,}"] for at, a in enumerate(found.layers)]
    assert len(rows_of(text, "energy")) == len(rows_of(text, "roofline")) + 1 == len(found.layers) + 1


def test_heat_map_is_deepest_where_the_elements_did_most(made: Path, browser: Any) -> None:
    browser.get((made / "report.html").as_uri())
    drawn = browser.execute_script("return [...document.querySelectorAll('#array svg rect.pe')]"
                                   ".map(pe => [Number(pe.getAttribute('fill-opacity')), pe.dataset.tip])")
    table = [cell for row in rows_of((made / "report.html").read_text(encoding="utf-8"), "array") for cell in row[1:]]
    assert [tip.split(": ")[1] for _, tip in drawn] == [f"{cell} %" for cell in table]
    assert drawn[0][1].startswith("element (0, 0)")
    shades = [shade for _, shade in sorted(zip(map(float, table), (shade for shade, _ in drawn), strict=True))]
    assert all(b - a > -0.01 for a, b in pairwise(shades))  # shares are printed with one digit


def test_occupancy_over_time_has_the_area_of_the_products() -> None:
    """The picture's columns, times their width, are all products: none is lost between two columns."""
    import numpy as np

    from codesign.simulate_charts import rates
    from simulator.counts import Count
    from simulator.timeline import timeline

    found = simulate(Trace.load(TRACE), load_machine("sparten"), compare_dense=False)
    edges = np.linspace(0, found.cycles, 100)
    columns = rates(edges, np.array(list(timeline(found).busy()), dtype=float)) * np.diff(edges)
    assert columns.sum() == pytest.approx(found.total.counts[Count.ISSUED_MACS] + found.total.counts[Count.GATED_MACS])
    # Two products in cycles 2 and 3, six in 4 and 5: columns of three cycles have one and seven, then none.
    apart = rates(np.array([0.0, 3.0, 6.0, 9.0]), np.array([[2.0, 4, 2], [4, 6, 6]]))
    assert (apart * 3).tolist() == [1, 7, 0]


def test_keys_step_through_the_tile_and_a_click_follows_an_element(made: Path, browser: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.get((made / "tile.html").as_uri())
    cells = browser.find_elements("css selector", "#array .pe")
    assert len(cells) == 64

    def press(key: str) -> str:
        ActionChains(browser).send_keys(key).perform()
        return str(browser.find_element("id", "now").text)

    assert browser.find_element("id", "now").text.startswith("cycle 0 of 37")
    assert press(Keys.ARROW_RIGHT).startswith("cycle 1 of")
    assert press(Keys.END).startswith("cycle 37 of 37")
    assert press(Keys.ARROW_LEFT).startswith("cycle 36 of")
    browser.execute_script("const at = document.getElementById('cycle'); at.value = 20;"
                           "at.dispatchEvent(new Event('input'))")
    frame = browser.execute_script("return JSON.parse(document.getElementById('frames').textContent).frames[20]")
    index = next(i for i, one in enumerate(frame["p"]) if one and min(one[:3]) >= 0)
    m, k, n = frame["p"][index][:3]
    cells[index].click()
    assert f"a({m}, {k}) × w({k}, {n}) is added to Σ({m}, {n})" in browser.find_element("id", "said").text
    assert cells[index].text.splitlines()[:3] == [f"a {m},{k}", f"w {k},{n}", f"Σ {m},{n}"]
    assert press(Keys.SPACE).startswith("cycle 20")  # plays
    assert browser.find_element("id", "play").get_attribute("aria-pressed") == "true"


def test_the_tile_says_every_cycle_without_scripts(made: Path) -> None:
    text = (made / "tile.html").read_text(encoding="utf-8")
    frames = json.loads(re.search(r'id="frames">(.*?)</script>', text)[1])["frames"]  # type: ignore[index]
    rows = rows_of(text, "cycles")
    assert [row[:2] for row in rows] == [[str(at), frame["cause"]] for at, frame in enumerate(frames)]
    assert [int(row[4]) for row in rows] == [
        sum(1 for one in frame["p"] if one and min(one[:3]) >= 0 and one[3] and one[4]) for frame in frames]


def test_the_timeline_ends_with_the_network(made: Path) -> None:
    events = json.loads((made / "timeline.json").read_text())["traceEvents"]
    layers = [event for event in events if event.get("cat") == "layer"]
    found = simulate(Trace.load(TRACE), load_machine("nm_array"), compare_dense=False)
    assert [(event["name"], event["args"]["cycles"]) for event in layers] == [(a.name, a.cycles) for a in found.layers]


def test_accesses_are_written_as_they_are_drawn(made: Path, tmp_path: Path) -> None:
    assert main([*SIMULATE, "--layer", LAYER, "--window", "600:1100", "--accesses", str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {600 <= int(row["cycle"]) < 1100 for row in rows} == {True}
    totals = rows_of((made / "accesses.html").read_text(encoding="utf-8"), "totals")
    for level, operand, _, read, written in totals:
        for kind, said in (("R", read), ("W", written)):
            chosen = [int(row["count"]) for row in rows if row["operand"] == operand and row["write"] == kind
                      and row["level"] == ("dram" if level == "DRAM" else "sram")]
            assert said == f"{sum(chosen):,}"


def test_names_from_files_are_text_and_machines_without_a_map_say_so(tmp_path: Path) -> None:
    (tmp_path / "<b>.csv").write_text("Layer, H, W, R, S, C, K, stride,\n<script>x</script>, 8, 8, 3, 3, 4, 8, 1,\n")
    for machine, words in (("systolic_os", "in the element that the array"), ("sparten", "counts its multipliers")):
        assert main(["simulate", str(tmp_path / "<b>.csv"), "--machine", machine, "--report",
                     str(tmp_path / "a.html")]) == 0
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert words in text
        assert "&lt;script&gt;x" in text
        assert "<script>x" not in text
        assert "<b>.csv" not in text


@pytest.mark.parametrize(("arguments", "words"), [
    (["--report", "out"], "for SCALE-Sim's csv reports use --reports DIR"),
    (["--tile", "a.txt"], "--tile a.txt; expected a file named .html"),
    (["--timeline", "missing/a.json"], "expected a folder that exists; make it: mkdir -p missing"),
    (["--tile", "a.html", "--report", "a.html"], "two pictures in one file"),
    (["--layer", "fc"], "--layer without a picture of a layer"),
    (["--tile", "a.html", "--layer", "layer1.conv1"], "no layer 'layer1.conv1'"),
    (["--window", "1:2"], "--window without --accesses"),
    (["--accesses", "a.csv", "--window", "5"], "expected FIRST:STOP"),
    (["--accesses", "a.csv", "--window", "5:5"], "expected FIRST:STOP"),
    (["--tile", "a.html", "--training"], "--tile with --training"),
    (["--tile", "a.html", "--machine", "sparten"], "expected model systolic"),
    (["--report", "a.html", "--layer", "fc", "--machine", "sparten"], "has no map of the array: model sparten"),
])
def test_mistakes_get_one_message_and_leave_no_file(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SIMULATE, *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert (said.out, said.err.count("error:"), list(tmp_path.iterdir())) == ("", 1, [])
