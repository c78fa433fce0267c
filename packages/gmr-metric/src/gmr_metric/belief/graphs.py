"""Graphs as JSON files, and beliefs as folders of mixtures.

A file has one key, ``potentials``, with a list of objects:

- ``{"unary": "x", "mixture": M}``
- ``{"measurement": "x", "matrix": A, "noise": N, "value": [...]}``
- ``{"linear": ["source", "target"], "matrix": A, "noise": N}``
- ``{"joint": ["first", "second"], "mixture": M, "first_dim": 2}``
- ``{"range": ["first", "second"], "distance": 3.0, "deviation": 0.1, "dim": 2}``, a ring of offsets; or
  ``{"range": "x", "anchor": [0.0, 0.0], "distance": 3.0, "deviation": 0.1}`` from a known place

M is ``{"weights": [...], "means": [...], "covariances": [...]}`` or the name of a mixture's file, relative to the
graph's. N is a covariance or an M.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sextet_common import files
from sextet_common.errors import STRUCTURE, InputError, reading

from gmr_metric.belief.potentials import Joint, Linear, Measurement, Unary, ring
from gmr_metric.belief.propagation import Beliefs, Potential
from gmr_metric.checks import as_floats
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.models import Model

_FORM = "a graph's .json file: an object with a list of potentials"
_NAME = re.compile(r"\w[\w .-]{0,99}")
_ARRAYS = {"weights", "means", "covariances"}
_KEYS = {
    "unary": {"mixture"},
    "measurement": {"matrix", "noise", "value"},
    "linear": {"matrix", "noise"},
    "joint": {"mixture", "first_dim"},
    "range": {"distance", "deviation", "dim", "anchor"},
}


def read_graph(path: str | os.PathLike[str]) -> list[Potential]:
    """Read the potentials of a graph; the form of the file is that of this module's description."""
    with reading(path, _FORM, *STRUCTURE):
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(table, dict) or set(table) != {"potentials"} or not isinstance(table["potentials"], list):
            raise InputError(f"{path} is no graph", _FORM)
        entries = table["potentials"]
    potentials: list[Potential] = []
    for number, entry in enumerate(entries):
        try:
            with reading(f"potential {number}", "an object as documented", *STRUCTURE):
                potentials.append(_potential(entry, Path(path).parent))
        except InputError as error:
            raise InputError(f"{path}, potential {number}: {error.given}", error.expected) from error
    return potentials


def write_beliefs(beliefs: Beliefs, folder: str | os.PathLike[str]) -> None:
    """Write each belief as NAME.json, and how they were reached as iterations.txt."""
    for name, mixture in beliefs.mixtures.items():
        mixture.save(Path(folder) / f"{name}.json")
    end = "converged" if beliefs.converged else "not converged"
    lines = [f"iterations: {beliefs.iterations}, {end}", *(f"{angle:.6g}" for angle in beliefs.history)]
    files.write_text(Path(folder) / "iterations.txt", "\n".join(lines) + "\n")


def _potential(entry: Any, folder: Path) -> Potential:
    kinds = [kind for kind in _KEYS if kind in entry]
    if not isinstance(entry, dict) or len(kinds) != 1:
        raise InputError(f"a potential has the kinds {kinds}", f"one of {', '.join(_KEYS)}")
    kind, names = kinds[0], entry[kinds[0]]
    unknown = set(entry) - {kind} - _KEYS[kind]
    if unknown:
        raise InputError(f"{kind} has no {sorted(unknown)[0]!r}", ", ".join(sorted(_KEYS[kind])))
    pair = kind in ("linear", "joint") or (kind == "range" and "anchor" not in entry)
    for name in names if pair else [names]:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"a variable is named {name!r}", "letters, digits, spaces, dots, hyphens and underscores")
    if pair and (not isinstance(names, list) or len(names) != 2):
        raise InputError(f"{kind} is {names!r}", "two variables")
    makers: dict[str, Callable[[], Potential]] = {
        "unary": lambda: Unary(names, _mixture(entry["mixture"], folder)),
        "measurement": lambda: Measurement(names, _model(entry, folder), entry["value"]),
        "linear": lambda: Linear(names[0], names[1], _model(entry, folder)),
        "joint": lambda: Joint(names[0], names[1], _mixture(entry["mixture"], folder), entry.get("first_dim", 1)),
        "range": lambda: _range(names, entry),
    }
    return makers[kind]()


def _range(names: Any, entry: Mapping[str, Any]) -> Potential:
    dim = len(entry["anchor"]) if "anchor" in entry else entry.get("dim", 2)
    offsets = ring(entry["distance"], entry["deviation"], dim)
    if "anchor" in entry:
        return Unary(names, offsets.affine(np.eye(dim), np.asarray(entry["anchor"], dtype=np.float64)))
    return Linear(names[0], names[1], Model(np.eye(dim), offsets))


def _model(entry: Mapping[str, Any], folder: Path) -> Model:
    noise = entry["noise"]
    if isinstance(noise, list):
        return Model(entry["matrix"], as_floats("noise", noise, (None, None)))
    return Model(entry["matrix"], _mixture(noise, folder))


def _mixture(given: Any, folder: Path) -> GaussianMixture:
    if isinstance(given, str):
        return GaussianMixture.load(folder / given)
    if set(given) != _ARRAYS:
        raise InputError(f"a mixture has {', '.join(sorted(given))}", ", ".join(sorted(_ARRAYS)))
    return GaussianMixture(given["weights"], given["means"], given["covariances"], normalize=True)
