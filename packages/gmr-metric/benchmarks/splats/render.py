"""A small renderer of Gaussian splats: EWA projection, compositing front to back, spherical harmonics to degree 3.

It follows the conventions of the original implementation (Kerbl et al. 2023): a low-pass filter of 0.3 pixels, alpha at
most 0.99, contributions below 1/255 are skipped. numba compiles the loop over pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from gmr_metric.interop.splats import Splats

LOW_PASS = 0.3  # pixels squared
NEAR = 0.05


class Camera(NamedTuple):
    """A pinhole camera: its position, the rows right, down and forward of its rotation, focal length and image size."""

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    width: int
    height: int


def look_at(
    position: np.ndarray, target: np.ndarray, width: int = 320, height: int = 240, view: float = 50.0
) -> Camera:
    """Return a camera that looks at a target, z upwards; ``view`` is the horizontal angle in degrees."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(position, rotation, 0.5 * width / np.tan(np.radians(view) / 2), width, height)


def harmonics(directions: np.ndarray) -> np.ndarray:
    """Return the 16 real spherical harmonics to degree 3 at unit vectors (n, 3), shape (n, 16), in the files' order."""
    x, y, z = directions.T
    xx, yy, zz = x * x, y * y, z * z
    terms = [
        0.28209479177387814 * np.ones_like(x),
        *(-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x),
        *(1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy)),
        *(-1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy)),
        *(-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z),
        *(-0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)),
        *(-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)),
        -0.5900435899266435 * x * (xx - 3 * yy),
    ]
    return np.stack(terms, axis=1)


def colours(splats: Splats, eye: np.ndarray) -> np.ndarray:
    """Return the colours (n, 3), not negative, seen from a point."""
    rays = splats.positions.astype(float) - eye
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    used = splats.harmonics.shape[1]
    seen = np.einsum("nk,nkc->nc", harmonics(rays)[:, :used], splats.harmonics.astype(float))
    return np.maximum(seen + 0.5, 0.0)


def render(splats: Splats, camera: Camera, background: float = 1.0) -> np.ndarray:
    """Return the image, shape (height, width, 3), in [0, 1]."""
    local = (splats.positions.astype(float) - camera.position) @ camera.rotation.T
    seen = np.flatnonzero(local[:, 2] > NEAR)
    seen = seen[np.argsort(local[seen, 2], kind="stable")]
    x, y, z = local[seen].T
    # As in the original, the linearisation is not taken far outside of the image.
    limit = 1.3 * 0.5 * np.array([camera.width, camera.height]) / camera.focal
    slope = np.stack([np.clip(x / z, -limit[0], limit[0]), np.clip(y / z, -limit[1], limit[1])], axis=1)
    jacobian = np.zeros((len(seen), 2, 3))
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = camera.focal / z
    jacobian[:, :, 2] = -camera.focal / z[:, None] * slope
    factor = jacobian @ camera.rotation
    flat = factor @ splats.covariances[seen] @ np.swapaxes(factor, 1, 2) + LOW_PASS * np.eye(2)
    precision = np.linalg.inv(flat)
    centres = np.stack([camera.focal * x / z + camera.width / 2, camera.focal * y / z + camera.height / 2], axis=1)
    reach = 3.4 * np.sqrt(np.stack([flat[:, 0, 0], flat[:, 1, 1]], axis=1))
    image = np.zeros((camera.height, camera.width, 3))
    shades = colours(splats, camera.position)[seen]
    left = _composite(image, centres, precision, reach, splats.opacities[seen], shades)
    return np.clip(image + background * left[:, :, None], 0.0, 1.0)


@numba.njit(cache=True)
def _composite(image, centres, precision, reach, opacities, shades):  # type: ignore[no-untyped-def]
    """Add the splats, sorted by depth, to the image; return the transmittance that is left."""
    height, width, _ = image.shape
    left = np.ones((height, width))
    for k in range(len(centres)):
        u, v = centres[k]
        a, b, c = precision[k, 0, 0], precision[k, 0, 1], precision[k, 1, 1]
        for row in range(max(0, int(v - reach[k, 1])), min(height, int(v + reach[k, 1]) + 2)):
            dy = row + 0.5 - v
            for column in range(max(0, int(u - reach[k, 0])), min(width, int(u + reach[k, 0]) + 2)):
                if left[row, column] < 1e-4:
                    continue
                dx = column + 0.5 - u
                alpha = min(0.99, opacities[k] * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy))
                if alpha >= 1 / 255:
                    image[row, column] += left[row, column] * alpha * shades[k]
                    left[row, column] *= 1 - alpha
    return left


@numba.njit(cache=True)
def _field(points, means, precision, opacities, radii):  # type: ignore[no-untyped-def]
    total = np.zeros(len(points))
    for k in range(len(means)):
        p = precision[k]
        for i in range(len(points)):
            x = points[i, 0] - means[k, 0]
            if abs(x) < radii[k]:
                y, z = points[i, 1] - means[k, 1], points[i, 2] - means[k, 2]
                if x * x + y * y + z * z < radii[k] ** 2:
                    square = p[0, 0] * x * x + p[1, 1] * y * y + p[2, 2] * z * z
                    square += 2 * (p[0, 1] * x * y + p[0, 2] * x * z + p[1, 2] * y * z)
                    total[i] += opacities[k] * np.exp(-0.5 * square)
    return total


def density(splats: Splats, points: np.ndarray) -> np.ndarray:
    """Return the density field, the sum of opacity exp(-d^2 / 2) over the splats, at points (n, 3)."""
    covariances = splats.covariances
    radii = 6 * splats.scales.max(axis=1).astype(float)
    return _field(points, splats.positions.astype(float), np.linalg.inv(covariances), splats.opacities, radii)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of images in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean((first - second) ** 2)))
