"""Malicious run folders: a finished job's files with one of those that it resumes from changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hostile import Content, checkpoints, documents, dumped, values
from hypothesis import strategies as st


def left_by(go_on: Callable[[Path], Any]) -> dict[str, bytes]:
    """Do a job to its end, and return the files that it leaves in its folder."""
    with TemporaryDirectory() as folder:
        go_on(Path(folder))
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


class Folder(dict[str, bytes]):
    """A folder's files, of which a failure shows the one that was changed."""

    changed = ""

    def __repr__(self) -> str:
        return f"<{len(self)} files, with {self.changed} {Content(self[self.changed])!r}>"


@st.composite
def gone_on_from(draw: st.DrawFn, left: dict[str, bytes], *more: str) -> Folder:
    """Give a folder's files with one changed that a job resumes from: settings, metrics, checkpoints, `more`."""
    resumes = [name for name in left if name in ("config.json", "metrics.jsonl", *more) or "checkpoints/" in name]
    changed = draw(st.sampled_from(resumes))
    if changed == "metrics.jsonl":
        rows = [json.loads(line) for line in left[changed].splitlines()]
        content = draw(values(rows).map(lambda rows: _lines(rows if isinstance(rows, list) else [rows])))
    elif changed == "config.json":
        content = draw(documents(json.loads(left[changed])))
    else:
        content = draw(checkpoints(left[changed]))
    folder = Folder({**left, changed: content})
    folder.changed = changed
    return folder


def _lines(rows: list[Any]) -> bytes:
    return "".join(dumped(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
