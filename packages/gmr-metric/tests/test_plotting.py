from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gmr_metric import plotting
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.plotting import ellipses, plot_comparison, plot_reduction
from gmr_metric.reduction.api import reduce
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image
from scipy.stats import norm
from sextet_common.errors import InputError


def test_points_of_an_ellipse_are_one_standard_deviation_away(make) -> None:
    mixture = make(1, 6, 2)
    for part, mean, covariance in zip(ellipses(mixture), mixture.means, mixture.covariances, strict=True):
        turn = math.radians(part.angle)
        for phase in np.linspace(0, 6, 7):
            along, across = part.axes[0] * math.cos(phase), part.axes[1] * math.sin(phase)
            offset = np.array(
                [
                    along * math.cos(turn) - across * math.sin(turn),
                    along * math.sin(turn) + across * math.cos(turn),
                ]
            )
            assert offset @ np.linalg.solve(covariance, offset) == pytest.approx(1, rel=1e-9)
        np.testing.assert_array_equal(part.centre, mean)
    with pytest.raises(InputError, match="a mixture of 3 dimensions"):
        ellipses(make(1, 2, 3))


def drawn(draw: object) -> Axes:
    axis = Figure().subplots()
    draw(axis)
    return axis


def test_the_plane_shows_every_component_in_its_groups_colour(make) -> None:
    mixture = make(2, 12, 2)
    found = reduce(mixture, 4, "runnalls")
    axis = drawn(lambda a: plotting._draw_plane(a, mixture, found.mixture, found.assignment))
    patches = [p for p in axis.patches if isinstance(p, Ellipse)]
    assert len(patches) == 12 + 2 * 4
    for i, group in enumerate(found.assignment):
        assert patches[i].get_edgecolor()[:3] == patches[12 + 2 * group].get_edgecolor()[:3]
    for k, part in enumerate(ellipses(found.mixture)):
        assert patches[12 + 2 * k].width == pytest.approx(2 * part.axes[0])
        assert patches[13 + 2 * k].height == pytest.approx(4 * part.axes[1])


def test_components_of_one_colour_differ_in_their_dashes(make) -> None:
    mixture = make(5, 20, 2)
    axis = drawn(lambda a: plotting._draw_plane(a, mixture, mixture, np.arange(20)))
    styles = {(p.get_edgecolor(), p.get_linestyle()) for p in axis.patches[20::2]}
    assert len(styles) == 20


def test_reduced_ellipses_lie_whole_in_the_picture(make) -> None:
    mixture = make(6, 40, 2)
    axis = drawn(lambda a: plotting._draw_plane(a, mixture, mixture, np.arange(40)))
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    for patch in axis.patches[40:]:
        corners = patch.get_path().transformed(patch.get_patch_transform()).vertices
        assert left <= corners[:, 0].min() and corners[:, 0].max() <= right
        assert bottom <= corners[:, 1].min() and corners[:, 1].max() <= top


def test_the_line_shows_both_densities_and_their_components(make) -> None:
    mixture = make(3, 9, 1)
    found = reduce(mixture, 3)
    axis = drawn(lambda a: plotting._draw_line(a, mixture, found.mixture))
    reduced, *components = axis.lines
    assert np.trapezoid(reduced.get_ydata(), reduced.get_xdata()) == pytest.approx(1, abs=1e-3)
    for line, drawn_mixture in zip(components, (mixture, found.mixture), strict=True):
        pieces = np.reshape(line.get_xydata(), (len(drawn_mixture), -1, 2))[:, :-1]  # each ends in a gap
        for piece, weight, mean, variance in zip(
            pieces, drawn_mixture.weights, drawn_mixture.means[:, 0], drawn_mixture.covariances[:, 0, 0], strict=True
        ):
            np.testing.assert_allclose(piece[:, 1], weight * norm.pdf(piece[:, 0], mean, variance**0.5), rtol=1e-12)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "original density",
        "reduced density",
        "original components",
        "reduced components",
    ]


def test_a_peak_narrower_than_the_picture_keeps_its_height() -> None:
    spike = GaussianMixture([0.5, 0.5], [[0.0], [0.013]], [[[400.0]], [[1e-6]]])
    axis = drawn(lambda a: plotting._draw_line(a, spike, spike))
    height = spike.pdf(np.array([[0.013]]))[0]
    assert axis.lines[0].get_ydata().max() == pytest.approx(height, rel=1e-3)
    assert axis.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(height, rel=1e-3)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_reductions_in_any_dimension_become_a_picture(make, d: int, tmp_path: Path) -> None:
    plot_reduction(reduce(make(4, 8, d), 3), tmp_path / "r.png", {1: ("m",), 2: ("m", "s")}.get(d, ()))
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.format == "PNG" and picture.size[0] > 600
        assert len(set(picture.convert("L").tobytes())) > 20


@pytest.mark.parametrize(("d", "names"), [(1, ("a", "b")), (2, ("a",)), (5, tuple("abcde"))])
def test_names_that_no_axis_can_have_are_refused(make, d: int, names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{len(names)} names of {d} dimensions"):
        plot_reduction(reduce(make(4, 8, d), 3), tmp_path / "r.png", names)
    assert not (tmp_path / "r.png").exists()


def test_a_comparison_shows_angles_from_zero_and_seconds_by_powers_of_ten() -> None:
    left, right = Figure().subplots(1, 2, sharey=True)
    plotting._draw_comparison(left, right, {"same": (0.0, 0.01), "near": (0.1, 2.0), "far": (0.5, 0.3)})
    assert [bar.get_width() for bar in left.patches] == [0.0, 0.1, 0.5]
    assert left.get_xlim()[0] == 0 and right.get_xscale() == "log"
    nothing, beside = Figure().subplots(1, 2)
    plotting._draw_comparison(nothing, beside, {"a": (0.0, 0.1), "b": (0.0, 1.0)})
    assert nothing.get_xlim()[0] == 0  # an angle is never negative
    heights = [bar.get_y() for bar in left.patches]
    assert heights == sorted(heights, reverse=True)  # the first row on top
    assert [label.get_text() for label in left.get_yticklabels()] == ["same", "near", "far"]
    assert right.lines[0].get_xdata().tolist() == [0.01, 2.0, 0.3]


def test_comparisons_become_a_picture(tmp_path: Path) -> None:
    plot_comparison({"a": (0.0, 0.01), "b": (0.0, 2.0)}, tmp_path / "c.png", title="two")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG" and picture.size[0] > 600
    with pytest.raises(InputError, match="no method to draw"):
        plot_comparison({}, tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


def test_a_single_component_can_be_drawn(tmp_path: Path) -> None:
    single = GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    plot_reduction(reduce(single, 1), tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
