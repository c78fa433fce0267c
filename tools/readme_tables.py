"""Tables, single cells and commands of the packages' READMEs, so that no other page repeats a figure by hand."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"^\|.*\|\n\|[ :|-]+\|\n((?:\|.*\n?)+)", flags=re.MULTILINE)


def between_marks(page: str, mark: str) -> str:
    """Return the text between two markers of a file in the repository, without images.

    >>> between_marks("packages/gmr-metric/README.md", "bench_speed").splitlines()[0]
    '| job | who | median | speed, the first of the job being 1 |'
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"<!-- {mark} -->\n")
    inside, end, _ = rest.partition(f"<!-- /{mark} -->")
    if not (end and inside.strip()):
        raise ValueError(f"{page} has no text between the markers of {mark}")
    return "\n".join(line for line in inside.splitlines() if not line.startswith("!["))


def tables(markdown: str) -> list[list[list[str]]]:
    r"""Return all tables of a text as rows of cells, the header first.

    >>> tables("| a | b |\n|---|---|\n| 1 | 2 |\n")
    [[['a', 'b'], ['1', '2']]]
    """
    found = [match[0].splitlines() for match in TABLE.finditer(markdown)]
    return [
        [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in [lines[0], *lines[2:]]]
        for lines in found
    ]


def cell(package: str, mark: str, row: str, column: str) -> str:
    """Return a cell of a README.

    Parameters
    ----------
    package
        The package.
    mark
        The marker around the table, or ``-`` for the whole README; a number after it chooses one of several tables.
    row
        The row's first cell, or its first cells with `` + `` between them; whole words at the beginning are enough if
        they are of one row.
    column
        The column's header.

    >>> cell("gmr-metric", "bench_quality", "oggmr", "ISE below Runnalls'")
    '100.0%'
    >>> cell("subclass-kd", "bench_cost 1", "conventional KD", "x of KD")
    '1.00'
    """
    page = f"packages/{package}/README.md"
    name, _, number = mark.rpartition(" ") if mark[-1:].isdigit() else (mark, "", "")
    found = tables((ROOT / page).read_text(encoding="utf-8") if name == "-" else between_marks(page, name))
    chosen = [found[int(number) - 1]] if number else found
    wanted = row.split(" + ")
    keyed = [(line[: len(wanted)], line[table[0].index(column)]) for table in chosen if column in table[0]
             for line in table[1:]]  # fmt: skip
    exact = [value for cells, value in keyed if cells == wanted]
    begun = [value for cells, value in keyed if all(map(_begins, cells, wanted))]
    values = exact or begun
    if len(values) != 1:
        raise ValueError(f"{page} has {len(values)} cells of the row {row!r} and the column {column!r} at {mark}")
    return values[0]


def _begins(text: str, words: str) -> bool:
    """Return whether a text begins with words and not in the middle of one or of a number.

    >>> _begins("conventional KD", "conventional"), _begins("10", "1")
    (True, False)
    """
    return (text.startswith(words) and not (words[-1:] + text[len(words) :][:1]).isalnum()) or text == words


def command(package: str, beginning: str) -> str:
    """Return the first console line of a README that begins with some words.

    >>> command("esac", "esac evaluate")
    'esac evaluate runs/x --episodes 3'
    """
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in "".join(blocks).splitlines() if line.startswith(beginning)]
    if not lines:
        raise ValueError(f"no console line of {package}'s README begins with {beginning!r}")
    return lines[0]


def public_names(module: str) -> list[str]:
    """Return ``__all__`` of a package's stub.

    >>> "ESAC" in public_names("esac")
    True
    """
    (stub,) = ROOT.glob(f"packages/*/src/{module}/__init__.pyi")
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise ValueError(f"{stub} has no __all__")
