"""Splats: files bit by bit, merges by hand, levels that nest, and hostile files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.__main__ import main
from gmr_metric.interop.splats import Splats, levels_of_detail, simplify
from scipy.spatial.transform import Rotation
from sextet_common.errors import InputError

plyfile = pytest.importorskip("plyfile")

ORIGINAL = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{k}" for k in range(45)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]


def scene(n: int = 200, coefficients: int = 16, seed: int = 0) -> Splats:
    draw = np.random.default_rng(seed)
    rotations = Rotation.random(n, rng=seed).as_matrix()
    scales = np.exp(draw.normal(-3, 1, (n, 3))) * [1, 1, 0.01]
    opacities = draw.uniform(0.01, 0.99, n)
    return Splats.from_values(
        draw.normal(size=(n, 3)), rotations, scales, opacities, draw.normal(size=(n, coefficients, 3))
    )


def equal(first: Splats, second: Splats) -> None:
    for name in ("positions", "rotations", "log_scales", "logits", "harmonics"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def table(n: int = 5, names: list[str] = ORIGINAL, **types: str) -> np.ndarray:
    rows = np.empty(n, dtype=[(name, types.get(name, "<f4")) for name in names])
    draw = np.random.default_rng(0)
    for name in names:
        rows[name] = draw.normal(size=n) * 3
    return rows


def write(path: Path, rows: np.ndarray, **options: object) -> Path:
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], **options).write(str(path))
    return path


def test_a_file_of_the_original_layout_is_written_again_byte_by_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", table(), byte_order="<")
    Splats.load(path).save(tmp_path / "b.ply")
    assert (tmp_path / "b.ply").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": ">"}])
def test_text_and_big_endian_files_give_the_same_splats(options: dict[str, object], tmp_path: Path) -> None:
    little = Splats.load(write(tmp_path / "a.ply", table(), byte_order="<"))
    equal(Splats.load(write(tmp_path / "b.ply", table(), **options)), little)


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_every_degree_of_harmonics_returns_from_a_file(coefficients: int, tmp_path: Path) -> None:
    splats = scene(20, coefficients)
    splats.save(tmp_path / "a.ply")
    equal(Splats.load(tmp_path / "a.ply"), splats)
    assert simplify(splats, 3).harmonics.shape == (3, coefficients, 3)


def test_the_rest_of_the_harmonics_is_stored_colour_after_colour(tmp_path: Path) -> None:
    rows = table()
    splats = Splats.load(write(tmp_path / "a.ply", rows))
    for colour in range(3):
        for k in range(15):
            np.testing.assert_array_equal(splats.harmonics[:, 1 + k, colour], rows[f"f_rest_{15 * colour + k}"])


def test_covariances_are_those_of_the_rotation_and_the_scales() -> None:
    draw = np.random.default_rng(1)
    quaternions, scales = draw.normal(size=(50, 4)) * 3, np.exp(draw.normal(size=(50, 3)))
    splats = Splats(np.zeros((50, 3)), quaternions, np.log(scales), np.zeros(50), np.zeros((50, 1, 3)))
    w, x, y, z = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    first = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=1)
    seen = np.einsum("ni,nij,nj->n", first, splats.covariances, first)
    np.testing.assert_allclose(seen, scales[:, 0] ** 2, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.det(splats.covariances), scales.prod(axis=1) ** 2, rtol=1e-4)


def test_merged_axes_are_the_covariance_and_right_handed() -> None:
    splats, groups = scene(60), np.arange(60) // 3
    merged = splats.merged(groups)
    weights = splats.opacities * splats.footprints
    for group in range(20):
        at = groups == group
        p = weights[at] / weights[at].sum()
        mean = p @ splats.positions[at]
        d = splats.positions[at] - mean
        expected = np.einsum("n,nij->ij", p, splats.covariances[at]) + np.einsum("n,ni,nj->ij", p, d, d)
        np.testing.assert_allclose(merged.positions[group], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(merged.covariances[group], expected, rtol=1e-4, atol=1e-5)
        colours = np.einsum("n,nkc->kc", p, splats.harmonics[at])
        np.testing.assert_allclose(merged.harmonics[group], colours, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose((merged.opacities * merged.footprints).sum(), weights.sum(), rtol=1e-5)


def test_what_does_not_fit_into_opacity_one_widens_the_two_larger_axes() -> None:
    scales = np.tile([0.02, 0.3, 0.2], (5, 1))
    stack = Splats.from_values(
        np.zeros((5, 3)), np.tile(np.eye(3), (5, 1, 1)), scales, np.full(5, 0.8), np.zeros((5, 1, 3))
    )
    merged = stack.merged(np.zeros(5, dtype=int))
    np.testing.assert_allclose(merged.scales[0], [0.02, 0.2 * 4**0.2, 0.3 * 4**0.2], rtol=1e-6)
    np.testing.assert_allclose(merged.opacities, 0.999, rtol=1e-4)


def test_the_footprint_is_the_root_mean_square_of_projected_areas() -> None:
    splats = scene(3)
    directions = np.random.default_rng(0).normal(size=(200_000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for covariance, footprint in zip(splats.covariances, splats.footprints, strict=True):
        adjugate = np.linalg.det(covariance) * np.linalg.inv(covariance)
        squares = np.einsum("ni,ij,nj->n", directions, adjugate, directions)
        np.testing.assert_allclose(np.sqrt(squares.mean()), footprint, rtol=0.01)


def test_the_mixture_is_the_field_up_to_a_factor() -> None:
    splats = scene(10)
    points = splats.positions + 0.01
    precision = np.linalg.inv(splats.covariances)
    offsets = points[:, None] - splats.positions[None]
    field = np.exp(-0.5 * np.einsum("pni,nij,pnj->pn", offsets, precision, offsets)) @ splats.opacities
    density = splats.to_mixture().pdf(points)
    np.testing.assert_allclose(density / density[0], field / field[0], rtol=1e-6)


def test_levels_nest_and_are_those_of_single_reductions_of_their_groups() -> None:
    splats = scene(300)
    levels = levels_of_detail(splats, [1.0, 0.5, 30, 0.01])
    assert [len(level) for level in levels] == [300, 150, 30, 3]
    assert levels[0] is splats
    for finer, coarser in pairwise(levels):  # a splat that is alone in a coarser level is alone in a finer one
        kept = {row.tobytes() for row in coarser.positions} & {row.tobytes() for row in splats.positions}
        assert kept <= {row.tobytes() for row in finer.positions}
    total = (splats.opacities * splats.footprints).sum()
    for level in levels:
        assert (level.opacities * level.footprints).sum() <= total * (1 + 1e-5)
    equal(levels_of_detail(splats, [0.5])[0], simplify(splats, 150))


def test_splats_that_are_alone_do_not_change() -> None:
    splats = scene(50)
    equal(splats.merged(np.arange(50)), splats)


def test_colours_far_apart_are_not_merged() -> None:
    x = np.column_stack([np.arange(40) * 0.001, np.zeros(40), np.zeros(40)])
    colours = np.zeros((40, 1, 3))
    colours[::2] = 3.0
    splats = Splats.from_values(x, np.tile(np.eye(3), (40, 1, 1)), np.full((40, 3), 0.02), np.full(40, 0.5), colours)
    np.testing.assert_allclose(np.sort(simplify(splats, 2).harmonics[:, 0, 0]), [0.0, 3.0], atol=1e-6)


def test_further_columns_are_averaged_or_those_of_the_heaviest(tmp_path: Path) -> None:
    rows = table(4, [*ORIGINAL, "depth", "label"], depth="<f8", label="u1")
    rows["label"] = [7, 8, 9, 10]
    splats = Splats.load(write(tmp_path / "a.ply", rows))
    merged = splats.merged(np.array([0, 0, 1, 0]))
    weights = (splats.opacities * splats.footprints)[[0, 1, 3]]
    np.testing.assert_allclose(
        merged.extra["depth"], [weights @ rows["depth"][[0, 1, 3]] / weights.sum(), rows["depth"][2]]
    )
    assert merged.extra["label"].tolist() == [[7, 8, 10][weights.argmax()], 9]
    merged.save(tmp_path / "b.ply")
    again = Splats.load(tmp_path / "b.ply")
    assert again.extra["label"].dtype == np.uint8 and again.extra["depth"].tolist() == merged.extra["depth"].tolist()


def test_saturated_opacities_and_flat_splats_are_merged() -> None:
    splats = Splats(
        np.arange(12.0).reshape(4, 3),
        np.eye(4),
        [[-60.0, 1.0, -60.0]] * 4,
        [200.0, 200.0, -200.0, -3e38],
        np.zeros((4, 1, 3)),
    )
    for level in levels_of_detail(splats, [3, 2, 1]):
        assert np.isfinite(level.logits).all() and np.isfinite(level.log_scales).all()
    assert np.isfinite(splats.to_mixture().means).all()


ONE = b"element vertex 1\nproperty float x\n"
HOSTILE = {
    "empty": b"",
    "no ply": b"plx\nformat ascii 1.0\nend_header\n",
    "no splats": b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n",
    "far too many": b"ply\nformat ascii 1.0\nelement vertex 1000000000000\nproperty float x\nend_header\n1\n",
    "a list": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n1 1\n",
    "faces": b"ply\nformat ascii 1.0\n" + ONE + b"element face 1\nproperty float y\nend_header\n1\n2\n",
    "a point cloud": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
    "not ascii": b"ply\nformat \xff 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_other_files_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ply"):
        Splats.load(path)


def test_truncated_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", table())
    path.write_bytes(path.read_bytes()[:-7])
    for name in ("a.ply", "none.ply"):
        with pytest.raises(InputError, match=name):
            Splats.load(tmp_path / name)


@pytest.mark.parametrize("column", ["x", "opacity", "scale_1", "rot_2", "f_dc_0", "f_rest_3", "nx"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(column: str, value: float, tmp_path: Path) -> None:
    rows = table()
    rows[column][2] = value
    with pytest.raises(InputError, match="finite"):
        Splats.load(write(tmp_path / "a.ply", rows))


def test_parameters_out_of_range_are_refused(tmp_path: Path) -> None:
    splats = scene(5)
    for keep in (0, 6, 1.5, 0.0, float("nan"), True, "all"):
        with pytest.raises(InputError):
            simplify(splats, keep)
    with pytest.raises(InputError, match="no levels"):
        levels_of_detail(splats, [])
    for groups in ([0, 0], [0, 2, 2, 2, 2], [0.0] * 5, [-1] * 5):
        with pytest.raises(InputError):
            splats.merged(np.array(groups))
    for extra in ({"a b": np.zeros(5)}, {"a": np.zeros(4)}, {"a": np.zeros(5, dtype="i8")}):
        with pytest.raises(InputError):
            Splats(splats.positions, splats.rotations, splats.log_scales, splats.logits, splats.harmonics, extra)
    short = [name for name in ORIGINAL if name != "f_rest_44"]
    with pytest.raises(InputError, match="44 properties"):
        Splats.load(write(tmp_path / "a.ply", table(names=short)))
    zero = np.zeros((5, 4))
    with pytest.raises(InputError, match="rotation"):
        Splats(splats.positions, zero, splats.log_scales, splats.logits, splats.harmonics)


@pytest.mark.parametrize(("keep", "n"), [("10%", 20), ("0.1", 20), ("50", 50)])
def test_the_command_writes_what_the_function_returns(
    keep: str, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    splats = scene()
    splats.save("in.ply")
    assert main(["splats", "in.ply", "out.ply", "--keep", keep]) == 0
    assert capsys.readouterr().out == f"200 splats to {n}; out.ply\n"
    equal(Splats.load("out.ply"), simplify(splats, n))


def test_the_command_names_a_file_for_every_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene().save("in.ply")
    assert main(["splats", "in.ply", "out.ply", "--levels", "50%,10%,7"]) == 0
    assert [len(Splats.load(f"out-{name}.ply")) for name in ("50pct", "10pct", "7")] == [100, 20, 7]
    for wrong in (["out.ply", "--keep", "many"], ["out.ply", "--keep", "0%"], ["out.json"]):
        assert main(["splats", "in.ply", *wrong]) == 2
