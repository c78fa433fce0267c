"""What mkdocs puts into the site's pages: tables of the packages' READMEs, and what the benchmarks found in all.

A line ``{{ table packages/NAME/README.md MARK }}`` becomes what stands there between ``<!-- MARK -->`` and
``<!-- /MARK -->``, without pictures; ``{{ speeds }}`` and ``{{ worth }}`` become the tables of benches.py.
"""

from __future__ import annotations

import re
from typing import Any

import benches

ORDER = re.compile(r"^\{\{ (.+) \}\}$", flags=re.MULTILINE)


def between_marks(page: str, mark: str) -> str:
    """Return what stands between two marks of a page of the tree.

    >>> between_marks("packages/gmr-metric/README.md", "bench_speed").splitlines()[0]
    '| job | who | median | speed, the first of the job being 1 |'
    """
    text = (benches.ROOT / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"<!-- {mark} -->\n")
    inside, end, _ = rest.partition(f"<!-- /{mark} -->")
    if not (end and inside.strip()):
        raise ValueError(f"{page} has nothing between the marks of {mark}")
    return "\n".join(line for line in inside.splitlines() if not line.startswith("!["))


def filled(markdown: str) -> str:
    """Return a page with its orders carried out.

    >>> "| Stone Soup | 141 |" in filled("{{ speeds }}")
    True
    """

    def carried_out(found: re.Match[str]) -> str:
        match found[1].split(" ", 2):
            case ["table", page, mark]:
                return between_marks(page, mark)
            case ["speeds"]:
                return benches.speed_table()
            case ["worth"]:
                return benches.worth_table()
        raise ValueError(f"no page can be given {found[1]!r}: table PAGE MARK, speeds or worth")

    return ORDER.sub(carried_out, markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page: mkdocs calls this of its hooks for each."""
    return filled(markdown)
