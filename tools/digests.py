"""SHA-256 of the results of small seeded jobs, to check that a refactoring changes no number.

``python tools/digests.py record FILE [MODULE ...]`` runs the jobs of ``tools/digests/MODULE.py`` (by default of all
modules) and writes one digest per job. ``compare FILE`` runs them again, prints the differences and exits with 1 if
there are any. Digests are valid for one machine and one set of installed libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent / "digests"


def digest(result: Any) -> str:
    """Return the SHA-256 of nested mappings and sequences of arrays, tensors and plain values.

    >>> digest({"a": 1, "b": np.ones(2)}) == digest({"b": np.ones(2), "a": 1})
    True
    """
    content = hashlib.sha256()
    _feed(content, result)
    return content.hexdigest()


def _feed(content: Any, value: Any) -> None:
    if hasattr(value, "detach"):  # a tensor of torch
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if isinstance(value, Mapping):
        for key in sorted(value):
            content.update(f"{key}=".encode())
            _feed(content, value[key])
    elif isinstance(value, list | tuple):
        content.update(f"[{len(value)}]".encode())
        for item in value:
            _feed(content, item)
    elif isinstance(value, np.ndarray):
        content.update(f"{value.dtype}{value.shape}".encode())
        content.update(np.ascontiguousarray(value).tobytes())
    else:
        content.update(repr(value.item() if isinstance(value, np.generic) else value).encode())


def jobs_of(module: str) -> dict[str, Callable[[], Any]]:
    """Return a package's jobs by name."""
    spec = importlib.util.spec_from_file_location(f"digests_{module}", FOLDER / f"{module}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    jobs: dict[str, Callable[[], Any]] = loaded.jobs()
    return jobs


def main() -> int:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("modules", nargs="*")
    arguments = parser.parse_args()
    modules = arguments.modules or sorted(path.stem for path in FOLDER.glob("*.py"))
    known = json.loads(arguments.file.read_text(encoding="utf-8")) if arguments.file.exists() else {}
    failed = False
    for module in modules:
        for name, job in jobs_of(module).items():
            key, now = f"{module}: {name}", digest(job())
            same = known.get(key) == now
            if arguments.action == "record":
                known[key] = now
            failed |= not same
            print(f"{key:60} {now[:16]} {'same' if same else 'new' if key not in known else 'DIFFERENT'}", flush=True)
    if arguments.action == "record":
        arguments.file.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
