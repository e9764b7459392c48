"""The HTML report in headless Chromium: axes, filter, table, heat map, no console error, no network, no injection."""

import re
import shutil

import pytest

from simulator import InputError
from sweeps import report, store
from sweeps.run import run_study

webdriver = pytest.importorskip("selenium.webdriver")
pytestmark = pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")),
                                reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium")
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--window-size=1240,1600"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def opened(study, tmp_path, browser):
    """The report of 12 configurations, 3 of which fail with markup in the reason."""
    path = study("sweep_evaluations:fragile", rows="[2, 4, 8, 32]")
    run_study(path, tmp_path / "a.db", jobs=1, progress=False)
    page = report.write(tmp_path / "a.db", tmp_path / "a.html")
    browser.get(page.as_uri())
    yield browser, page
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def _by_id(driver, name):
    return driver.find_element("id", name)


def _choose(driver, name, value):
    from selenium.webdriver.support.select import Select

    Select(_by_id(driver, name)).select_by_value(value)


def _lines(driver):
    return driver.find_elements("css selector", "#table tbody tr")


def test_filter_narrows_table_scatter_and_heat_map_together(opened):
    driver, _ = opened
    assert len(_lines(driver)) == 9
    assert driver.execute_script("return placed.length") == 9
    _by_id(driver, "filter").send_keys("rows>=4 cols<6")
    assert len(_lines(driver)) == 4
    assert driver.execute_script("return placed.length") == 4
    assert len(driver.find_elements("css selector", "#heat td")) == 4
    assert _by_id(driver, "count").text == "4 shown"
    _by_id(driver, "filter").send_keys(" rwos=4")
    assert "There is no column rwos" in _by_id(driver, "filter-help").text


def test_only_the_front(opened):
    driver, _ = opened
    front = driver.execute_script("return data.front.reduce((a, b) => a + b, 0)")
    _by_id(driver, "front-only").click()
    assert len(_lines(driver)) == front
    assert 0 < front < 9


def test_axis_choice_moves_the_points_and_hover_says_which(opened):
    driver, _ = opened
    before = driver.execute_script("return placed.map((p) => [p.px, p.py])")
    _choose(driver, "x", "rows")
    after = driver.execute_script("return placed.map((p) => [p.px, p.py])")
    assert len({round(x) for x, _ in after}) == 3, "three values of rows are three columns of points"
    assert before != after
    from selenium.webdriver import ActionChains

    canvas = _by_id(driver, "scatter")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    x, y = after[0]
    width, height = canvas.size["width"], canvas.size["height"]
    ActionChains(driver).move_to_element_with_offset(canvas, x - width / 2, y - height / 2).perform()
    rows = driver.execute_script("return columns.rows[placed[0].index]")
    assert f"Rows  {rows}" in _by_id(driver, "tip").text
    ActionChains(driver).click().perform()
    assert len(driver.find_elements("css selector", "#table tr.picked")) == 1


def test_table_sorts_both_ways(opened):
    driver, _ = opened
    for _ in range(2):
        driver.find_element("css selector", "#table th[data-name=rows]").click()
    values = [int(line.find_elements("tag name", "td")[0].text) for line in _lines(driver)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 32


def test_failed_rows_are_listed_with_their_reason_as_text(opened):
    driver, _ = opened
    table = _by_id(driver, "failed")
    assert len(table.find_elements("css selector", "tbody tr")) == 3
    assert "ValueError: eight rows <b>are</b> too many" in table.text
    assert table.find_elements("tag name", "b") == []
    assert _by_id(driver, "description").text == "a <script>study</script>"


def test_the_page_asks_nothing_of_a_network(opened):
    _, page = opened
    assert re.findall(r"""(?:src|href)=["'](?!data:)|url\(|https?://|@import|fetch\(""", page.read_text()) == []


def test_a_store_of_failures_only_still_has_a_page(study, tmp_path, browser):
    run_study(study("sweep_evaluations:fragile", rows="[8]"), tmp_path / "a.db", jobs=1, progress=False)
    browser.get(report.write(tmp_path / "a.db", tmp_path / "a.html").as_uri())
    assert len(browser.find_elements("css selector", "#failed tbody tr")) == 3
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "INFO"] == []


def test_an_empty_store_has_none(tmp_path):
    with store.open_store(tmp_path / "a.db", "code"):
        pass
    with pytest.raises(InputError, match=r"holds no rows yet"):
        report.write(tmp_path / "a.db", tmp_path / "a.html")
