"""The page in a real browser: search, play from the moment, more like it, keep the link."""

import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from simvtp.printing import printable
from testing.pipelines.page_videos import FILES, HOSTILE, brightness

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
PLAIN, MARKUP, TURNED, OLD = FILES[:4]
# Slow machines share their cores; what takes longer than this hangs.
PATIENCE = 60_000
# What a video shows now, from 0 to 255.
SHOWN = """video => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data[0];
}"""


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture
def page(browser, site):
    """A page whose requests, dialogs and errors are noted."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    asked, faults = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    yield opened
    assert opened.evaluate("window.harm") is None
    assert not faults
    own = (site.address, "data:", "blob:")
    assert asked
    assert all(address.startswith(own) for address in asked), asked
    opened.close()


def visit(page, site, link=""):
    """Open the page, and wait until it asks for what its link says: it takes what is typed then."""
    with page.expect_response("**/gradio_api/queue/data*"):
        page.goto(f"{site.address}/{link}")


def type_query(page, query):
    page.locator("#query textarea, #query input").fill(query)
    page.keyboard.press("Enter")
    expect(page.locator(".note")).to_contain_text(query)


def name_of(card):
    return card.locator(".name").text_content()


def test_a_query_finds_a_moment_that_plays_from_there(page, site, asked_outside):
    visit(page, site)
    type_query(page, PLAIN[2])
    card = page.locator(".card").first
    assert name_of(card) == PLAIN[0]
    expect(card).to_contain_text("0:03.0 – 0:05.0")
    expect(card).to_contain_text("1.000")
    video = card.locator("video")
    assert video.evaluate("video => [video.currentTime, video.readyState]") == [0, 0]
    video.evaluate("video => { video.muted = true; return video.play(); }")
    page.wait_for_function("document.querySelector('.card video').currentTime > 3.2")
    video.evaluate("video => video.pause()")
    time = video.evaluate("video => video.currentTime")
    assert 3.2 < time <= 5.01
    assert video.evaluate(SHOWN) == pytest.approx(brightness(min(time, 4.99)), abs=26)
    expect(page.locator(".head")).to_contain_text("7 moments of 7 videos")
    expect(page.locator(".head")).to_contain_text("model shapes")
    # Neither has the server asked anybody.
    assert not asked_outside.exists()


def test_a_file_that_the_browser_does_not_play_is_encoded_for_it(page, site):
    visit(page, site, "?query=two+yellow+stars&top=1")
    video = page.locator(".card video")
    video.evaluate("video => { video.muted = true; video.play().catch(() => {}); }")
    page.wait_for_function("document.querySelector('.card video').currentTime > 0.2")
    assert video.get_attribute("src").endswith("/cut")
    assert video.evaluate("video => video.duration") == pytest.approx(2, abs=0.3)


def test_more_like_a_moment_and_back(page, site):
    visit(page, site)
    type_query(page, MARKUP[2])
    first = page.locator(".card").first
    liked = name_of(first)
    first.get_by_role("button", name="More like this").click()
    expect(page.locator(".note")).to_contain_text("more like")
    expect(page.locator(".note")).to_contain_text(liked)
    assert "like=" in page.url
    expect(page.locator(".card")).to_have_count(len(FILES) - 1)
    page.go_back()
    expect(page.locator(".note")).to_contain_text(MARKUP[2])
    expect(page.locator("#query textarea, #query input")).to_have_value(MARKUP[2])


def test_a_link_keeps_the_search(page, site, browser):
    visit(page, site)
    page.get_by_text("Filters and ranking").click()
    page.get_by_label("Caption holds").fill("dog")
    type_query(page, PLAIN[2])
    expect(page.locator(".card")).to_have_count(1)
    assert page.get_by_text("link to this search").get_attribute("href") in page.url
    page.goto(page.url)
    expect(page.locator(".card")).to_have_count(1)
    assert name_of(page.locator(".card").first) == PLAIN[0]
    expect(page.locator("#query textarea, #query input")).to_have_value(PLAIN[2])
    page.get_by_text("Filters and ranking").click()
    expect(page.get_by_label("Caption holds")).to_have_value("dog")


@pytest.mark.parametrize(("name", "caption", "query"), [MARKUP, TURNED, FILES[4]])
def test_names_and_captions_are_text(page, site, name, caption, query):
    visit(page, site)
    type_query(page, query)
    card = page.locator(".card").first
    assert name_of(card) == printable(name)
    assert card.locator(".caption").text_content() == printable(caption)
    assert page.locator(".card img, .card script").count() == 0


def test_a_hostile_query_and_link_are_text(page, site):
    visit(page, site, "?query=%3Cimg+src%3Dx+onerror%3D%22window.harm%3D1%22%3E&top=2")
    expect(page.locator(".note")).to_contain_text(HOSTILE)
    expect(page.locator(".card")).to_have_count(2)
    visit(page, site, "?query=x&top=%3Cimg+src%3Dx+onerror%3D%22window.harm%3D1%22%3E")
    expect(page.get_by_role("alert")).to_contain_text("top: Input should be a valid integer")


def test_a_clip_is_a_query_and_a_bad_one_is_told(page, site, made_video, tmp_path):
    visit(page, site)
    chosen = page.locator("#upload input")
    bad = tmp_path / "<b>bad.mp4"
    bad.write_bytes(b"no video")
    chosen.set_input_files(bad)
    expect(page.locator("#upload .said")).to_contain_text("<b>bad.mp4: the upload cannot be read")
    chosen.set_input_files(made_video)
    expect(page.locator(".note")).to_contain_text("your upload")
    expect(page.locator(".card")).to_have_count(len(FILES))
    assert "upload=" in page.url
