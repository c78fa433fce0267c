"""Names made by others show harmlessly: the oracles are the readers of each medium."""

from __future__ import annotations

import csv
import io
import unicodedata
from html.parser import HTMLParser

from hypothesis import example, given, strategies as st
from markdown_it import MarkdownIt
from sextet_common import figures, text

HOSTILE = [
    "\x1b]0;x\x07",
    "<img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@x",
    "\uff1d1",
    "n" * 240,
    "abc\u202edcba\u2066",
    "two\nlines\r\n\ttab",
    "a|b",
    "`code`",
    "[x](javascript:alert(1))",
    "![x](y)",
    "\ud800lone",
    "$x^2$",
    "$",
    "[red]bold[/red]",
    "_hidden_",
    "__init__",
    "# head #",
    "---",
    "===",
    "1. one",
    "   indented",
    "trailing  ",
    "back\\slash\\",
    "&lt;b&gt;",
    "https://example.org www.example.org a@example.org",
    "{: onclick=x}",
    "\U000e0041tag",
    "\x85\u2028\x00\x7f\x9b",
    "",
    " ",
]


class Reader(HTMLParser):
    """What a browser shows, and the tags that it finds."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[str | None] = []
        self.shown = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.attributes += [value for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.shown += data


def everything(test):
    """Try any text and the hostile names."""
    for name in HOSTILE:
        test = example(name)(test)
    return given(st.text(st.characters() | st.sampled_from("<>&|`*_[]()#$=+-@~\\\n\t .1:/\u202e\ud800")))(test)


@everything
def test_a_terminal_gets_one_line_without_control_characters(name: str) -> None:
    shown = text.terminal(name)
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and character not in "\u202e\u2066"
    assert "\n" not in shown and text.terminal(shown) == shown
    shown.encode("utf-8")
    if name.isprintable():
        assert shown == name


@everything
def test_html_shows_exactly_the_text(name: str) -> None:
    page = Reader(f'<p title="{text.html(name)}">{text.html(name)}</p>')
    assert page.tags == ["p"] and page.attributes == [text.terminal(name)]
    assert page.shown == text.terminal(name)


COMMONMARK = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")


@everything
def test_markdown_shows_exactly_the_text_alone_on_its_line_and_in_a_heading_and_in_a_cell(name: str) -> None:
    shown = text.terminal(name)
    if not shown:
        return
    page = Reader(COMMONMARK.render(text.markdown(name)))
    assert page.tags == ["p"] and page.shown == shown + "\n"
    page = Reader(COMMONMARK.render(f"# {text.markdown(name)}"))
    assert page.tags == ["h1"] and page.shown == shown + "\n"
    page = Reader(COMMONMARK.render(text.markdown_table(("a", "b"), [(name, 1), (2, name)])))
    assert page.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td", "tr", "td", "td"]
    assert "".join(page.shown.split("\n")) == f"ab{shown}12{shown}"


@everything
def test_a_spreadsheet_finds_no_formula(name: str) -> None:
    table = io.StringIO()
    csv.writer(table).writerow([text.csv_cell(name), text.csv_cell(-1.5), text.csv_cell(name)])
    ((first, number, last),) = csv.reader(io.StringIO(table.getvalue(), newline=""))
    assert first == last and not first.startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
    assert first.removeprefix("'") == text.terminal(name).removeprefix("'") and float(number) == -1.5


@given(st.text(max_size=400), st.integers(3, 80))
def test_long_names_are_shortened_in_the_middle(name: str, limit: int) -> None:
    whole, shown = text.terminal(name), text.terminal(name, limit)
    assert len(shown) == min(len(whole), limit)
    if len(whole) > limit:
        head, _, tail = shown.partition("…") if "…" not in whole else (shown[: limit // 2], "", "")
        assert whole.startswith(head) and whole.endswith(tail)


def test_the_invisible_characters_of_real_names_stay() -> None:
    for name in ("می‌خواهم", "👩‍🚀", "海\u3000豚", "M\xa0Dupont"):
        assert text.terminal(name) == name
    assert text.markdown("net_lr of C:\\data") == r"net_lr of C:\\data"


def test_matplotlib_draws_the_names_and_no_mathematics(tmp_path) -> None:
    names = [name for name in HOSTILE if name]
    with figures.figure_file(tmp_path / "names.png", (9, 12), title="$x^2$" * 30) as figure:
        axis = figure.subplots()
        for name in names:
            axis.plot([0, 1], [0, 1], label=text.label(name))
        drawn = axis.legend().get_texts()
    assert [entry.get_text() for entry in drawn] == [text.label(name) for name in names]
    for name, entry in zip(names, drawn, strict=True):
        shown, mathematics = entry._preprocess_math(entry.get_text())
        assert (shown.removeprefix("\u200b"), mathematics) == (text.terminal(name, text.SHORT), False)
    assert (tmp_path / "names.png").stat().st_size > 0
