"""The page in a real browser that can reach nothing but this machine: what a visitor does, and what is then seen."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

WAIT = 60_000  # milliseconds; the machine may be busy
OFFLINE = [
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator:
    with playwright.sync_playwright() as tool:
        try:
            browser = tool.chromium.launch(executable_path=chromium, args=OFFLINE)
        except playwright.Error as error:  # half installed, or not allowed to here
            pytest.skip(f"{chromium} does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page: SimpleNamespace) -> Iterator:
    """The opened page. At its end nothing must have been asked of anybody else, and no script of a name been run."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    view, asked, trouble = context.new_page(), [], []
    view.on("request", lambda request: asked.append(request.url))
    view.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    view.on("pageerror", lambda error: trouble.append(str(error)))
    view.on("console", lambda line: trouble.append(line.text) if "Content Security Policy" in line.text else None)
    view.set_default_timeout(WAIT)
    view.goto(page.url)
    view.wait_for_selector("input[type=file]", state="attached")
    yield view
    context.close()
    assert [url for url in asked if not url.startswith((page.url, "data:", f"blob:{page.url}"))] == []
    assert trouble == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "a photograph.jpg"
    Image.fromarray(coarse).resize((320, 240)).save(path)
    return path


def shares(view) -> list[float]:
    return [float(text.rstrip("%")) for text in view.locator(".bars .number").all_inner_texts()]


def test_an_uploaded_image_is_answered_and_looked_into(visit, picture: Path) -> None:
    assert "It knows 7 classes and nothing else" in visit.inner_text(".knows")
    visit.set_input_files("input[type=file]", picture)
    visit.wait_for_selector(".answer")
    found = shares(visit)
    assert len(found) == 5
    assert found == sorted(found, reverse=True)
    visit.wait_for_selector(".maps")
    assert "conv1" in visit.inner_text(".maps + .note")
    visit.get_by_text("conv4", exact=True).click()
    visit.wait_for_selector(".maps + .note >> text=conv4’s 12 maps")
    visit.wait_for_selector(".near")
    assert visit.locator(".near").count() == 2
    assert "It knows 7 classes and nothing else" in visit.inner_text(".knows")  # and it still says so


@pytest.mark.slow
def test_an_example_comes_with_its_truth_and_the_cross_clears_all(visit) -> None:
    examples = visit.locator(".examples .grid-container button")
    before = examples.nth(4).locator("img").get_attribute("src")
    examples.nth(4).click()
    visit.wait_for_selector(".truth")
    visit.wait_for_selector(".near")
    visit.get_by_text("Other examples").click()
    visit.wait_for_function(
        "before => document.querySelectorAll('.examples .grid-container img')[4].getAttribute('src') != before",
        arg=before,
    )
    visit.get_by_label("Remove Image").click()
    visit.wait_for_selector("text=Drop, paste or photograph an image")
    assert visit.locator(".answer").count() == 0
    assert not visit.locator(".near").first.is_visible()
    assert not visit.locator(".maps").first.is_visible()


@pytest.mark.slow
def test_a_dropped_image(visit, picture: Path) -> None:
    transfer = visit.evaluate_handle(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"})); return data; }""",
        list(picture.read_bytes()),
    )
    visit.dispatch_event(".photo button[aria-dropeffect]", "drop", {"dataTransfer": transfer})
    visit.wait_for_selector(".answer")


@pytest.mark.slow
def test_a_pasted_image(visit) -> None:
    visit.evaluate(
        """async () => { const canvas = new OffscreenCanvas(64, 48); canvas.getContext("2d").fillRect(8, 8, 20, 20);
        const blob = await canvas.convertToBlob({type: "image/png"});
        await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]); }"""
    )
    visit.get_by_label("Paste from clipboard").click()
    visit.wait_for_selector(".answer")


@pytest.mark.slow
def test_a_photograph(visit) -> None:
    visit.get_by_label("Capture from camera").click()
    visit.get_by_text("Click to Access Webcam").click()
    # A click before the first picture of the camera is there does nothing, and nobody clicks so fast.
    visit.wait_for_function("() => document.querySelector('.photo video')?.readyState >= 2")
    visit.get_by_label("capture photo", exact=True).click()
    visit.wait_for_selector(".answer")


@pytest.mark.slow
def test_what_cannot_be_read_is_answered_in_one_line(visit, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(picture.read_bytes()[:500])
    visit.set_input_files("input[type=file]", tmp_path / "broken.jpg")
    line = visit.wait_for_selector(".alexnet .error").inner_text()
    assert line.startswith("broken.jpg: damaged or truncated")
    visit.set_input_files("input[type=file]", picture)  # and the page goes on
    visit.wait_for_selector(".answer")


@pytest.mark.slow
def test_too_many_bytes_or_pixels(visit, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet.use.demo import page

    (tmp_path / "large.png").write_bytes(bytes(page.MAX_BYTES + 1))
    visit.set_input_files("input[type=file]", tmp_path / "large.png")
    visit.wait_for_selector("text=exceed the maximum allowed size")
    monkeypatch.setattr(page, "MAX_PIXELS", 1000)
    visit.set_input_files("input[type=file]", picture)
    assert "the limit is 1,000 pixels" in visit.wait_for_selector(".alexnet .error").inner_text()


@pytest.mark.parametrize(("width", "dark"), [(400, False), (1400, True)])
@pytest.mark.slow
def test_it_fits_a_phone_and_a_wide_window(visit, picture: Path, width: int, dark: bool) -> None:
    visit.set_viewport_size({"width": width, "height": 800})
    visit.emulate_media(color_scheme="dark" if dark else "light")
    visit.set_input_files("input[type=file]", picture)
    visit.wait_for_selector(".near")
    assert visit.evaluate("document.scrollingElement.scrollWidth") <= width
    outside = """width => [...document.querySelectorAll('.alexnet img, .alexnet .number, .alexnet bdi, .examples img')]
        .filter(e => e.getBoundingClientRect().right > width + 1).length"""
    assert visit.evaluate(outside, width) == 0


@pytest.mark.slow
def test_two_visitors_do_not_get_each_others_answers(visit, browser, page: SimpleNamespace, picture: Path) -> None:
    other = browser.new_page()
    other.set_default_timeout(WAIT)
    other.goto(page.url)
    other.locator(".examples .grid-container button").nth(1).click()
    visit.set_input_files("input[type=file]", picture)
    other.wait_for_selector(".truth")
    visit.wait_for_selector(".answer")
    assert visit.locator(".truth").count() == 0
    assert other.locator(".answer img").first.get_attribute("src") != visit.locator(".answer img").first.get_attribute(
        "src"
    )
    other.close()


@pytest.mark.slow
def test_the_answer_waits_for_no_neighbours(visit, page: SimpleNamespace, picture: Path) -> None:
    """While the training images are still being looked at, the answer is there and the page says how far it is."""
    network = page.network
    until = time.monotonic() + 60
    while not network.index_ended and time.monotonic() < until:
        time.sleep(0.1)
    network.index_ended, network.indexed = False, 11
    try:
        visit.set_input_files("input[type=file]", picture)
        visit.wait_for_selector(".answer")
        visit.wait_for_selector("text=Looking at the training images: 11 of 42")
    finally:
        network.index_ended, network.indexed = True, 42
    visit.wait_for_selector(".near")
