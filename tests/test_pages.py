"""The documentation site: tables are those of the READMEs, figures those of the JSON reports, equations valid XML."""

from __future__ import annotations

import importlib
import json
import re
import sys
import unicodedata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import benches  # noqa: E402
import pages  # noqa: E402
import readme_tables  # noqa: E402
import scaling  # noqa: E402

ORDERS = [
    (page, order)
    for page in sorted((ROOT / "docs").glob("**/*.md"))
    for order in pages.ORDER.findall(page.read_text(encoding="utf-8"))
]
TABLES = [(page, order) for page, order in ORDERS if not order.startswith("others ")]
EQUATIONS = [
    (page, found[1], pattern is pages.BLOCK)
    for page in sorted((ROOT / "docs").glob("**/*.md"))
    for pattern in (pages.BLOCK, pages.INLINE)
    for found in pattern.finditer(page.read_text(encoding="utf-8"))
]
TEXTS = {page: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("**/*.md"))}
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


@pytest.mark.parametrize(
    ("page", "order"),
    TABLES,
    ids=lambda value: getattr(value, "stem", value),
)
def test_a_directive_inserts_a_table_or_a_list(page: Path, order: str) -> None:
    inserted = pages.filled(f"{{{{ {order} }}}}")
    assert re.search(r"^(\|( ?-{3,} ?\|)+$|- \*\*)", inserted, flags=re.MULTILINE)


def test_every_benchmark_table_of_a_readme_is_on_the_packages_benchmark_page() -> None:
    marks = {
        (str(readme.relative_to(ROOT)), mark)
        for readme in ROOT.glob("packages/*/README.md")
        for mark in re.findall(r"<!-- (bench_[^/]+?) -->", readme.read_text(encoding="utf-8"))
        if "Not measured yet." not in pages.between_marks(str(readme.relative_to(ROOT)), mark)
    }
    asked = {tuple(order.split(" ", 2)[1:]) for _, order in ORDERS if order.startswith("table ")}
    assert asked == marks


@pytest.mark.parametrize(
    "page", [p for p, text in TEXTS.items() if pages.WORDS.search(text)], ids=lambda page: page.stem
)
def test_a_figure_or_a_command_within_a_line_is_one_of_a_readme(page: Path) -> None:
    for found in pages.WORDS.finditer(TEXTS[page]):
        shown = pages.quoted(found).replace("\N{NO-BREAK SPACE}", " ")
        readme = (ROOT / "packages" / found[2].split()[0] / "README.md").read_text(encoding="utf-8")
        assert shown and (f"| {shown} |" if found[1] == "cell" else f"\n{shown}\n") in readme


def test_every_figure_about_the_papers_has_its_command() -> None:
    sections = re.split(r"^## ", TEXTS[ROOT / "docs" / "papers.md"], flags=re.MULTILINE)[1:]
    assert {section.splitlines()[0] for section in sections} == set(benches.SCRIPTS) - {"sextet-common"}
    for section in sections:
        with_figures = set(re.findall(r"^\| (\d+) \|.*\{\{ cell ", section, flags=re.MULTILINE))
        commands = re.findall(r"^- ([\d, ]+).*?: `(.+?)`", section, flags=re.MULTILINE)
        assert with_figures <= {number for numbers, _ in commands for number in re.findall(r"\d+", numbers)}
        folder = ROOT / "packages" / section.splitlines()[0]
        scripts = re.findall(r"python (\S+\.py)", " ".join(line for _, line in commands))
        assert scripts and all((folder / script).is_file() for script in scripts)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("esac bench_speed :: esac", "write"),
        ("esac bench_speed :: nobody :: ms", "0 cells"),
        ("subclass-kd bench_methods :: teacher :: F1", "[2-9] cells"),
        ("esac bench_none :: x :: y", "no text between"),
    ],
)
def test_a_cell_that_is_none_or_several_stops_the_build(place: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pages.filled(f"a {{{{ cell {place} }}}}")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*/reference.md")), ids=lambda page: page.parent.name)
def test_a_reference_page_has_every_public_name_once_and_the_main_one_first(page: Path) -> None:
    module = page.parent.name.replace("-", "_")
    listed = re.findall(rf"^::: {module}\.(\w+)$", pages.filled(TEXTS[page]), flags=re.MULTILINE)
    names = readme_tables.public_names(module)
    assert sorted(name for name in listed if name in names) == sorted(names)
    first = {"attention_matching": "Distiller", "d2m_generator": "D2M", "esac": "ESAC", "gmr_metric": "reduce",
             "probmcl": "ProbMCL", "subclass_kd": "distill"}  # fmt: skip
    assert listed[0] == first[module]


def test_a_public_name_that_a_reference_page_leaves_out_stands_at_its_end() -> None:
    text = pages.filled("::: esac.ESAC\n\n{{ others esac }}\n")
    assert "## Others" in text and text.count("::: esac.ESAC\n") == 1 and "::: esac.SAC\n" in text


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="//fonts.example/css" rel="preload">',
        '<img alt="" src="http://a.example/b.png">',
    ],
)
def test_a_page_that_loads_something_from_elsewhere_stops_the_build(part: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_path="index.md"))
    own = '<link rel="stylesheet" href="site.css"><a href="https://arxiv.org">paper</a><img src="images/a.png">'
    assert pages.on_post_page(own, page) == own
    with pytest.raises(ValueError, match=r"index\.md loads <"):
        pages.on_post_page(own + part, page)


def test_the_font_of_the_equations_has_all_their_characters_and_large_signs() -> None:
    font = pytest.importorskip("fontTools.ttLib").TTFont(ROOT / "docs" / "fonts" / "sextet-math.woff2")
    known = font.getBestCmap()
    for _, tex, block in EQUATIONS:
        shown = "".join(ElementTree.fromstring(pages.mathml(tex, block=block)).itertext())
        assert all(ord(c) in known or unicodedata.category(c) in ("Cc", "Cf", "Zs") for c in shown), tex
    assert {0x1D400 + place for place in range(26)} <= set(known)  # a browser draws single letters in italics: 1D434
    large = set(font["MATH"].table.MathVariants.VertGlyphCoverage.glyphs)
    assert {known[ord(sign)] for sign in "∑√(){}[]∫"} <= large


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


def test_the_tables_of_the_scaling_page_are_those_of_its_measurements() -> None:
    rows = json.loads(scaling.STORE.read_text(encoding="utf-8"))["rows"]
    assert {name: [row["size"] for row in found] for name, found in rows.items()} == {
        name: [dict(size) for size in (*model.fitted, model.unseen)] for name, model in scaling.MODELS.items()
    }
    for table in (scaling.fits(rows), scaling.predictions(rows)):
        assert table in TEXTS[scaling.PAGE]


@each_row
def test_figures_of_a_summary_are_those_of_the_packages_readme(row: benches.Row) -> None:
    theirs, ours = row.figures(row.read())
    seen = printed(row.package)
    for value in (theirs / ours,) if row in benches.SPEED else (theirs, ours):
        size = abs(value)  # the numbers of a page are read without their signs
        assert ((as_printed(size) | as_printed(1 / size)) - {0.0}) & seen  # a README may show the inverse ratio


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
    assert scripts - run == {"bench_cifar.py", "bench_controls.py", "bench_learning.py", "bench_sweep.py"}


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
