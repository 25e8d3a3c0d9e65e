"""The documentation is built as `make docs` builds it; every link and picture is there, and nothing is fetched from a host."""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from bs4 import BeautifulSoup

import a4a

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, from a copy: processes that test at the same time must not share an output folder."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("docs", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("models", "__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {file: BeautifulSoup(file.read_text(), "html.parser") for file in site.rglob("*.html")}


def test_every_page_is_in_the_navigation(pages):
    linked = {
        (file.parent / unquote(urldefrag(a["href"])[0])).resolve()
        for file, page in pages.items()
        for a in page.select("nav.md-nav a[href]")
        if a["href"].split("#")[0] and "://" not in a["href"]
    }
    missing = [file for file in pages if file.name != "404.html" and file.resolve() not in linked]
    assert not missing, "give the page a line in the navigation of zensical.toml"


def test_links_and_pictures_lead_somewhere(site, pages):
    ids = {file.resolve(): {tag["id"] for tag in page.select("[id]")} for file, page in pages.items()}
    broken = []
    for file, page in pages.items():
        if file.name == "404.html":  # whose links start at the root of a host
            continue
        for tag in page.select("a[href], img[src], link[href], script[src]"):
            address = tag.get("href") or tag["src"]
            if re.match(r"https?:|mailto:|data:", address):
                continue
            path, anchor = urldefrag(address)
            target = (file.parent / unquote(path)).resolve() if path else file.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in ids and anchor not in ids[target]):
                broken.append((str(file.relative_to(site)), address))
    assert not broken


def test_nothing_is_loaded_from_a_host(pages):
    for page in pages.values():
        for tag in page.select("img[src], link[rel=stylesheet], script[src], iframe[src]"):
            assert "//" not in (tag.get("href") or tag["src"])


def test_the_reference_has_every_public_name(site, pages):
    names = {tag["id"] for tag in pages[site / "reference.html"].select("[id]")}
    assert {f"a4a.{name}" for name in a4a.__all__} <= names


def test_figures_of_the_choice_are_those_of_the_results():
    with (ROOT / "docs/results/figure7-curves.csv").open() as file:
        curves = {
            (row["method"], row["samples"]): float(row["mean"])
            for row in csv.DictReader(file)
            if row["score"] == "identity"
        }
    lines = re.findall(r"^\| ([\d,]+) \| (.*) \|$", (ROOT / "docs/choose.md").read_text(), flags=re.MULTILINE)
    assert len(lines) >= 5
    for samples, figures in lines:
        methods = ("A4A", "IP-Adapter*", "IP-Adapter* with the PTA's projection")
        for method, figure in zip(methods, re.split(r" \|\s*", figures), strict=True):
            if figure.strip():
                assert float(figure) == pytest.approx(curves[method, samples.replace(",", "")], abs=0.0051)
