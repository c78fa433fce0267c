"""Files for visitors of the repository and their tools: citation, security, templates, the public CI."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
# Sessions that the CI does not run, because they take long.
NOT_IN_CI = {"quick", "api", "bench", "demo", "fuzz", "mutants"}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of noxfile.py's sessions."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    dev: ModuleType = importlib.import_module("dev")
    return set(dev.sessions())


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def combinations(matrix: dict[str, Any]) -> list[dict[str, str]]:
    """Expand a matrix as GitHub does, for the plain cases: exclude whole cells, include cells that fit no other."""
    axes = {name: values for name, values in matrix.items() if name not in ("include", "exclude")}
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    left = [c for c in cells if not any(e.items() <= c.items() for e in matrix.get("exclude", ()))]
    return [*left, *matrix.get("include", ())]


def jobs() -> list[dict[str, str]]:
    """Every cell of every job, with the line that calls nox filled in."""
    found = []
    for job in parsed(".github/workflows/checks.yml")["jobs"].values():
        (line,) = (step["run"] for step in job["steps"] if step.get("run", "").startswith("nox "))
        for cell in combinations(job["strategy"]["matrix"]):
            called = re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda m, cell=cell: cell[m[1]], line)
            found.append({**cell, "called": called})
    return found


def test_the_public_ci_runs_exactly_the_sessions_of_the_noxfile(sessions: set[str]) -> None:
    called = [re.fullmatch(r'nox --session "(\w+)(?:\(([\w-]+)\))?"', job["called"]) for job in jobs()]
    assert all(called)
    assert {match[1] for match in called if match} == sessions - NOT_IN_CI
    assert {match[2] for match in called if match} == {*PACKAGES, None}


def test_the_public_ci_tests_and_builds_every_package_on_every_python() -> None:
    cells = {(job["python"], job["session"], job.get("package")) for job in jobs()}
    pythons = ("3.11", "3.12", "3.13", "3.14")
    assert {(p, s, n) for p in pythons for s in ("tests", "build") for n in PACKAGES} <= cells
    assert {("3.11", "lowest", name) for name in PACKAGES} <= cells
    assert {(python, "together", None) for python in pythons} <= cells


def test_the_public_ci_may_only_read_and_its_actions_are_pinned_to_a_major_version() -> None:
    workflow = parsed(".github/workflows/checks.yml")
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert used
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_the_citation_has_the_keys_that_the_format_requires() -> None:
    citation = parsed("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["authors"] == [{"name": "Sextet"}]
    assert citation["license"] == "MIT"
    assert citation["message"] and citation["title"]
    # Packages have versions of their own: there is none to cite for all of them.
    assert not {"version", "preferred-citation"} & set(citation)
    assert all({"type", "title", "authors"} <= set(reference) for reference in citation["references"])


def test_the_papers_cited_are_those_of_the_readmes_table() -> None:
    table = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("| [")]
    by_package = {
        row.split("]")[0].removeprefix("| ["): re.findall(r"\[([\d.]+)\]\(https://arxiv\.org/abs/\1\)", row)
        for row in table
    }
    assert sorted(by_package) == PACKAGES
    cited: dict[str, list[str]] = {name: [] for name in PACKAGES}
    for reference in parsed("CITATION.cff")["references"]:
        (identifier,) = reference["identifiers"]
        number = identifier["value"].removeprefix("arXiv:")
        assert reference["url"] == f"https://arxiv.org/abs/{number}"
        cited[reference["notes"].split()[0]].append(number)
    assert cited == by_package


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "sextet-common"])
def test_each_packages_own_readme_links_the_papers_that_are_cited_for_it(package: str) -> None:
    text = (ROOT / "packages" / package / "README.md").read_text("utf-8")
    references = [r for r in parsed("CITATION.cff")["references"] if r["notes"].startswith(f"{package} ")]
    assert references
    assert all(f"({reference['url']})" in text for reference in references)


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_offers_every_package_and_its_fields_have_names(name: str) -> None:
    form = parsed(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    (choice,) = (field for field in form["body"] if field["type"] == "dropdown")
    assert choice["attributes"]["options"] == [*PACKAGES, "the repository itself"]
    named = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(named) == len(set(named))
    assert {field["type"] for field in form["body"]} <= {"dropdown", "input", "markdown", "textarea", "checkboxes"}


def test_issues_are_opened_through_a_form() -> None:
    assert parsed(".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": False}
