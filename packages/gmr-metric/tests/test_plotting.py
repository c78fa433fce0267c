from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from gmr_metric import plotting
from gmr_metric.mixture import GaussianMixture
from gmr_metric.plotting import ellipses, plot_comparison, plot_reduction
from gmr_metric.reduction import reduce
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from PIL import Image
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


def test_the_line_shows_both_densities_and_the_components_sum(make) -> None:
    mixture = make(3, 9, 1)
    found = reduce(mixture, 3)
    axis = drawn(lambda a: plotting._draw_line(a, mixture, found.mixture))
    curves = [line.get_ydata() for line in axis.lines]
    assert len(curves) == 4
    np.testing.assert_allclose(curves[0], sum(curves[1:]), rtol=1e-9)
    points = axis.lines[0].get_xdata()
    assert np.trapezoid(curves[0], points) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_reductions_in_any_dimension_become_a_picture(make, d: int, tmp_path: Path) -> None:
    plot_reduction(reduce(make(4, 8, d), 3), tmp_path / "r.png")
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.format == "PNG" and picture.size[0] > 600
        assert len(set(picture.convert("L").tobytes())) > 20


def test_comparisons_become_a_picture(tmp_path: Path) -> None:
    plot_comparison({"a": (0.1, 0.01), "b": (0.5, 2.0)}, tmp_path / "c.png", title="two")
    assert (tmp_path / "c.png").stat().st_size > 5000
    with pytest.raises(InputError, match="no method to draw"):
        plot_comparison({}, tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


def test_a_single_component_can_be_drawn(tmp_path: Path) -> None:
    single = GaussianMixture([1.0], [[0.0, 0.0]], [np.eye(2)])
    plot_reduction(reduce(single, 1), tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
