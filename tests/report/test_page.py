"""The pages in a browser: they open, sort and turn without errors and without network requests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import complaints, in_browser, open_page, requests, started, wait_for
from helpers.predicted import CASE, SCORED, WORST

from c3s3_seg.report.page import RISING, SIGNED, Scale
from c3s3_seg.report.prediction_page import write_prediction_page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = started()
    yield driver
    driver.quit()


EYE = "document.querySelector('.stage.live .plot')?._fullLayout.scene.camera.eye"


@pytest.mark.slow
@in_browser
def test_it_opens_sorts_turns_and_asks_nobody(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    assert open_page(browser, report) < 3
    first = "[...document.querySelectorAll('table.sortable tbody th')].map(x => x.textContent)"
    header = browser.find_element(
        By.XPATH, "//table[contains(@class,'sortable')]//button[contains(.,'95HD')]"
    )
    header.send_keys(Keys.ENTER)  # by keyboard
    assert browser.execute_script(f"return {first}")[-1] == "both-empty"  # undefined comes last
    assert browser.execute_script(f"return {first}")[0] == "good"
    header.click()  # by mouse
    falling = browser.execute_script(f"return {first}")
    assert set(falling[:2]) == {"missed", "no-truth"}
    assert falling[-1] == "both-empty"
    browser.find_element(By.LINK_TEXT, "wide").click()
    wait_for(browser, "location.hash && document.querySelector(location.hash).open")
    browser.execute_script("location.hash = '%'")  # cannot be decoded as a name
    browser.execute_script("location.hash = document.querySelector('details[id]').id")
    wait_for(browser, "document.querySelector(location.hash).open")

    stage = browser.execute_script("return document.querySelector(location.hash + ' .stage')")
    ActionChains(browser).move_to_element(stage).perform()
    wait_for(browser, EYE)
    before = browser.execute_script(f"return {EYE}")
    ActionChains(browser).click_and_hold(stage).move_by_offset(90, 20).release().perform()
    wait_for(browser, f"Math.hypot({EYE}.x - {before['x']}, {EYE}.y - {before['y']}) > 0.05")
    turned = browser.execute_script(f"return {EYE}")
    stage.send_keys(Keys.ARROW_LEFT)
    wait_for(browser, f"Math.hypot({EYE}.x - {turned['x']}, {EYE}.y - {turned['y']}) > 0.05")

    assert complaints(browser) == []
    assert requests(browser) == [report.as_uri()]


@pytest.mark.slow
@in_browser
def test_the_page_of_a_prediction_turns_by_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    write_prediction_page(tmp_path / "case.html", CASE)
    assert open_page(browser, tmp_path / "case.html") < 3
    stage = browser.find_element("css selector", ".stage")
    stage.send_keys("\ue007")  # Enter
    wait_for(browser, EYE)
    before = browser.execute_script(f"return {EYE}")
    stage.send_keys("\ue013")  # arrow up
    wait_for(browser, f"{EYE}.z > {before['z']} + 0.05")
    assert complaints(browser) == []
    assert requests(browser) == [(tmp_path / "case.html").as_uri()]


AT = "document.querySelector('.viewer').dataset.at"
ORANGE = """(() => {
  const canvas = document.querySelector('.plane canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let count = 0;
  for (let n = 0; n < data.length; n += 4) count += data[n] > data[n + 2] + 60;
  return count;
})()"""

SHADE = """(() => {
  const canvas = document.querySelector('.plane canvas');
  return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.reduce((a, b) => a + b);
})()"""
HEAD_UP = """(() => {
  const canvas = arguments[0], row = (y) => canvas.getContext('2d').getImageData(0, y, canvas.width, 9).data;
  const sum = (data) => data.reduce((a, b) => a + b);
  return sum(row(20)) > 1.2 * sum(row(canvas.height - 29));
})()"""


@pytest.fixture
def viewer(browser: Any, tmp_path: Path) -> Iterator[Path]:
    """Open the page of a case with a truth, wait until its viewer is unpacked, and yield its path."""
    page = tmp_path / "case.html"
    write_prediction_page(page, SCORED)
    open_page(browser, page)
    wait_for(browser, "document.querySelector('.viewer.live')")
    yield page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.mark.slow
@in_browser
def test_the_viewer_scrolls_switches_sets_the_window_and_finds_the_worst_error(
    browser: Any, viewer: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    def at() -> list[int]:
        return [int(n) for n in browser.execute_script(f"return {AT}").split(",")]

    start, (canvas, *_) = at(), browser.find_elements("css selector", ".plane canvas")
    ActionChains(browser).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, 100).perform()
    wait_for(browser, f"{AT} === '{start[0]},{start[1]},{start[2] - 2}'")
    canvas.send_keys(Keys.ARROW_UP)
    wait_for(browser, f"{AT} === '{start[0]},{start[1]},{start[2] - 1}'")
    shown = browser.find_element("css selector", ".plane output").text
    assert shown == f"{start[2]}/24"  # counted from 1

    wait_for(browser, f"{ORANGE} > 100")
    outline = browser.execute_script(f"return {ORANGE}")
    Select(browser.find_element("css selector", "select")).select_by_visible_text("fill")
    wait_for(browser, f"{ORANGE} > {3 * outline}")
    canvas.send_keys("m")
    wait_for(browser, f"{ORANGE} === 0")
    canvas.send_keys("m")
    wait_for(browser, f"{ORANGE} === {outline}")

    ActionChains(browser).move_to_element_with_offset(canvas, 40, 30).click().perform()
    wait_for(browser, f"{AT} !== '{start[0]},{start[1]},{start[2] - 1}'")
    assert at()[2] == start[2] - 1  # the other two planes have moved
    coronal = browser.find_elements("css selector", ".plane canvas")[1]
    assert browser.execute_script(f"return {HEAD_UP}", coronal)
    low = coronal.size["height"] // 2 - 8
    for down, z in ((-low, "> 20"), (low, "< 3")):
        ActionChains(browser).move_to_element_with_offset(coronal, 0, down).click().perform()
        wait_for(browser, f"{AT}.split(',')[2] {z}")
    level = browser.find_element("css selector", ".level").text
    shade = browser.execute_script(f"return {SHADE}")
    ActionChains(browser).click_and_hold(canvas).move_by_offset(0, 40).release().perform()
    wait_for(browser, f"{SHADE} < 0.95 * {shade}")  # a higher level makes it darker
    window = browser.find_element("css selector", ".level").text.split(",")[0]
    assert window == level.split(",")[0]
    ActionChains(browser).click_and_hold(canvas).move_by_offset(60, 0).release().perform()
    wait_for(browser, f"!document.querySelector('.level').textContent.startsWith('{window},')")
    browser.find_element("css selector", ".reset").click()
    wait_for(browser, f"document.querySelector('.level').textContent === '{level}'")

    browser.find_element("xpath", "//button[contains(., 'Largest error, 8.')]").click()
    wait_for(browser, f"{AT} === '{','.join(map(str, WORST))}'")  # the field shows the whole grid
    assert complaints(browser) == []
    assert requests(browser) == [viewer.as_uri()]


@pytest.mark.slow
@in_browser
def test_a_narrow_window_and_paper_show_all_of_a_case(browser: Any, viewer: Path) -> None:
    narrow = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    browser.execute_script("document.querySelector('.provenance').open = true")
    wide = browser.execute_script(
        "return [document.documentElement.scrollWidth,"
        " ...[...document.querySelectorAll('.facts dd, .plane canvas')].map(x => x.clientWidth)]"
    )
    assert wide[0] <= 400
    assert min(wide[1:]) > 300
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    boxes = "['.plane', '.tools', '.planes img'].map(x => document.querySelector(x).getClientRects().length)"
    assert browser.execute_script(f"return {boxes}") == [0, 0, 1]


@pytest.mark.slow
@in_browser
def test_an_old_browser_keeps_the_still_pictures(browser: Any, viewer: Path) -> None:
    old = (
        "delete window.DecompressionStream; const get = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        " return kind.startsWith('webgl') ? null : get.call(this, kind, ...more); };"
    )
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": old})
    open_page(browser, viewer)
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    browser.find_element("css selector", ".stage").send_keys("\ue007")  # Enter
    assert "No WebGL 2" in browser.find_element("css selector", ".stage .hint").text
    assert not browser.find_elements("css selector", ".live")
    assert browser.find_element("css selector", ".planes img").is_displayed()
    assert not browser.find_element("css selector", ".tools").is_displayed()
    assert complaints(browser) == []


@pytest.mark.slow
@in_browser
def test_the_checks_can_say_no(browser: Any, report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8").split("<script")[0]
    (tmp_path / "x.js").write_text("")
    bad = '<img src="x.png"><script>throw new Error("broken")</script>'
    (tmp_path / "bad.html").write_text(text.replace("default-src 'none'", "default-src *; img-src *") + bad)
    open_page(browser, tmp_path / "bad.html")
    assert any("broken" in message for message in complaints(browser))
    assert len(requests(browser)) == 2
    (tmp_path / "guarded.html").write_text(text + '<img src="x.png">')
    open_page(browser, tmp_path / "guarded.html")
    assert any("Content Security Policy" in message for message in complaints(browser))


@in_browser
def test_on_paper_cases_and_definitions_are_open_and_in_the_dark_letters_are_light(
    browser: Any, report: Path
) -> None:
    open_page(browser, report)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('details.case:not([open])').length") == 5
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    colours = []
    for media in ({}, dark):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        style = "getComputedStyle(document.body)"
        found = browser.execute_script(f"return [{style}.color, {style}.backgroundColor]")
        colours.append([sum(map(int, c[4:-1].split(", "))) for c in found])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    (ink, ground), (dark_ink, dark_ground) = colours
    assert ground - ink > 400
    assert dark_ink - dark_ground > 400


@pytest.mark.slow
@in_browser
@pytest.mark.data
def test_twenty_atria_stay_below_20_mb_and_open_without_complaints(
    browser: Any, shared_data: Path, tmp_path: Path
) -> None:
    from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
    from c3s3_seg.io import load_mask, save

    (tmp_path / "moved").mkdir()
    (tmp_path / "truth").mkdir()
    for path in sorted((shared_data / "la" / "labelsTr").glob("*.nii.gz"))[:20]:
        truth = load_mask(path)
        save(truth.geometry.volume(np.roll(truth.array, 3, axis=0)), tmp_path / "moved" / path.name)
        (tmp_path / "truth" / path.name).symlink_to(path)
    settings = EvaluationSettings(html=True, images=shared_data / "la" / "imagesTr")
    page = evaluate(tmp_path / "moved", tmp_path / "truth", tmp_path / "out", settings).html_path
    assert page is not None
    assert page.stat().st_size < 20_000_000
    open_page(browser, page)
    assert complaints(browser) == []


def test_a_scale_gives_its_ends_and_its_middle_their_colours() -> None:
    scale = Scale(-5, 5, SIGNED, "too small", "too large")
    found = scale.colour(np.array([-9.0, -5.0, 0.0, 5.0, 9.0]))
    assert [tuple(c) for c in found.tolist()] == [SIGNED[0], SIGNED[0], SIGNED[2], SIGNED[-1], SIGNED[-1]]
    assert "+5 mm" in scale.bar()
    assert "+" not in Scale(0, 1, RISING, "sure", "unsure", "").bar()
