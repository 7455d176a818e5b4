"""The site of the documentation: it builds without a warning, is complete, and needs no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("furo")

from tests import chromium
from tests.pages import ROOT

PHONE = {"width": 390, "height": 844}
#: Pages of the theme itself, which have no source.
GENERATED = {"index.html", "search.html", "genindex.html"}
needs_browser = pytest.mark.skipif(
    bool(chromium.missing()), reason=f"no {' and no '.join(chromium.missing())}"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, which Sphinx has built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-c", "docs"]
    command += ["-d", str(tmp_path_factory.mktemp("doctrees")), ".", str(folder)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    assert build.stderr == ""
    return folder


class Page(HTMLParser):
    """The links, the resources and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.anchors.add(value)
            elif tag == "a" and name == "href" and value:
                self.links.append(value)
            elif name in ("src", "href", "poster", "data") and value and tag != "a":
                self.resources.append(value)


def is_external(url: str) -> bool:
    return bool(re.match(r"(?:\w+:)?//", url))


def pages_of(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_for_users_is_in_the_site(site: Path) -> None:
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - GENERATED
    sources = [*ROOT.glob("docs/*.md"), *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING"))]
    expected = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in sources}
    assert built == expected | {"SECURITY.html"}


def test_links_of_the_site_lead_to_files_and_anchors_that_exist(site: Path) -> None:
    pages, broken = pages_of(site), []
    for path, page in pages.items():
        for link in page.links:
            file, anchor = urldefrag(link)
            if is_external(link) or link.startswith(("mailto:", "javascript:")):
                continue
            target = (path.parent / unquote(file)).resolve() if file else path
            if not target.is_file() or (
                anchor and target in pages and unquote(anchor) not in pages[target].anchors
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    found = [
        f"{path.relative_to(site)}: {resource}"
        for path, page in pages_of(site).items()
        for resource in page.resources
        if is_external(resource)
    ]
    for path in site.rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        urls = re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", style)
        found += [f"{path.relative_to(site)}: {url}" for url in urls if is_external(url)]
    assert found == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = chromium.launch(driver)
        yield browser
        browser.close()


#: The tables that have to be scrolled, and the code that has more than one line although it is short.
_UNFIT = """() => [
    ...[...document.querySelectorAll(".table-wrapper")]
        .filter((table) => table.scrollWidth > table.clientWidth)
        .map((table) => table.querySelector("th").textContent),
    ...[...document.querySelectorAll(".content code")]
        .filter((code) => code.textContent.length <= 34)
        .filter((code) => new Set([...code.getClientRects()].map((line) => line.top)).size > 1)
        .map((code) => code.textContent),
]"""


@needs_browser
def test_every_page_fits_a_phone_and_none_asks_another_host(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport=PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    unfit = {}
    for path in sorted({*site.rglob("*.html")} - {site / "index.html"}):  # which leads to another page
        page.goto(path.as_uri())
        found = page.evaluate(_UNFIT)
        if page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]:
            found.append("the page")
        if found:
            unfit[path.relative_to(site).as_posix()] = found
    page.close()
    assert unfit == {}
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@needs_browser
def test_the_search_works_without_a_server(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=capacity")
    page.locator("#search-results li a", has_text="Settings and exit codes").first.wait_for()
    page.close()


@needs_browser
def test_the_address_of_the_site_leads_to_its_home_page(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    page.close()
