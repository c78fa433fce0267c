from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from probmcl import Config, HeadConfig, MultiLabelSet, ProbMCL, save_map, save_uncertain
from probmcl.plotting import prototypes
from probmcl.scenes import compose, digits
from sextet_common.errors import InputError

DATA = compose(digits(), sizes=(48, 24, 60))
SMALL = {"epochs": 1, "classifier_epochs": 1, "batch_size": 16, "head": HeadConfig(8, hidden=()), "device": "cpu"}


@pytest.fixture(scope="module")
def model() -> ProbMCL:
    return ProbMCL("convnet", config=Config(**SMALL), width=2).fit(DATA)


def test_a_labels_point_is_the_weighted_mean_of_its_images(model: ProbMCL) -> None:
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


def test_models_without_mixtures_have_a_map_of_their_features(tmp_path: Path) -> None:
    plain = ProbMCL("convnet", config=Config(**SMALL, method="bce"), width=2).fit(DATA)
    points, _ = prototypes(plain, DATA.test)
    np.testing.assert_allclose(points, plain.embed(DATA.test), rtol=1e-5)
    with pytest.raises(InputError, match="no mixture density head"):
        save_uncertain(plain, DATA.test, tmp_path / "u.png")


def test_the_least_sure_images_are_those_of_the_largest_variance_between(model: ProbMCL, tmp_path: Path) -> None:
    rows = save_uncertain(model, DATA.test, tmp_path / "u.png", count=7)
    between = model.uncertainty(DATA.test).between.numpy()
    others = np.setdiff1d(np.arange(len(between)), rows)
    assert len(rows) == 7 and between[rows].min() >= between[others].max()
    assert np.all(np.diff(between[rows]) <= 0) and (tmp_path / "u.png").exists()


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
