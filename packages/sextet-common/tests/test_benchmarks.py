from __future__ import annotations

import json
from pathlib import Path

import pytest
from sextet_common import benchmarks, device
from sextet_common.errors import InputError


def test_a_stored_report_describes_the_machine(tmp_path: Path) -> None:
    path = benchmarks.store(tmp_path, "speed", {"seconds": [1.0, 2.0]})
    assert path == tmp_path / "results" / "speed.json"
    assert json.loads(path.read_text()) == {"machine": device.describe(), "seconds": [1.0, 2.0]}


def test_a_table_replaces_only_the_text_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\n<!-- /two -->\nc\n")
    benchmarks.into_readme(page, "two", "x\ny")
    benchmarks.into_readme(page, "one", "new")
    assert page.read_text() == "a\n<!-- one -->\nnew\n<!-- /one -->\nb\n<!-- two -->\nx\ny\n<!-- /two -->\nc\n"


@pytest.mark.parametrize("text", ["no marks", "<!-- one -->\nopen", "<!-- /one -->\n<!-- one -->\n"])
def test_a_page_without_markers_is_unchanged(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(InputError, match="no markers for one"):
        benchmarks.into_readme(page, "one", "new")
    assert page.read_text() == text
