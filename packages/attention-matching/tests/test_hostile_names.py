"""Class names made by others show harmlessly on the terminal and in the data card."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

import numpy as np
import pytest
from attention_matching.__main__ import main
from attention_matching.export.card import data_card, summary
from attention_matching.images.select import random_real
from markdown_it import MarkdownIt
from sextet_common.data import load
from sextet_common.text import terminal

NAMES = (
    "\x1b]0;x\x07", "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "n" * 240, "abc\u202edcba",
    "two\nlines", "a|b `c` [x](javascript:y)", "\ud800", "[red]x[/red]", "$x^2$",
)  # fmt: skip


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def hostile():
    distilled = random_real(load("digits"), ipc=1)
    return dataclasses.replace(distilled, classes=NAMES, meta={**distilled.meta, "data": f"folder:{NAMES[1]}\x1b[2J"})


def test_the_card_shows_the_names_and_no_tag_of_theirs(hostile) -> None:
    page = Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(data_card(hostile)))
    assert page.tags <= {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "pre", "code"}
    for name in NAMES:
        assert terminal(name, 60) in page.text


def test_show_prints_one_line_a_fact_without_control_characters(hostile, tmp_path, capsys) -> None:
    assert len(summary(hostile).splitlines()) == 6
    assert summary(hostile).replace("\n", "").isprintable()
    hostile = dataclasses.replace(hostile, classes=tuple(n.replace("\ud800", "s") for n in NAMES))
    hostile.save(tmp_path / "set.safetensors")
    assert main(["show", str(tmp_path / "set.safetensors")]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable() and "\\x1b]0;x\\x07" in out and "n" * 61 not in out
    assert np.isfinite(hostile.images.numpy()).all()
