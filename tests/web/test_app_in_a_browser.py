"""`a4a web` in a real headless Chromium: one server for all tests. The screenshots in docs/ come from here."""

import os
import re
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread

import httpx
import pytest
from gradio_client import Client
from PIL import Image, ImageChops
from playwright.sync_api import expect, sync_playwright

from hostile_images import GOOD, HOSTILE

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason="Chromium is not installed (.ci/run installs it)")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW = 60_000
"""Milliseconds that anything may take on a busy machine; seconds on an idle one."""
SERVER = Path(__file__).with_name("serve_app.py")
DOCS = Path(__file__).parents[2] / "docs"
RENEW = os.environ.get("A4A_SCREENSHOTS") == "1"
"""Whether the screenshots in docs/ are written anew."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home, working and temporary folder of the server."""
    folder = tmp_path_factory.mktemp("server")
    for name in ("home", "work", "tmp"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def server(home):
    """Address of a server that ends with the tests."""
    environment = os.environ | {"HOME": str(home / "home"), "TMPDIR": str(home / "tmp"), "OMP_NUM_THREADS": "1"}
    with (home / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home / "work",
            env=environment,
        )
    try:
        yield _address(process, home / "errors.txt")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    assert not list((home / "tmp").glob("a4a-web-*"))  # all pictures are gone


def _address(process, errors):
    """What the server prints once it is there."""
    found = []

    def read():
        found.extend(re.findall(r"http://\S+", process.stdout.readline()))

    reader = Thread(target=read, daemon=True)
    reader.start()
    reader.join(200)
    assert found, errors.read_text()[-2000:]
    return found[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One browser; its profile is a new folder, as playwright makes it."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS, headless=True)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def context(browser):
    """One for most visitors, so that the page's scripts are loaded once."""
    context = browser.new_context(reduced_motion="reduce")
    yield context
    context.close()


@contextmanager
def visitor(context, server, width=1280, height=900):
    """A page of a new visitor; fails where the browser asks another host for anything, or where a script fails."""
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.set_default_timeout(SLOW)
    foreign, broken = [], []
    page.on("request", lambda request: _is_foreign(request.url, server) and foreign.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    try:
        page.goto(server)
        page.locator("#generate").wait_for()
        yield page
        assert not foreign and not broken
    finally:
        page.close()


def _is_foreign(url, server):
    return not url.startswith((server, "data:", "blob:", "about:"))


def status(page, words, where="#status"):
    expect(page.locator(where)).to_contain_text(re.compile(words), timeout=SLOW)


def generate(page):
    """Draws, and returns where the two pictures are."""
    page.locator("#generate").click()
    status(page, r"Seed \d+, scale")
    return addresses(page)


def addresses(page):
    return [source(page, name) for name in ("picture", "plain")]


def source(page, name):
    """Address of a picture of the page."""
    return page.locator(f"#{name} img").get_attribute("src")


def move_slider(page, name, value):
    """Drags a slider."""
    slider = page.locator(f"#{name} input[type=range]")
    box = slider.bounding_box()
    low, high = (float(slider.get_attribute(end)) for end in ("min", "max"))
    x = box["x"] + box["width"] * (value - low) / (high - low)
    page.mouse.move(
        box["x"] + box["width"] * (float(slider.input_value()) - low) / (high - low), box["y"] + box["height"] / 2
    )
    page.mouse.down()
    page.mouse.move(x, box["y"] + box["height"] / 2, steps=3)
    page.mouse.up()


def screenshot(page, name):
    """A screenshot for the docs, as a small WebP."""
    if RENEW:
        file = DOCS / f"{name}.png"
        page.screenshot(path=file, full_page=True)
        with Image.open(file) as image:
            image.convert("RGB").save(DOCS / f"{name}.webp", quality=80, method=6)
        file.unlink()


def downloaded(page, address, tmp_path, name):
    file = tmp_path / name
    file.write_bytes(page.request.get(address, timeout=SLOW).body())
    return Image.open(file).convert("RGB")


def test_a_picture_beside_the_same_seed_without_reference_and_the_scale_changes_it(context, server, tmp_path):
    with visitor(context, server) as page:
        picture, plain = generate(page)
        screenshot(page, "web-generate")
        whole, alone = (downloaded(page, a, tmp_path, f"{i}.png") for i, a in enumerate((picture, plain)))
        assert whole.size == alone.size == (384, 384)
        move_slider(page, "scale", 0)
        status(page, "scale 0,")
        expect(page.locator("#picture img")).not_to_have_attribute("src", picture, timeout=SLOW)
        other, same = addresses(page)
        assert same == plain
        without = downloaded(page, other, tmp_path, "without.png")
        assert ImageChops.difference(without, alone).getbbox() is None  # at scale 0 it is the plain model
        assert ImageChops.difference(without, whole).getbbox() is not None


def test_a_drawing_is_stopped(context, server):
    with visitor(context, server) as page:
        page.get_by_text("Advanced").click()
        page.locator("#steps input[type=number]").fill("100")
        page.locator("#steps input[type=number]").press("Tab")
        expect(page.locator("#steps input[type=range]")).to_have_value("100", timeout=SLOW)
        page.wait_for_timeout(1000)  # gradio takes a moment until a click sends the new number
        page.locator("#generate").click()
        status(page, "step [0-9]+ of 100")
        page.locator("#stop").click()
        status(page, "Stopped")
        page.locator("#steps input[type=number]").fill("2")
        generate(page)
        status(page, "2 steps")


def test_a_hostile_upload_is_refused_in_one_sentence(context, server, tmp_path):
    with visitor(context, server) as page:
        for name in ("a bomb", "SVG"):
            file = tmp_path / "upload.png"
            file.write_bytes(HOSTILE[name][0])
            if page.locator("#reference img").count():
                page.locator("#reference").get_by_role("button", name="Remove Image").click()
            page.locator("#reference input[type=file]").set_input_files(file)
            expect(page.locator(".toast-body").last).to_contain_text(HOSTILE[name][1], timeout=SLOW)
            expect(page.locator("#reference img")).to_have_count(0, timeout=SLOW)
        file = tmp_path / "large.png"
        file.write_bytes(os.urandom(11 * 2**20))
        page.locator("#reference input[type=file]").set_input_files(file)
        expect(page.locator(".toast-body").last).to_contain_text(re.compile("size", re.IGNORECASE), timeout=SLOW)


def test_two_visitors_at_once_get_their_own_pictures(context, browser, server, tmp_path):
    with closing(browser.new_context()) as other, visitor(context, server) as ann, visitor(other, server) as ben:
        ben.locator("#creatures button").nth(3).click()
        expect(ben.locator("#reference img")).not_to_have_attribute("src", source(ann, "reference"), timeout=SLOW)
        ann.locator("#generate").click()
        ben.locator("#generate").click()
        for page in (ann, ben):
            status(page, r"Seed 0, scale")
        same = re.compile(re.escape(source(ann, "plain").split("/")[-2]))  # files are named by what they hold
        expect(ben.locator("#plain img")).to_have_attribute("src", same, timeout=SLOW)
        assert source(ann, "picture") != source(ben, "picture")
        files = [downloaded(page, source(page, "picture"), tmp_path, f"{i}.png") for i, page in enumerate((ann, ben))]
        assert ImageChops.difference(*files).getbbox() is not None
        ben.locator("#creatures button").nth(0).click()
        expect(ben.locator("#reference img")).to_have_attribute("src", source(ann, "reference"), timeout=SLOW)
        ben.locator("#generate").click()
        expect(ben.locator("#picture img")).to_have_attribute("src", source(ann, "picture"), timeout=SLOW)


def test_a_keyboard_is_enough(context, server):
    with visitor(context, server) as page:
        page.locator("#prompt textarea").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("a small creature on the left, in the snow")
        page.keyboard.press("Enter")
        status(page, r"Seed 0, scale 1,")
        first = addresses(page)
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.closest('[id]:not([id^=component]):not([id^=range])')?.id")
            )
            if page.evaluate("document.activeElement.closest('#scale input[type=range]') !== null"):
                break
        assert {"generate", "stop"} <= reached
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
        page.locator("#prompt textarea").focus()
        page.keyboard.press("Enter")
        status(page, r"Seed 0, scale 0.5,")
        expect(page.locator("#picture img")).not_to_have_attribute("src", first[0], timeout=SLOW)


def test_a_narrow_screen_has_all_of_it(context, server):
    with visitor(context, server, width=390, height=844) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        generate(page)
        boxes = [
            page.locator(f"#{name}").bounding_box() for name in ("reference", "prompt", "generate", "picture", "scale")
        ]
        assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes)
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
        screenshot(page, "web-narrow")


def test_methods_are_compared_and_the_report_is_shown(context, server):
    with visitor(context, server) as page:
        page.get_by_role("tab", name="Compare").click()
        page.locator("#compare").click()
        status(page, "Seed 0", "#compare-status")
        captions = page.locator("#compared .caption-label").all_inner_texts()
        assert len(captions) >= 4 and captions[0].startswith("Text alone: identity")
        scores = [float(caption.rpartition(" ")[2]) for caption in captions]
        assert max(scores) > scores[0] + 0.2
        page.wait_for_function("[...document.querySelectorAll('#compared img')].every(image => image.naturalWidth > 0)")
        screenshot(page, "web-compare")
        page.get_by_role("tab", name="Report").click()
        frame = page.frame_locator("#report iframe")
        expect(frame.locator("h2").first).to_be_visible(timeout=SLOW)


def test_a_transfer_is_watched_and_used(context, server):
    with visitor(context, server) as page:
        page.get_by_role("tab", name="Transfer").click()
        page.locator("#start").click()
        status(page, "Done: 64 samples", "#transfer-status")
        expect(page.locator("#transfer-view svg")).to_have_count(1, timeout=SLOW)
        assert page.locator("#transfer-view th").all_inner_texts() == ["reference", "0", "32", "64"]
        screenshot(page, "web-transfer")
        page.locator("#use").click()
        expect(page.locator("#adapter input")).to_have_value(re.compile("Yours 1: A4A, 64 samples"), timeout=SLOW)
        generate(page)


def test_a_full_queue_says_its_length(server):
    client = Client(server, verbose=False, download_files=False)
    jobs = [client.submit(prompt="a creature", steps=4, seed=seed, api_name="/generate") for seed in range(8)]
    errors = [error for job in jobs if (error := job.exception(timeout=SLOW / 1000)) is not None]
    assert 0 < len(errors) < len(jobs)  # one is drawn and two wait, as tests/web/serve_app.py sets
    assert all("Queue is full" in str(error) for error in errors)


def answer_to(server, reference):
    """What a request to draw says in the end; without gradio_client, which would upload a file that it is given."""
    given = [reference, "a creature", "pixart-mini", "A4A, transferred in 3,200 samples", 1.0, 0, 2, 3.0]
    call = f"{server}/gradio_api/call/generate"
    event = httpx.post(call, json={"data": given}, timeout=60).json()["event_id"]
    return re.findall(r"^event: (\w+)", httpx.get(f"{call}/{event}", timeout=60).text, re.MULTILINE)[-1]


def test_a_request_names_no_file_of_the_server_and_no_address(server):
    said_to_be_a_file = {"meta": {"_type": "gradio.FileData"}}
    (uploaded,) = httpx.post(f"{server}/gradio_api/upload", files={"files": ("a.png", GOOD)}, timeout=60).json()
    assert answer_to(server, {"path": uploaded} | said_to_be_a_file) == "complete"
    own = str(DOCS / "demo.png")
    for path in (own, f"{uploaded}/../../../../../../../../../../..{own}", "http://127.0.0.1:9/demo.png"):
        assert answer_to(server, {"path": path} | said_to_be_a_file) == "error"
        assert answer_to(server, {"path": path}) == "error"
        assert httpx.get(f"{server}/gradio_api/file={path}", timeout=60).status_code in (403, 404)
    assert httpx.get(f"{server}/gradio_api/file=https://example.org/a.png", timeout=60).text == "Not found"
    assert httpx.get(f"{server}/gradio_api/file={uploaded}", timeout=60).content == GOOD


def test_the_example_of_the_docs_draws(server, tmp_path, monkeypatch):
    text = (DOCS / "web.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((64, 64), 80).convert("RGB").save("my-creature.png")
    exec(code.replace("http://127.0.0.1:7860", server), {})
    assert Image.open("picture.png").size == Image.open("plain.png").size == (64, 64)


def test_nothing_is_written_elsewhere(server, home):
    assert not list((home / "work").iterdir())
    at_home = [path.relative_to(home / "home") for path in (home / "home").rglob("*") if path.is_file()]
    assert all(path.parts[:2] == (".cache", "matplotlib") for path in at_home)
    files = [path.relative_to(home / "tmp") for path in (home / "tmp").rglob("*")]
    pictures = [path for path in files if path.suffix in (".png", ".webp")]
    assert pictures and all(path.parts[0].startswith("a4a-web-") for path in pictures)
