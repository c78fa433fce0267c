"""Test pages in headless Chromium, if it is installed."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, [*filter(None, [os.environ.get("CHROMIUM")]), *NAMES])), None)

# Listens from the start and stores its observations in the page. Our pages themselves have no scripts.
WATCH = """<script>
const heard = [];
addEventListener("error", event => heard.push(event.message || "could not load " + event.target.outerHTML), true);
addEventListener("load", () => {
  const seen = {
    heard: heard,
    pictures: [...document.images].map(image => [image.alt, image.naturalWidth, image.naturalHeight]),
    tables: [...document.querySelectorAll("table")].map(table => table.tBodies[0].rows.length),
    headings: [...document.querySelectorAll("h2")].map(heading => heading.innerText),
    wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: innerWidth,
  };
  const result = parent.document.createElement("pre");
  result.id = "seen";
  result.textContent = JSON.stringify(seen);
  parent.document.body.replaceChildren(result);
});
</script>"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow tests and the pages, so that at the end no process waits for one of them."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "test_readme.py" not in item.nodeid))


@dataclass(frozen=True)
class Seen:
    """What a browser shows of a page.

    Parameters
    ----------
    heard
        Errors of scripts, and resources that did not load.
    pictures
        Alternative text, width and height in pixels of each image; 0 if it could not be shown.
    tables
        Number of rows of each table body.
    headings
        Text of each heading.
    wider
        Pixels that a reader has to scroll horizontally.
    width
        Width of the frame in pixels.
    console
        The browser's console output.
    """

    heard: list[str]
    pictures: list[tuple[str, int, int]]
    tables: list[int]
    headings: list[str]
    wider: int
    width: int
    console: list[str]


def browsed(page: Path, width: int = 1000) -> Seen:
    """Open a page in a frame of this width: a window is at least 500 pixels wide, a phone is narrower."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory() as folder:
        watched = Path(folder) / "page.html"
        text = page.read_text(encoding="utf-8")
        assert text.count("<head>") == 1
        inside = html.escape(text.replace("<head>", f"<head>{WATCH}"))
        frame = f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{inside}"></iframe>'
        watched.write_text(f'<!doctype html><meta charset="utf-8"><body>{frame}</body>', encoding="utf-8")
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={folder}/profile", "--window-size=1200,900", "--enable-logging=stderr",
            "--dump-dom", watched.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    (seen,) = re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    return Seen(**json.loads(html.unescape(seen)), console=re.findall(r".*CONSOLE.*", done.stderr))


@pytest.fixture
def chromium() -> Callable[..., Seen] | None:
    """Return a function that opens a page in Chromium, or None if it is not installed."""
    return browsed if CHROMIUM else None


@pytest.fixture
def browse(chromium: Callable[..., Seen] | None) -> Callable[..., Seen]:
    """Return a function that opens a page in Chromium; skip the test if it is not installed."""
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    return chromium
