r"""User-provided names as text for a terminal, Markdown, HTML, CSV and matplotlib.

Class names, file names and labels come from data that others made. Each function returns text that its medium shows
as it is: no control sequence, no tag, no formula, no mathematics. Characters that cannot be seen appear as Python's
escapes, such as ``\x1b``. With ``limit``, longer text is shortened in the middle. Files for programs hold names as they
are.

Examples
--------
>>> print(terminal("\x1b]0;owned\x07 cat"))
\x1b]0;owned\x07 cat
>>> print(markdown("<img onerror=x> [a](b)"), html("<b>"), csv_cell("=1+1"), label("$5"))
&lt;img onerror=x&gt; \[a\](b) &lt;b&gt; '=1+1 \$5
"""

from __future__ import annotations

import html as _html
import re
from collections.abc import Iterable, Sequence
from numbers import Number

SHORT = 60  # characters of a name in a list or a table
_SPACES = (0x00A0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)
_SPELLING = {*map(chr, _SPACES), "\u200c", "\u200d"}  # invisible, but part of words, of Persian and of emoji
_SPECIAL = str.maketrans(
    {c: "\\" + c for c in "\\`*[]{}#"} | {c: _html.escape(c) for c in "<>&"} | {c: f"&#{ord(c)};" for c in "|~$"}
)
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are the full-width forms of the first


def terminal(value: object, limit: int | None = None) -> str:
    """Return text on one line without control characters, bidirectional overrides and lone surrogates."""
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in _SPELLING else ascii(c)[1:-1] for c in text)
    if limit is None or len(text) <= limit:
        return text
    return f"{text[: limit // 2]}…{text[len(text) - (limit - 1) // 2 :]}"


def markdown(value: object, limit: int | None = None) -> str:
    """Return Markdown that shows the text, alone on its line or within one; in a table's cell, too."""
    text = terminal(value, limit).translate(_SPECIAL)
    text = re.sub(r"(?<![^\W_])_+|_+(?![^\W_])", lambda run: run[0].replace("_", r"\_"), text)  # emphasis
    text = re.sub(r"(?i)\b(www)\.", r"\1\\.", text.replace("://", "&#58;//"))  # links without brackets
    text = re.sub(r"^(\d*)([-+.)])(?=\s|-|$)", r"\1\\\2", text)  # lists and rules
    return re.sub(r"^[=:\s]|\s$", lambda one: f"&#{ord(one[0])};", text)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table of cells that are shown as they are; ``head`` is Markdown already."""
    lines = [head, ["---"] * len(head), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html(value: object, limit: int | None = None) -> str:
    """Return HTML that shows the text, in an element or in a quoted attribute."""
    return _html.escape(terminal(value, limit))


def csv_cell(value: object) -> object:
    """Return a cell for `csv.writer`: a number, or text that no spreadsheet takes as a formula."""
    if isinstance(value, Number):
        return value
    text = terminal(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def label(value: object, limit: int | None = SHORT) -> str:
    r"""Return a label for matplotlib, without mathematics and shown in legends even if it begins with ``_``."""
    text = terminal(value, limit).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text
