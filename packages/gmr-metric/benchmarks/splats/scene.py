"""A synthetic scene of Gaussian splats: ``python scene.py OUT.ply --count 100000``, the same file each time.

A checkered floor, a striped sphere, a torus, a box and a column of cloth; flat splats on the surfaces of sizes and
opacities that vary as in trained scenes, glossy ones with spherical harmonics to degree 3, and some faint large ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gmr_metric.interop.splats import Splats
from render import harmonics

LIGHT = np.array([0.5, -0.3, 0.8]) / np.linalg.norm([0.5, -0.3, 0.8])
DC = 0.28209479177387814


def _floor(draw: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    points = np.column_stack([draw.uniform(-3, 3, (n, 2)), np.zeros(n)])
    checks = (np.floor(points[:, 0] / 0.75) + np.floor(points[:, 1] / 0.75)) % 2
    shade = np.where(checks[:, None] > 0, [0.82, 0.80, 0.76], [0.30, 0.33, 0.38])
    return points, np.tile([0.0, 0.0, 1.0], (n, 1)), shade, np.full(n, 0.15)


def _sphere(draw: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    normals = draw.normal(size=(n, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    stripes = np.sin(14 * normals[:, 2] + 2 * np.sin(3 * np.arctan2(normals[:, 1], normals[:, 0])))
    shade = np.where(stripes[:, None] > 0, [0.85, 0.30, 0.20], [0.95, 0.80, 0.55])
    return normals * 0.8 + [-0.9, 0.4, 0.8], normals, shade, np.full(n, 0.7)


def _torus(draw: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    u, v = draw.uniform(0, 2 * np.pi, (2, n))
    ring = np.column_stack([np.cos(u), np.sin(u), np.zeros(n)])
    normals = np.cos(v)[:, None] * ring + np.sin(v)[:, None] * [0.0, 0.0, 1.0]
    hue = 0.5 + 0.5 * np.column_stack([np.cos(u), np.cos(u - 2.1), np.cos(u + 2.1)])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, 0.8, -0.6], [0.0, 0.6, 0.8]])
    return (0.7 * ring + 0.24 * normals) @ tilt.T + [1.2, 0.6, 0.85], normals @ tilt.T, hue, np.full(n, 0.8)


def _box(draw: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    axis, side = draw.integers(0, 3, n), draw.choice([-1.0, 1.0], n)
    points = draw.uniform(-1, 1, (n, 3))
    points[np.arange(n), axis] = side
    normals = np.zeros((n, 3))
    normals[np.arange(n), axis] = side
    rings = np.sin(16 * np.sqrt((points**2).sum(axis=1)))
    shade = np.where(rings[:, None] > 0, [0.20, 0.50, 0.45], [0.75, 0.88, 0.70])
    turn = np.array([[0.9, -0.436, 0.0], [0.436, 0.9, 0.0], [0.0, 0.0, 1.0]])
    return 0.45 * points @ turn.T + [0.4, -1.1, 0.45], normals @ turn.T, shade, np.full(n, 0.2)


def _cloth(draw: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
    u, z = draw.uniform(-1, 1, n), draw.uniform(0, 1.8, n)
    points = np.column_stack([1.6 * u, 1.9 + 0.15 * np.sin(9 * u + z), z])
    normals = np.column_stack([-0.15 * 9 * np.cos(9 * u + z) / 1.6, np.ones(n), -0.15 * np.cos(9 * u + z)])
    normals /= -np.linalg.norm(normals, axis=1, keepdims=True)
    dots = np.cos(12 * u) * np.cos(10 * z) > 0.3
    return points, normals, np.where(dots[:, None], [0.95, 0.90, 0.35], [0.25, 0.28, 0.60]), np.full(n, 0.1)


def scene(count: int = 100_000, seed: int = 0) -> Splats:
    """Return the scene with about this many splats."""
    draw = np.random.default_rng(seed)
    shares = {_floor: (0.34, 36.0), _sphere: (0.18, 8.0), _torus: (0.16, 6.6), _box: (0.12, 4.9), _cloth: (0.2, 7.0)}
    parts = []
    for surface, (share, area) in shares.items():
        n = round(share * count)
        points, normals, shade, gloss = surface(draw, n)
        # Redundant, as trained scenes are: neighbouring splats overlap, and sizes and shapes vary.
        size = 0.75 * np.sqrt(area / n) * np.exp(draw.normal(0, 0.35, n))
        stretch = np.exp(draw.normal(0, 0.35, n))
        scales = np.column_stack([size * stretch, size / stretch, size * draw.uniform(0.02, 0.15, n)])
        points = points + normals * draw.normal(0, 0.1, n)[:, None] * size[:, None]
        parts.append((points, normals, np.clip(shade + draw.normal(0, 0.04, (n, 3)), 0, 1), gloss, scales))
    points, normals, shade, gloss, scales = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    n = len(points)
    faint = draw.random(n) < 0.03
    scales[faint] *= 3.0
    opacities = np.where(faint, draw.uniform(0.01, 0.08, n), draw.beta(4.0, 1.2, n))
    diffuse = 0.45 + 0.55 * np.maximum(normals @ LIGHT, 0.0)
    coefficients = np.zeros((n, 16, 3))
    coefficients[:, 0] = (shade * diffuse[:, None] - 0.5) / DC
    # A lobe around the mirrored light, seen along the ray from the eye to the splat.
    mirrored = 2 * (normals @ LIGHT)[:, None] * normals - LIGHT
    falls = np.repeat([1.0, 0.85, 0.6, 0.35], [1, 3, 5, 7])
    lobe = harmonics(-mirrored) * falls * (gloss * (normals @ LIGHT > 0))[:, None]
    coefficients[:, 1:] += lobe[:, 1:, None]
    coefficients[:, 0] += 0.25 * lobe[:, :1]
    return Splats.from_values(points, _rotations(draw, normals), scales, opacities, coefficients)


def _rotations(draw: np.random.Generator, normals: np.ndarray) -> np.ndarray:
    """Return rotations (n, 3, 3) whose third axis is the normal and whose others are random."""
    first = np.cross(normals, draw.normal(size=normals.shape))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(normals, first), normals], axis=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    given = parser.parse_args()
    scene(given.count).save(given.out)
