"""The demo's page in headless Chromium, at the widths of a desktop and a phone."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
Browse = Callable[..., Any]


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("demo")


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (800, 300), "teal").save(file, "PNG")
    return file.getvalue()


def write_page(demo: ModuleType, path: Path, image: bytes) -> None:
    """A page of two parts that worked, one of them very wide, and one that failed."""
    rows = [[f"row {i}", *("a long cell of numbers 123.45 ± 6.7" for _ in range(6))] for i in range(4)]
    result = {"title": "T <b>", "sentence": "S & s.", "columns": list("abcdefg"), "rows": rows, "note": "N.",
              "picture": "p.png"}  # fmt: skip
    long, pictures = "with a very long line " * 9, ({"T <b>": image}, {"Below": picture()})
    parts = [
        demo.Shown("one", f"python3 tools/dev.py demo --only one {long}", 1.0, result, pictures[0]),
        demo.Shown("two", "python3 tools/dev.py demo --only two", 2.0, result | {"rows": rows[:1]}, pictures[1]),
        demo.Shown("three", "python3 tools/dev.py demo --only three", 3.0, fault="Traceback " * 50 + "exit code 1"),
    ]
    path.write_text(demo.page(parts), encoding="utf-8")


@pytest.mark.parametrize("width", [1000, 500, 360])
def test_images_and_rows_are_visible_without_horizontal_scrolling(
    demo: ModuleType, browse: Browse, tmp_path: Path, width: int
) -> None:
    write_page(demo, tmp_path / "index.html", picture())
    seen = browse(tmp_path / "index.html", width)
    assert seen.heard == [] and seen.console == []
    assert seen.pictures == [["T <b>", 800, 300], ["Below", 800, 300]]
    assert seen.tables == [4, 1]
    assert seen.headings == ["T <b>\none", "T <b>\ntwo", "three"]
    assert seen.wider == 0 and seen.width == width


def test_an_image_that_does_not_load_is_detected(demo: ModuleType, browse: Browse, tmp_path: Path) -> None:
    write_page(demo, tmp_path / "index.html", b"no picture")
    seen = browse(tmp_path / "index.html")
    assert len(seen.heard) == 1 and "could not load" in seen.heard[0]
    assert [found[1] for found in seen.pictures] == [0, 800]
