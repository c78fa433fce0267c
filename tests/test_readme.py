"""Every README and page: its Python code runs, its commands run, its links have targets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(ROOT.glob("packages/*/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
# Commands that install, or that other tests run; all others are run here.
RUN_ELSEWHERE = ("pip install", "uv pip install", "python3 tools/", "python examples/")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python") or blocks(p, "console")], ids=named)
def test_code_and_commands_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    program = "\n".join(blocks(page, "python"))
    jobs = [[sys.executable, "-W", "error", "-c", program]] if program else []
    for line in "".join(blocks(page, "console")).splitlines():
        if not line.startswith(RUN_ELSEWHERE):
            jobs.append(line.split())
    for job in jobs:
        done = subprocess.run(job, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{job[:4]}: {done.stderr}"


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
