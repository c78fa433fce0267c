"""What `nox -s quick` checks: the packages that the working tree changes, and their fast tests, most relevant first.

This file is also a pytest plugin (``-p quick``): first come changed test files, then those that name a changed module,
then the others, and what is left ``SEXTET_SECONDS`` after the first is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parent.parent
CHANGED, SECONDS = "SEXTET_CHANGED", "SEXTET_SECONDS"
_began: list[float] = []


def changed_files(root: Path = ROOT, since: str = "HEAD") -> list[str]:
    """Return the files that differ from a commit, including new ones, relative to the repository.

    Raises
    ------
    RuntimeError
        With git's complaint, if there is no such commit or no repository.
    """
    found: set[str] = set()
    for command in (["diff", "--name-only", "-z", since], ["ls-files", "--others", "--exclude-standard", "-z"]):
        done = subprocess.run(["git", *command], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "git failed").splitlines()[0])
        found |= set(filter(None, done.stdout.split("\0")))
    return sorted(found)


def changed_packages(files: Iterable[str]) -> list[str]:
    """Return the names of the packages that files lie in.

    >>> changed_packages(["packages/esac/src/esac/config.py", "packages/esac/README.md", "docs/index.md"])
    ['esac']
    """
    parts = [file.split("/") for file in files]
    return sorted({place[1] for place in parts if place[0] == "packages" and len(place) > 2})


def rank(test_file: str, text: str, changed: Iterable[str]) -> int:
    """Return 0 for a test file that changed, 1 for one that names a changed module, 2 for others.

    >>> rank("packages/esac/tests/test_x.py", "from esac.es import evolution", ["packages/esac/src/esac/evolution.py"])
    1
    """
    if test_file in changed:
        return 0
    stems = {Path(file).stem for file in changed if "/src/" in file and file.endswith(".py")} - {"__init__"}
    return 1 if any(re.search(rf"\b{stem}\b", text) for stem in stems) else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that a change concerns most first."""
    changed = os.environ[CHANGED].splitlines()
    ranks = {
        path: rank(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"), changed)
        for path in {item.path for item in items}
    }
    items.sort(key=lambda item: ranks[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that would begin after the time is over."""
    import pytest

    _began.append(time.monotonic())
    if _began[-1] - _began[0] > float(os.environ[SECONDS]):
        pytest.skip("quick: no time left")
