"""The report of a real tiny run, opened in headless Chromium: no network, no errors, the run's own numbers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codesign.report import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ON_CI = os.environ.get("CI") == "true"
COMPARISON = [
    {"label": "dense <b>", "accuracy": 51.0, "cycles": 60000, "energy_pj": 4e7, "speedup": 1.0, "weight_sparsity": 0.0},
    {
        "label": "uniform 2:4",
        "accuracy": 50.0,
        "cycles": 40000,
        "energy_pj": 3e7,
        "speedup": 1.5,
        "weight_sparsity": 0.5,
    },
]


@pytest.fixture(scope="module")
def run(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a selection and a comparison, and its report."""
    folder = Path(shutil.copytree(trained_once, tmp_path_factory.mktemp("report") / "run"))
    table = read(folder)
    (folder / "report.json").write_text(json.dumps(table | {"comparison": COMPARISON}), encoding="utf-8")
    selection = {
        "event": "selection",
        "epoch": 1,
        "step": 2,
        "progress": 0.25,
        "sparsity": 0.5,
        "choices": [{"layer": "layer1.0.conv1", "structure": "2:4", "density": 0.5, "cycles": 4321.0, "loss": 0.1}],
    }
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(selection) + "\n")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        if ON_CI:
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


@pytest.fixture
def opened(browser: Any, run: Path) -> Any:
    """The browser with the report in it, freshly loaded, its logs empty before."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get((run / "report.html").as_uri())
    return browser


def read(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "report.json").read_text(encoding="utf-8")))


def rows_of(browser: Any, section: str) -> list[list[str]]:
    """The cells of a section's table, as text."""
    return list(
        browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])]"
            "  .map(row => [...row.children].map(cell => cell.innerText.trim()))",
            f"#{section} tbody tr",
        )
    )


def test_it_asks_for_nothing_but_itself_and_logs_no_error(opened: Any, run: Path) -> None:
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert asked[0] == (run / "report.html").as_uri()
    assert [url for url in asked[1:] if not url.startswith("data:")] == []


def test_table_of_layers_has_every_name_and_the_cycles_of_report_json(opened: Any, run: Path) -> None:
    table = read(run)
    first, second = table["machines"]
    rows = rows_of(opened, "structures")
    assert len(rows) == len(first["layers"]) + 1
    for row, layer, other in zip(rows, first["layers"], second["layers"], strict=False):
        assert layer["name"] in row[0].splitlines()[-2 if "\n" in row[0] else 0]
        assert row[1] == layer["structure"]
        assert row[2] == f"{100 * layer['weight_density']:.1f} %"
        assert row[6] == layer["executed_as"]
        assert row[8] == f"{layer['total']['cycles']:,}"
        assert row[10] == f"{other['total']['cycles']:,}"
    assert next(row for row in rows if "layer1.0.conv1" in row[0])[5] == "4,321"  # what the selection predicted
    total = rows[-1]
    assert total[7] == f"{first['dense']['cycles']:,}" == f"{sum(int(r[7].replace(',', '')) for r in rows[:-1]):,}"
    assert total[8] == f"{first['total']['cycles']:,}"


def test_headline_says_accuracy_sparsity_and_speed_up(opened: Any, run: Path) -> None:
    table = read(run)
    said = opened.find_element("css selector", "header").text
    assert f"{table['accuracy']:.2f} %" in said
    assert f"{100 * table['weight_sparsity']:.1f} %" in said
    for row in table["machines"]:
        assert f"{row['speedup']:.2f}×" in said
        assert f"{row['total']['cycles'] / row['dense']['cycles']:.2f} of its dense cycles on {row['machine']}" in said
        assert f"{row['total']['energy_pj'] / row['dense']['energy_pj']:.2f} of the energy" in said


def test_bars_are_as_long_as_their_cycles(opened: Any, run: Path) -> None:
    """Each segment's width over its layer's cycles is the same number of pixels per cycle, for every cause."""
    layers = read(run)["machines"][0]["layers"]
    drawn = opened.execute_script("""
        return [...document.querySelectorAll("#cycles-0 .pruned > .bar")].map(bar =>
            Object.fromEntries([...bar.children].map(part => [part.dataset.tip.split("\\n")[1].split(":")[0],
                                                              Number(part.getAttribute("width"))])))""")
    longest = max(
        max(layer["total"]["cycles"] for layer in layers),
        max(int(r[7].replace(",", "")) for r in rows_of(opened, "structures")[:-1]),
    )
    per_cycle = (1040 - 190 - 196) / longest
    assert len(drawn) == len(layers)
    for parts, layer in zip(drawn, layers, strict=True):
        causes = layer["total"]["cycles_by_cause"]
        assert parts.keys() == causes.keys()
        for cause, cycles in causes.items():
            assert parts[cause] == pytest.approx(cycles * per_cycle, abs=0.006)  # widths have two decimals


def test_pointing_at_a_bar_says_its_cycles_and_leaving_it_hides_that(opened: Any, run: Path) -> None:
    from selenium.webdriver import ActionChains

    layer = read(run)["machines"][0]["layers"][0]
    bar = opened.find_element("css selector", "#cycles-0 .pruned > .bar rect")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    ActionChains(opened).move_to_element(bar).perform()
    said = opened.find_element("id", "tip").text
    assert layer["name"] in said
    assert f"{layer['total']['cycles_by_cause']['compute']:,} cycles" in said
    ActionChains(opened).move_to_element(opened.find_element("css selector", "#cycles-0 h2")).perform()
    assert not opened.find_element("id", "tip").is_displayed()


def test_switch_to_shares_makes_every_bar_as_long(opened: Any) -> None:
    def lengths() -> list[float]:
        return list(
            opened.execute_script(
                "return [...document.querySelectorAll('#cycles-0 .pruned > .bar')]"
                "  .map(bar => bar.getBoundingClientRect().width)"
            )
        )

    opened.execute_script("for (const bar of document.querySelectorAll('.bar')) bar.style.transition = 'none'")
    before = lengths()
    assert max(before) - min(before) > 10
    opened.execute_script(
        "arguments[0].click()", opened.find_element("css selector", "#cycles-0 button[data-show=shares]")
    )
    after = lengths()
    assert max(after) - min(after) < 1.5  # the segments' outlines


def test_roofline_can_be_counted_both_ways(opened: Any) -> None:
    def shown() -> list[bool]:
        return [picture.is_displayed() for picture in opened.find_elements("css selector", "#roofline-0 svg.chart")]

    assert shown() == [True, False]
    opened.execute_script(
        "arguments[0].click()", opened.find_element("css selector", "#roofline-0 button[data-show=issued-macs]")
    )
    assert shown() == [False, True]


def test_comparison_shows_its_rows_and_does_not_run_their_labels(opened: Any) -> None:
    rows = rows_of(opened, "comparison")
    assert [row[0] for row in rows] == ["dense <b>", "uniform 2:4"]
    assert rows[1][1:] == ["50.00 %", "40,000", "0.67", "1.50×", "30\u00a0µJ", "50.0 %"]
    assert len(opened.find_elements("css selector", "#comparison circle.point")) == 2


@pytest.mark.parametrize("width", [800, 1200])
def test_nothing_sticks_out_of_the_page(opened: Any, width: int) -> None:
    opened.set_window_size(width, 2000)
    wide, inner = opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= inner


def test_it_is_small_and_the_same_bytes_each_time(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    assert len(before) < 500_000
    assert write_report(run).read_bytes() == before


def test_the_command_writes_it_and_says_where(tiny_run: Path, invoke: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = invoke("report", tiny_run)
    assert status == 0
    assert str(tiny_run / "report.html") in out
    assert "layer1.0.conv1" in (tiny_run / "report.html").read_text(encoding="utf-8")
