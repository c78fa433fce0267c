"""The documentation site: tables are those of the READMEs, figures those of the JSON reports, equations valid XML."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import benches  # noqa: E402
import pages  # noqa: E402

ORDERS = [
    (page, order)
    for page in sorted((ROOT / "docs").glob("**/*.md"))
    for order in pages.ORDER.findall(page.read_text(encoding="utf-8"))
]
EQUATIONS = [
    (page, found[1], pattern is pages.BLOCK)
    for page in sorted((ROOT / "docs").glob("**/*.md"))
    for pattern in (pages.BLOCK, pages.INLINE)
    for found in pattern.finditer(page.read_text(encoding="utf-8"))
]
MATHML = "{http://www.w3.org/1998/Math/MathML}"
each_row = pytest.mark.parametrize("row", [*benches.SPEED, *benches.WORTH], ids=lambda r: f"{r.package}: {r.job}")


def printed(package: str) -> set[float]:
    """Every number in a package's README."""
    text = (ROOT / "packages" / package / "README.md").read_text(encoding="utf-8")
    return {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


def as_printed(value: float) -> set[float]:
    """Return a number as a table may round it, to at least two significant digits."""
    formats = [".3g", ".4g", ".2f", *([".1f"] if value >= 1 else []), *([".0f"] if value >= 10 else [])]
    return {float(f"{value:{form}}") for form in formats}


@pytest.mark.parametrize(("page", "order"), ORDERS, ids=lambda value: getattr(value, "stem", value))
def test_a_directive_inserts_a_table(page: Path, order: str) -> None:
    table = pages.filled(f"{{{{ {order} }}}}")
    assert re.search(r"^\|( ?-{3,} ?\|)+$", table, flags=re.MULTILINE)


def test_every_benchmark_table_of_a_readme_is_on_the_packages_benchmark_page() -> None:
    marks = {
        (str(readme.relative_to(ROOT)), mark)
        for readme in ROOT.glob("packages/*/README.md")
        for mark in re.findall(r"<!-- (bench_[^/]+?) -->", readme.read_text(encoding="utf-8"))
        if "Not measured yet." not in pages.between_marks(str(readme.relative_to(ROOT)), mark)
    }
    asked = {tuple(order.split(" ", 2)[1:]) for _, order in ORDERS if order.startswith("table ")}
    assert asked == marks


@pytest.mark.parametrize("order", ["table README.md nothing", "tables README.md x", "speed"])
def test_an_invalid_directive_stops_the_build(order: str) -> None:
    with pytest.raises(ValueError, match=r"nothing|speed"):
        pages.filled(f"{{{{ {order} }}}}")


@pytest.mark.parametrize("package", benches.SCRIPTS)
def test_every_theory_page_has_equations_and_their_mathml_keeps_all_letters(package: str) -> None:
    of_page = [(tex, block) for page, tex, block in EQUATIONS if page.parent.name == package]
    assert len(of_page) > 5 or package == "sextet-common"
    for tex, block in of_page:
        made = pages.mathml(tex, block=block)
        assert not set(made) & set("\\|*_[]`") and "\n\n" not in made  # no special characters of Markdown
        (equation,) = ElementTree.fromstring(made)
        assert equation.tag == f"{MATHML}math"
        assert equation.get("display") == ("block" if block else "inline")
        assert [row.get("displaystyle") for row in equation.iter(f"{MATHML}mtable")] == ["true"] * tex.count(r"\begin")
        letters = {found[0] for found in re.finditer(r"(?<![\\\w{])[a-zA-Z](?![a-zA-Z])", tex)}
        shown = "".join(equation.itertext())
        assert all(letter in shown for letter in letters), (tex, shown)


def test_an_equation_stays_in_its_line_and_in_its_cell() -> None:
    markdown = importlib.import_module("markdown")
    page = "Let $`a_i *b*`$ be.\n\n| a | b |\n| --- | --- |\n| $`\\lvert P \\rvert`$ | 1 |\n\n```math\nx = 1\n```\n"
    html = markdown.markdown(pages.with_equations(page), extensions=["tables"])
    assert html.count("<math") == html.count("</math>") == 3 and html.count("<td>") == 2 and html.count("<p>") == 1
    assert "<em>" not in html and "$" not in html and '<div class="equation">' in html


def test_an_invalid_equation_stops_the_build() -> None:
    with pytest.raises(RuntimeError, match="frac"):
        pages.mathml(r"\frac{1", block=True)


@each_row
def test_figures_of_a_summary_are_those_of_the_packages_readme(row: benches.Row) -> None:
    theirs, ours = row.figures(row.read())
    seen = printed(row.package)
    for value in (theirs / ours,) if row in benches.SPEED else (theirs, ours):
        assert (as_printed(value) | as_printed(1 / value)) & seen  # a README may show the inverse ratio


@each_row
def test_commands_of_a_summary_run_existing_benchmarks(row: benches.Row) -> None:
    (script,) = re.findall(r"python (benchmarks/\w+\.py)", row.command)
    assert (ROOT / "packages" / row.package / script).exists()


def test_every_package_is_in_the_summary_and_every_benchmark_is_run_or_needs_more_time_or_data() -> None:
    packages = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert packages == {row.package for row in benches.SPEED} == set(benches.SCRIPTS)
    scripts = {path.name for path in ROOT.glob("packages/*/benchmarks/bench_*.py")}
    run = {benches.parsed(command)[1] for commands in benches.SCRIPTS.values() for command in commands}
    assert run <= scripts
    # Data that no dependency ships, or more than half an hour.
    assert scripts - run == {"bench_cifar.py", "bench_controls.py", "bench_learning.py"}


def test_the_benchmark_scripts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, commands in benches.SCRIPTS.items():
        folder = ROOT / "packages" / package / "benchmarks"
        monkeypatch.syspath_prepend(str(folder))
        for command in commands:
            name = benches.parsed(command)[1].removesuffix(".py")
            sys.modules.pop(name, None)  # two packages have a bench_speed
            module: ModuleType = importlib.import_module(name)
            assert Path(str(module.__file__)).parent == folder
            assert callable(module.main)
