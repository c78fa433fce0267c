from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from probmcl import Config, ContrastiveConfig, HeadConfig, MultiLabelSet, ProbMCL, save_map, save_uncertain
from probmcl.plotting import _free_places, _write_names, prototypes
from probmcl.scenes import compose, digits
from sextet_common import figures
from sextet_common.errors import InputError

DATA = compose(digits(), sizes=(48, 24, 60))
SMALL = {"epochs": 1, "classifier_epochs": 1, "batch_size": 16, "head": HeadConfig(8, hidden=()), "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> ProbMCL:
    return ProbMCL("convnet", config=Config(**SMALL), width=2).fit(DATA)


def test_a_labels_point_is_the_weighted_mean_of_its_images() -> None:
    likelihood = ContrastiveConfig(likelihood_weight=1.0)  # trains the mixtures' weights
    model = ProbMCL("convnet", config=Config(**SMALL, contrastive=likelihood), width=2).fit(DATA)
    points, centres = prototypes(model, DATA.test)
    mixtures = model.mixtures(DATA.test)
    for row in range(3):
        weights = mixtures.log_weights[row].exp().double().numpy()
        np.testing.assert_allclose(points[row], weights @ mixtures.means[row].double().numpy(), rtol=1e-4, atol=1e-6)
    labels = np.array(DATA.test.labels)
    for label in (0, 7):
        rows = np.flatnonzero(labels[:, label])
        expected = np.average(points[rows], axis=0, weights=1 / labels[rows].sum(axis=1))
        np.testing.assert_allclose(centres[label], expected)


@pytest.mark.parametrize("projection", ["tsne", "pca"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_map_is_a_picture(model: ProbMCL, tmp_path: Path, projection: str) -> None:
    path = save_map(model, DATA.test, tmp_path / "map.png", projection=projection)
    with Image.open(path) as image:
        colours = image.convert("RGB").getcolors(2**20)
    assert image.size[0] > 500 and len(colours) > 50


def test_the_points_are_features_if_nothing_trains_the_mixtures_weights(model: ProbMCL) -> None:
    points, _ = prototypes(model, DATA.test)
    np.testing.assert_array_equal(points, model.embed(DATA.test).double().numpy())


def test_models_without_mixtures_have_a_map_of_their_features(tmp_path: Path) -> None:
    plain = ProbMCL("convnet", config=Config(**SMALL, method="bce"), width=2).fit(DATA)
    points, _ = prototypes(plain, DATA.test)
    np.testing.assert_allclose(points, plain.embed(DATA.test), rtol=1e-5)
    assert len(save_uncertain(plain, DATA.test, tmp_path / "u.png", kind="distance")) == 20
    with pytest.raises(InputError, match="no mixture density head"):
        save_uncertain(plain, DATA.test, tmp_path / "v.png", kind="between")


@pytest.mark.parametrize("kind", ["any_error", "distance", "between"])
def test_the_least_sure_images_are_those_of_the_highest_uncertainty(model: ProbMCL, tmp_path: Path, kind: str) -> None:
    rows = save_uncertain(model, DATA.test, tmp_path / "u.png", count=7, kind=kind)
    values = model.uncertainty(DATA.test, kind).numpy()
    others = np.setdiff1d(np.arange(len(values)), rows)
    assert len(rows) == 7 and values[rows].min() >= values[others].max()
    assert np.all(np.diff(values[rows]) <= 0) and (tmp_path / "u.png").exists()


def test_what_cannot_be_drawn_is_refused(model: ProbMCL, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="projection must be tsne or pca, got 'umap'"):
        save_map(model, DATA.test, tmp_path / "m.png", projection="umap")
    few = MultiLabelSet.of(*[(DATA.test.inputs[:9], DATA.test.labels[:9])] * 3)
    with pytest.raises(InputError, match="a map of 9 images"):
        save_map(model, few.test, tmp_path / "m.png")
    without = np.array(DATA.test.labels)
    without[:, 4] = 0
    data = MultiLabelSet.of(*[(DATA.test.inputs, without)] * 3)
    with pytest.raises(InputError, match="label '4' has no image"):
        save_map(model, data.test, tmp_path / "m.png")
    with pytest.raises(InputError, match="count is 61 of 60 images"):
        save_uncertain(model, DATA.test, tmp_path / "u.png", count=61)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [10, 80])
@pytest.mark.parametrize("spread", ["crowded", "wide", "one point", "corner"])
def test_no_two_names_on_the_map_overlap_and_all_stay_inside_the_axes(count: int, spread: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(count)
    points = draw.normal(size=(count, 2)) * {"crowded": 0.15, "wide": 3.0, "one point": 0.0, "corner": 0.1}[spread]
    points = points + 3 if spread == "corner" else points
    names = [f"{'a long name of ' if number % 3 else ''}label {number}" for number in range(count)]
    path, boxes = tmp_path / "map.png", []
    with figures.figure_file(path, (9.0, 8.0)) as figure:
        axis = figure.subplots()
        axis.scatter([-3, 3], [-3, 3])
        texts = _write_names(axis, names, points, ["red"] * count)
        figure.draw_without_rendering()
        boxes = [shown.get_bbox_patch().get_window_extent() for shown in texts]
        area = axis.get_window_extent()
    assert path.exists() and len(boxes) == count and all(box.width > 5 for box in boxes)
    for number, box in enumerate(boxes):
        assert area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    marks = axis.transData.transform(points)
    assert not any(box.contains(x, y) for box in boxes for x, y in marks)


def test_a_box_takes_the_nearest_free_place_and_none_is_found_where_none_is() -> None:
    anchors = np.array([[50.0, 50.0], [50.0, 50.0], [10.0, 90.0]])
    sizes = np.array([[20.0, 10.0]] * 3)
    places = _free_places(anchors, sizes, (0, 0, 100, 100), 4.0)
    assert places is not None and np.all(np.abs(places - anchors) <= 20)
    assert _free_places(anchors, sizes + 60, (0, 0, 100, 100), 4.0) is None
