"""Every README and page: its Python code runs, its commands run, its links have targets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from forks import Forks

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
# Commands that install, or that other tests run; all others are run here.
RUN_ELSEWHERE = ("pip install", "uv pip install", "python3 tools/", "python examples/")
SLOW = {  # 15 to 30 seconds of a core each; most others take less than ten
    "docs/attention-matching/howto.md", "docs/gmr-metric/tutorial.md", "docs/subclass-kd/tutorial.md",
    "packages/d2m-generator/README.md", "packages/subclass-kd/README.md",
}  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


def program_of(name: str) -> str | None:
    """Return the module of a command that one of our packages installs, after checking that it is installed."""
    (entry, *_) = [e for e in metadata.entry_points(group="console_scripts") if e.name == name] or [None]
    if entry is None or entry.dist is None or entry.dist.name not in {path.name for path in ROOT.glob("packages/*")}:
        return None
    folder = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    assert shutil.which(name, path=folder) and entry.attr == "main"
    return entry.module


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks into /proc")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=named(page), marks=[pytest.mark.slow] * (named(page) in SLOW))
        for page in PAGES
        if blocks(page, "python") or blocks(page, "console")
    ],
)
def test_code_and_commands_of_a_page_run_in_order(page: Path, forks: Forks, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    if program := "\n".join(blocks(page, "python")):
        code, output = forks.run(folder, program=program)
        assert code == 0, output
    for line in "".join(blocks(page, "console")).splitlines():
        if not line.startswith(RUN_ELSEWHERE):
            name, *words = line.split()
            module = program_of(name)
            assert module, f"{name} is no command of a package"
            code, output = forks.run(folder, module=module, words=words)
            assert code == 0, f"{line}: {output}"


def test_dev_commands_in_the_pages_are_sessions() -> None:
    listed = subprocess.check_output([sys.executable, str(ROOT / "tools" / "dev.py"), "--help"], text=True)
    known = set(re.findall(r"^  (\w+) ", listed, flags=re.MULTILINE))
    words = [
        line.split()[2].strip('"').partition("(")[0]
        for page in PAGES
        for block in blocks(page, "console")
        for line in block.splitlines()
        if line.startswith("python3 tools/dev.py")
    ]
    assert {"demo", "test", "tests"} <= set(words)
    assert set(words) - {"--help"} <= known


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_inside_the_repository_have_a_target(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.parent == ROOT / "packages"], ids=named)
def test_a_package_readme_has_absolute_links_because_an_index_shows_it_alone(page: Path) -> None:
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    # Images may be relative: the repository shows them, an index their descriptions.
    assert all(target.startswith("https://") or (mark and (page.parent / target).exists()) for mark, target in links)


def test_no_page_has_placeholders() -> None:
    for page in PAGES:
        assert not re.search(r"\b(DEMO_|TODO|FIXME|TBD)", page.read_text(encoding="utf-8")), page
