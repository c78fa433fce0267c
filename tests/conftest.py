"""A page as a browser sees it: headless Chromium, where this machine has one."""

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

# Listens from the first byte on, and leaves in the page what it heard and saw. No page of ours has a script itself.
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
  const told = parent.document.createElement("pre");
  told.id = "seen";
  told.textContent = JSON.stringify(seen);
  parent.document.body.replaceChildren(told);
});
</script>"""


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page.

    Parameters
    ----------
    heard
        Errors: of scripts, of what did not load.
    pictures
        Alternative text, width and height in pixels of each; 0 where it could not be shown.
    tables
        Rows of each body.
    headings
        The text of each.
    wider
        Pixels that a reader has to scroll sideways.
    width
        Of the frame, in pixels.
    console
        What the browser wrote to its console.
    """

    heard: list[str]
    pictures: list[tuple[str, int, int]]
    tables: list[int]
    headings: list[str]
    wider: int
    width: int
    console: list[str]


def browsed(page: Path, width: int = 1000) -> Seen:
    """Open a page in a frame of that width: a window can be no narrower than 500 pixels, a phone is."""
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
    """Opens a page in Chromium; None where there is none."""
    return browsed if CHROMIUM else None


@pytest.fixture
def browse(chromium: Callable[..., Seen] | None) -> Callable[..., Seen]:
    """Opens a page in Chromium; the test is skipped where there is none."""
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    return chromium
