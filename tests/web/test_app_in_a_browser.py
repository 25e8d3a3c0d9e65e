"""`a4a web` in a real headless Chromium: one server for all tests. The screenshots in docs/ come from here."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image, ImageChops
from playwright.sync_api import expect, sync_playwright

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
    return [page.locator(f"#{name} img").get_attribute("src") for name in ("picture", "plain")]


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
        other, same = addresses(page)
        assert other != picture and same == plain
        without = downloaded(page, other, tmp_path, "without.png")
        assert ImageChops.difference(without, alone).getbbox() is None  # at scale 0 it is the plain model
        assert ImageChops.difference(without, whole).getbbox() is not None


def test_a_drawing_is_stopped(context, server):
    with visitor(context, server) as page:
        page.get_by_text("Advanced").click()
        page.locator("#steps input[type=number]").fill("100")
        page.locator("#generate").click()
        status(page, "step [0-9]+ of 100")
        page.locator("#stop").click()
        status(page, "Stopped")
        page.locator("#steps input[type=number]").fill("2")
        generate(page)
        status(page, "2 steps")
