"""mkdocs hooks that insert README tables, benchmark summaries and equations into the pages of the site.

A line ``{{ table packages/NAME/README.md MARK }}`` is replaced by the text between ``<!-- MARK -->`` and
``<!-- /MARK -->`` in that file, without images; ``{{ speeds }}`` and ``{{ worth }}`` by the tables of benches.py. TeX
in a block of the language ``math``, or inline in GitHub's syntax, is converted to MathML, which browsers show without
a script.
"""

from __future__ import annotations

import re
from typing import Any

import benches

ORDER = re.compile(r"^\{\{ (.+) \}\}$", flags=re.MULTILINE)
BLOCK = re.compile(r"^```math\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`]+)`\$")


def between_marks(page: str, mark: str) -> str:
    """Return the text between two markers of a file in the repository.

    >>> between_marks("packages/gmr-metric/README.md", "bench_speed").splitlines()[0]
    '| job | who | median | speed, the first of the job being 1 |'
    """
    text = (benches.ROOT / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"<!-- {mark} -->\n")
    inside, end, _ = rest.partition(f"<!-- /{mark} -->")
    if not (end and inside.strip()):
        raise ValueError(f"{page} has no text between the markers of {mark}")
    return "\n".join(line for line in inside.splitlines() if not line.startswith("!["))


def filled(markdown: str) -> str:
    """Return a page with its ``{{ }}`` directives replaced.

    >>> "| Stone Soup |" in filled("{{ speeds }}")
    True
    """

    def replacement(found: re.Match[str]) -> str:
        match found[1].split(" ", 2):
            case ["table", page, mark]:
                return between_marks(page, mark)
            case ["speeds"]:
                return benches.speed_table()
            case ["worth"]:
                return benches.worth_table()
        raise ValueError(f"unknown directive {found[1]!r}: use table PAGE MARK, speeds or worth")

    return ORDER.sub(replacement, markdown)


def mathml(tex: str, *, block: bool) -> str:
    """Convert an equation to MathML; TeX that pandoc does not know raises RuntimeError.

    >>> mathml("x^2", block=False)[23:]
    '<math display="inline" xmlns="http://www.w3.org/1998/Math/MathML"><msup><mi>x</mi><mn>2</mn></msup></math></span>'
    """
    import pypandoc  # only needed for the site

    sign, tag = ("$$", "div") if block else ("$", "span")
    options = ["--mathml", "--wrap=none", "--fail-if-warnings"]
    made = pypandoc.convert_text(f"{sign}{tex.strip()}{sign}", "html", format="markdown", extra_args=options)
    (found,) = re.findall(r"<math.*</math>", made, flags=re.DOTALL)
    # Escape Markdown's special characters and drop the TeX source; the outer element keeps an equation on its line.
    bare = re.sub(r"</?semantics>|<annotation.*?</annotation>", "", found, flags=re.DOTALL)
    bare = re.sub(r"[|*_\[\]`]", lambda sign: f"&#{ord(sign[0])};", bare)
    full = bare.replace("<mtable>", '<mtable displaystyle="true">') if block else bare
    return f'<{tag} class="equation">{full}</{tag}>'


def with_equations(markdown: str) -> str:
    """Return a page with its equations in MathML."""
    blocks = BLOCK.sub(lambda found: mathml(found[1], block=True), markdown)
    return INLINE.sub(lambda found: mathml(found[1], block=False), blocks)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Prepare a page; mkdocs calls this hook for every page."""
    return with_equations(filled(markdown))
