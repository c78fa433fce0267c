"""mkdocs hooks that insert README tables, benchmark summaries and equations into the pages of the site.

A line ``{{ table packages/NAME/README.md MARK }}`` is replaced by the text between ``<!-- MARK -->`` and
``<!-- /MARK -->`` in that file, without images; ``{{ speeds }}`` and ``{{ worth }}`` by the tables of benches.py;
``{{ others MODULE }}`` by the reference of a package's public names that the page does not list. Within a line,
``{{ cell PACKAGE MARK :: ROW :: COLUMN }}`` is a cell of a README's table, ``{{ command PACKAGE WORDS }}`` its first
command that begins so. TeX in a block of the language ``math``, or inline in GitHub's syntax, is converted to MathML,
which browsers show without a script.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import benches
import readme_tables
from readme_tables import between_marks

ORDER = re.compile(r"^\{\{ (.+) \}\}$", flags=re.MULTILINE)
WORDS = re.compile(r"\{\{ (cell|command) (.+?) \}\}")
BLOCK = re.compile(r"^```math\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`]+)`\$")
FOREIGN = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//[^>]*>|"""
    r"""<link\b[^>]*\srel=["']?(?:stylesheet|preload|icon)[^>]*\shref=["']?(?:https?:)?//[^>]*>|"""
    r"""<link\b[^>]*\shref=["']?(?:https?:)?//[^>]*\srel=["']?(?:stylesheet|preload|icon)[^>]*>"""
)


def quoted(found: re.Match[str]) -> str:
    """Return what a directive within a line stands for."""
    if found[1] == "command":
        package, _, beginning = found[2].partition(" ")
        return readme_tables.command(package, beginning)
    place, *labels = found[2].split(" :: ")
    package, _, mark = place.partition(" ")
    if len(labels) != 2:
        raise ValueError(f"{found[0]}: write {{{{ cell PACKAGE MARK :: ROW :: COLUMN }}}}")
    return readme_tables.cell(package, mark, *labels).replace(" ", "\N{NO-BREAK SPACE}")


def others(module: str, markdown: str) -> str:
    """Return mkdocstrings' directives for the public names of a package that a page does not list."""
    listed = set(re.findall(rf"^::: {module}\.(\w+)$", markdown, flags=re.MULTILINE))
    rest = [name for name in readme_tables.public_names(module) if name not in listed]
    return "\n\n".join(["## Others" if rest else "", *(f"::: {module}.{name}" for name in rest)])


def filled(markdown: str) -> str:
    """Return a page with its ``{{ }}`` directives replaced.

    >>> "| Stone Soup |" in filled("{{ speeds }}")
    True
    >>> filled("below Runnalls' in {{ cell gmr-metric bench_quality :: oggmr :: ISE below Runnalls' }} of the cases")
    "below Runnalls' in 100.0% of the cases"

    A cell does not break within a figure:

    >>> [" ±" in text for page in ["packages/d2m-generator/README.md"] for text in
    ...  (between_marks(page, "bench_digits"), filled(f"{{{{ table {page} bench_digits }}}}"))]
    [True, False]
    """

    def replacement(found: re.Match[str]) -> str:
        match found[1].split(" ", 2):
            case ["table", page, mark]:
                return re.sub(r"(?<=\d) (?=[%±])|(?<=±) ", "\N{NO-BREAK SPACE}", between_marks(page, mark))
            case ["speeds"]:
                return benches.speed_table()
            case ["worth"]:
                return benches.worth_table()
            case ["others", module]:
                return others(module, markdown)
            case ["cell" | "command", *_]:
                return found[0]
        raise ValueError(f"unknown directive {found[1]!r}: use table PAGE MARK, speeds, worth or others MODULE")

    return WORDS.sub(quoted, ORDER.sub(replacement, markdown))


@functools.cache
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
    # A function and an argument without parentheses have a space between them.
    spaced = r'\g<0><mspace width="0.17em"></mspace>'
    bare = re.sub(r'<mo>&#8289;</mo>(?!</mrow><mo[^>]*form="prefix")', spaced, bare)
    full = bare.replace("<mtable>", '<mtable displaystyle="true">') if block else bare
    return f'<{tag} class="equation">{full}</{tag}>'


def with_equations(markdown: str) -> str:
    """Return a page with its equations in MathML."""
    blocks = BLOCK.sub(lambda found: mathml(found[1], block=True), markdown)
    return INLINE.sub(lambda found: mathml(found[1], block=False), blocks)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Prepare a page; mkdocs calls this hook for every page."""
    return with_equations(filled(markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Keep the options in inline code whole, which browsers would break after a hyphen, and drop Sphinx's roles.

    >>> on_page_content("<code>esac train --out x</code>")
    '<code>esac train <span class="option">--out</span> x</code>'
    """

    def options_whole(found: re.Match[str]) -> str:
        words = re.sub(r"(?<![^ ])--?[\w-]+", r'<span class="option">\g<0></span>', found[1])
        return f"<code>{words}</code>"

    without_roles = re.sub(r":(?:attr|class|func|meth|mod):(?=<code)", "", html)  # of Sphinx, in docstrings
    return re.sub(r"<code>([^<>\n]+)</code>", options_whole, without_roles)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that loads anything from elsewhere: the site is read offline too."""
    if found := FOREIGN.search(output):
        raise ValueError(f"{page.file.src_path} loads {found[0]}")
    return output
