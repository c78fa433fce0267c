"""gmr-metric reads: mixtures in JSON and npz files, samples in CSV and npy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gmr_metric import GaussianMixture
from gmr_metric.density.storage import read_samples as samples
from gmr_metric.interop.splats import Splats
from harness import fuzz, holds
from hostile import archives, documents, mutated, npy, npy_files, stored, tables
from hypothesis import example, given, strategies as st

PARTS = {
    "weights": np.array([0.25, 0.75]),
    "means": np.array([[0.0, 1.0], [2.0, -1.0]]),
    "covariances": np.array([[[1.0, 0.5], [0.5, 2.0]], [[3.0, 0.0], [0.0, 1e-3]]]),
}
TABLE: dict[str, Any] = {"format": "gmr-metric mixture", "version": 1, **{k: v.tolist() for k, v in PARTS.items()}}
ARCHIVE = {"format": np.array(TABLE["format"]), "version": np.array(1), **PARTS}
POINTS = [["x", "y"], ["0.5", "1"], ["-2", "3e2"], ["0", "0"]]


def mixture(found: GaussianMixture) -> None:
    n, d = found.means.shape
    assert found.weights.shape == (n,) and found.covariances.shape == found.cholesky.shape == (n, d, d) and n and d
    for array in (found.weights, found.means, found.covariances, found.cholesky):
        assert array.dtype == np.float64 and np.isfinite(array).all() and not array.flags.writeable
    assert (found.weights >= 0).all() and abs(found.weights.sum() - 1) < 1e-6
    np.testing.assert_array_equal(found.covariances, found.covariances.transpose(0, 2, 1))
    assert (np.diagonal(found.cholesky, axis1=1, axis2=2) > 0).all()


def changed(**others: Any) -> bytes:
    return json.dumps({**TABLE, **others}).encode()


@fuzz
@given(documents(TABLE))
@example(changed(version=float("inf")))
@example(changed(weights=[10**400, 1]))
@example(changed(weights=[1e308, 1e308]))
@example(changed(means=[[10**400, 0], [0, 0]]))
@example(changed(covariances=[[[1.7e308, 0], [0, 1]], [[1, 0], [0, 1]]]))
@example(changed(format="\ud800"))
def test_mixtures_in_json(content: bytes) -> None:
    holds(GaussianMixture.load, content, "mixture.json", sound=mixture)


@fuzz
@given(archives(ARCHIVE))
def test_mixtures_in_archives(content: bytes) -> None:
    holds(GaussianMixture.load, content, "mixture.npz", sound=mixture)


def rows_of_numbers(found: np.ndarray) -> None:
    assert found.dtype == np.float64
    mixture(GaussianMixture.from_kde(found, 0.5))  # what they are read for; it may refuse them


@fuzz
@given(tables(POINTS))
def test_samples_in_tables(content: bytes) -> None:
    holds(samples, content, "samples.csv", sound=rows_of_numbers)


@fuzz
@given(npy_files(np.arange(6.0).reshape(3, 2)))
def test_samples_in_arrays(content: bytes) -> None:
    holds(samples, content, "samples.npy", sound=rows_of_numbers)


COLUMNS = ["x", "y", "z", *(f"f_dc_{k}" for k in range(3)), "opacity", *(f"scale_{k}" for k in range(3))]
COLUMNS += [*(f"rot_{k}" for k in range(4)), "label"]
ROWS = np.arange(2 * len(COLUMNS), dtype="<f4").reshape(2, -1)
DECLARED = "".join(f"property float {name}\n" for name in COLUMNS).encode() + b"end_header\n"
BINARY = b"ply\nformat binary_little_endian 1.0\nelement vertex 2\n" + DECLARED + ROWS.tobytes()
PLAIN = b"ply\nformat ascii 1.0\nelement vertex 2\n" + DECLARED
PLAIN += "\n".join(" ".join(str(number) for number in row) for row in ROWS.tolist()).encode()


def splats(found: Splats) -> None:
    n = len(found)
    assert n and found.positions.shape == (n, 3) and found.harmonics.shape[2] == 3
    for array in (found.positions, found.rotations, found.log_scales, found.logits, found.harmonics):
        assert array.dtype == np.float32 and len(array) == n and np.isfinite(array).all()
    assert np.isfinite(found.covariances).all()
    mixture(found.to_mixture())  # may be refused
    assert len(found.merged(np.zeros(n, dtype=int))) == 1


@fuzz
@given(st.one_of(mutated(BINARY), mutated(PLAIN)))
@example(BINARY.replace(b"vertex 2", b"vertex 4000000000"))
@example(PLAIN.replace(b"vertex 2", b"vertex 90000000000"))
@example(PLAIN.replace(b"vertex 2", b"vertex -2"))
@example(PLAIN.replace(b"float label", b"list uchar int label"))
@example(PLAIN.replace(b"float label", b"float x"))
def test_splats(content: bytes) -> None:
    holds(Splats.load, content, "scene.ply", sound=splats)


VALID = {
    "binary.ply": BINARY,
    "plain.ply": PLAIN,
    "mixture.json": json.dumps(TABLE).encode(),
    "mixture.npz": stored([(f"{name}.npy", npy(array)) for name, array in ARCHIVE.items()]),
    "samples.csv": "\n".join(",".join(row) for row in POINTS).encode(),
    "samples.npy": npy(np.arange(6.0)),
}


@pytest.mark.parametrize("name", VALID)
def test_what_the_fuzz_starts_from_is_valid(name: str) -> None:
    def read(path: Path) -> object:
        if path.suffix == ".ply":
            return Splats.load(path)
        return samples(path) if path.stem == "samples" else GaussianMixture.load(path)

    assert holds(read, VALID[name], name, valid=True) is not None
