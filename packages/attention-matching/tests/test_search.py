"""Architecture search: the ranks, what follows from them, and the run that finds them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attention_matching.evaluation.config import TrainConfig
from attention_matching.experiments.grid import PAPERS_GRID, Candidate, Grid
from attention_matching.experiments.rank_correlation import RankCorrelation, rank_correlation, spearman_interval
from attention_matching.experiments.search import SearchConfig, search, search_data
from attention_matching.experiments.search_result import WHOLE, Scores, SearchResult
from attention_matching.images.distilled import DistilledSet
from attention_matching.images.preprocess import Preprocessing
from attention_matching.images.select import random_real
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy import stats
from sextet_common import data, seeding
from sextet_common.errors import InputError

module = importlib.import_module("attention_matching.experiments.search")  # the package's attribute is the function
SMALL = SearchConfig(
    Grid((4,), (1, 2), ("batch",), ("relu",), ("avg", "max")),
    proxy=TrainConfig(epochs=3),
    whole=TrainConfig(epochs=2, batch=16),
)
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=12)


@pytest.fixture(scope="module")
def sides() -> data.ImageSet:
    """Two classes, bright on the left or on the right, in noise."""

    def images(each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(2 * each) % 2
        pixels = 0.5 * np.random.default_rng(seed).random((2 * each, 8, 8))
        pixels[labels == 0, :, :4] += 0.5
        pixels[labels == 1, :, 4:] += 0.5
        return pixels, labels

    return data.ImageSet.of(*images(30, 0), *images(20, 1), ("left", "right"))


@pytest.fixture(scope="module")
def proxies(sides: data.ImageSet) -> dict[str, DistilledSet]:
    part = search_data(sides, SMALL)
    return {"one": random_real(part, 1, seed=1), "four": random_real(part, 4, seed=2)}


@pytest.fixture(scope="module")
def uninterrupted(sides: data.ImageSet, proxies: dict[str, DistilledSet]) -> SearchResult:
    return search(sides, proxies, SMALL)


def equal(a: SearchResult, b: SearchResult) -> bool:
    """The same accuracies; seconds differ."""
    return a.architectures == b.architectures and all(
        np.array_equal(getattr(a.scores(name), kind), getattr(b.scores(name), kind))
        for name in (*b.proxies, WHOLE)
        for kind in ("validation", "test")
    )


@settings(deadline=None)
@given(PAIRS)
def test_rank_correlations_are_those_of_counted_pairs_and_averaged_ranks(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    agreement = rank_correlation(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(agreement.spearman) and math.isnan(agreement.kendall)
        return
    agree = differ = tied_a = tied_b = 0
    for i in range(len(a)):
        for j in range(i):
            product = (a[i] - a[j]) * (b[i] - b[j])
            agree, differ = agree + (product > 0), differ + (product < 0)
            tied_a, tied_b = tied_a + (a[i] == a[j]), tied_b + (b[i] == b[j])
    pairs_in_all = len(a) * (len(a) - 1) / 2
    tau = (agree - differ) / math.sqrt((pairs_in_all - tied_a) * (pairs_in_all - tied_b))
    ranks = [[sum(y < x for y in side) + (sum(y == x for y in side) + 1) / 2 for x in side] for side in (a, b)]
    assert agreement.kendall == pytest.approx(tau, abs=1e-12)
    assert agreement.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    assert agreement.count == len(a)


def test_lists_of_different_lengths_cannot_be_ranked_together() -> None:
    with pytest.raises(InputError, match=r"numbers of shapes \(3,\) and \(2,\)"):
        rank_correlation(np.arange(3.0), np.arange(2.0))


def test_the_interval_is_the_bootstraps_written_as_a_loop_and_shrinks_with_more_things() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=200)
    b = a + draw.normal(size=200)
    widths = []
    for count in (20, 200):
        low, high = spearman_interval(a[:count], b[:count], seed=3)
        assert low < rank_correlation(a[:count], b[:count]).spearman < high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]
    chosen = seeding.generator(3, "bootstrap").integers(20, size=(2000, 20))
    by_hand = [stats.spearmanr(a[index], b[index]).statistic for index in chosen]
    np.testing.assert_allclose(spearman_interval(a[:20], b[:20], seed=3), np.quantile(by_hand, [0.025, 0.975]))
    assert all(math.isnan(end) for end in spearman_interval(a[:5], np.ones(5)))


def test_what_follows_from_known_scores() -> None:
    count = 8
    worth = np.array([0.1, 0.5, 0.9, 0.6, 0.7, 0.8, 0.3, 0.2])
    seconds = np.full(count, 10.0)
    perfect, opposite = Scores(10, worth / 2, worth, seconds / 8, making=6.0), Scores(10, 1 - worth, worth, seconds)
    blind = Scores(10, np.full(count, 0.5), worth, seconds)
    names = tuple("abcdefgh")
    result = SearchResult(
        names, {"perfect": perfect, "opposite": opposite, "blind": blind}, Scores(1000, worth, worth, seconds)
    )
    assert (result.correlation("perfect").spearman, result.correlation("perfect").kendall) == pytest.approx((1, 1))
    assert (result.correlation("opposite").spearman, result.correlation("opposite").kendall) == pytest.approx((-1, -1))
    assert [names[n] for n in result.top()] == ["c", "f"]  # a quarter of eight
    assert result.correlation("opposite", top=True) == RankCorrelation(pytest.approx(-1), pytest.approx(-1), 2)
    assert (result.selected("perfect"), result.selected("opposite"), result.selected("blind")) == ("c", "a", "a")
    assert result.regret("perfect") == 0 and result.regret("opposite") == pytest.approx(0.8)
    assert result.speedup("perfect") == pytest.approx(5) and result.worth("f") == 0.8
    table = result.to_markdown().splitlines()
    assert len(table) == 2 + 3 + 1 + 1 and all(row.count("|") == table[0].count("|") for row in table)
    assert "| perfect | 10 | 1.00 / 1.00 | 1.00 to 1.00 | 1.00 / 1.00 | c | 90.0 % | 6 | 10 | 5.0x |" in table
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))  # what ranks nothing is null
    assert plain["sets"]["blind"]["all"] == {"spearman": None, "kendall": None}
    assert plain["sets"]["opposite"]["top"]["kendall"] == pytest.approx(-1) and plain["best"] == 0.9


def test_the_grids_are_all_combinations_small_ones_first() -> None:
    assert len(set(Grid().architectures())) == 96 and len(set(PAPERS_GRID.architectures())) == 720
    few = Grid((2, 4), (1, 3), ("none",), ("relu",), ("avg",)).architectures()
    assert [(a.width, a.depth) for a in few] == [(2, 1), (2, 3), (4, 1), (4, 3)]
    for axis, value in (("widths", ()), ("norms", ("none", "none"))):
        with pytest.raises(InputError, match=f"{axis} are .*; expected: at least one, each once"):
            dataclasses.replace(Grid(), **{axis: value}).architectures()


def test_held_out_images_are_training_images_that_no_proxy_can_have(sides: data.ImageSet) -> None:
    part = search_data(sides, SMALL)
    assert np.bincount(part.test_labels).tolist() == [6, 6] and np.bincount(part.train_labels).tolist() == [24, 24]
    rows = [np.concatenate([part.train_images, part.test_images]), sides.train_images]
    kept, given = (sorted(image.tobytes() for image in images) for images in rows)
    assert kept == given
    other = search_data(sides, dataclasses.replace(SMALL, seed=1))
    assert not np.array_equal(other.test_images, part.test_images)


def test_a_network_that_cannot_learn_is_ranked_last_by_proxy_and_whole_set(sides: data.ImageSet) -> None:
    # Four sigmoids without normalisation pass on next to nothing of an image in the first hundred steps.
    config = SearchConfig(
        Grid((4,), (1, 4), ("none",), ("sigmoid", "relu"), ("none",)),
        proxy=TrainConfig(epochs=60),
        whole=TrainConfig(epochs=12, batch=16),
    )
    result = search(sides, {"few": random_real(search_data(sides, config), 4)}, config)
    deep_sigmoid = "4x4 none sigmoid none"
    for scores in (result.proxies["few"].validation, result.whole.validation, result.whole.test):
        assert scores[result.architectures.index(deep_sigmoid)] == 0.5
    assert result.worth("4x1 none relu none") == 1 == result.worth(result.selected("few"))
    assert result.regret("few") == 0 and result.correlation("few").spearman > 0


def test_no_architecture_is_chosen_by_the_test_images(
    sides: data.ImageSet, proxies: dict[str, DistilledSet], uninterrupted: SearchResult
) -> None:
    lying = dataclasses.replace(sides, test_labels=1 - sides.test_labels)
    result = search(lying, proxies, SMALL)
    for name in (*proxies, WHOLE):
        assert np.array_equal(result.scores(name).validation, uninterrupted.scores(name).validation)
        assert result.selected(name) == uninterrupted.selected(name)
    np.testing.assert_allclose(result.whole.test, 1 - uninterrupted.whole.test)


def test_a_proxys_numbers_do_not_depend_on_the_others_or_on_the_rest_of_the_grid(
    sides: data.ImageSet, proxies: dict[str, DistilledSet], uninterrupted: SearchResult
) -> None:
    fewer = dataclasses.replace(SMALL, grid=dataclasses.replace(SMALL.grid, depths=(2,)))
    alone = search(sides, {"four": proxies["four"]}, fewer)
    where = [uninterrupted.architectures.index(name) for name in alone.architectures]
    assert np.array_equal(alone.proxies["four"].validation, uninterrupted.proxies["four"].validation[where])
    assert np.array_equal(alone.whole.test, uninterrupted.whole.test[where])


def test_the_whole_set_is_preprocessed_as_the_proxies_are_and_making_them_counts(
    sides: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    train = module.train_networks
    monkeypatch.setattr(module, "train_networks", lambda *args: trained.append(args[2]) or train(*args))
    part = search_data(sides, SMALL)
    white = Preprocessing.fit(part, "zca")
    proxy = random_real(part, 2, preprocessing=white)
    result = search(sides, {"white": dataclasses.replace(proxy, meta={"seconds": 5.0})}, SMALL)
    assert torch.equal(trained[2][:], white(part.train_images))  # after the proxy, once to warm up and once for good
    seconds = result.proxies["white"].seconds.sum()
    assert result.speedup("white") == pytest.approx(result.whole.seconds.sum() / (5 + seconds))


def test_several_networks_count_with_their_mean_and_soft_labels_are_learnt(
    sides: data.ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(SMALL, grid=Grid((4,), (1,), ("batch",), ("relu",), ("avg",)), networks=3)
    one = dataclasses.replace(one, proxy=TrainConfig(epochs=60))
    reached = []
    measure = module.accuracy
    monkeypatch.setattr(module, "accuracy", lambda *args: reached.append(measure(*args)) or reached[-1])
    hard = random_real(search_data(sides, one), 4)
    swapped = dataclasses.replace(hard, soft_labels=torch.eye(2)[1 - hard.labels])
    result = search(sides, {"hard": hard, "swapped": swapped}, one)
    assert result.proxies["hard"].validation[0] == pytest.approx(np.mean(reached[:3]))
    assert result.proxies["hard"].test[0] == pytest.approx(np.mean(reached[3:6]))
    assert result.proxies["hard"].validation[0] > 0.9 and result.proxies["swapped"].validation[0] < 0.1


def start_job(out: Path, folder: Path) -> subprocess.Popen[str]:
    program = (
        "import sys; from attention_matching.experiments.search import *; from sextet_common import data\n"
        "from attention_matching.images.distilled import DistilledSet\n"
        f"proxies = {{name: DistilledSet.load(sys.argv[2] + '/' + name) for name in ('one', 'four')}}\n"
        f"search(data.load('npz:' + sys.argv[2] + '/sides.npz'), proxies, {SMALL!r}, sys.argv[1])"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(out), str(folder)], stderr=subprocess.PIPE, text=True)


def test_a_killed_search_resumes_bit_identically(
    tmp_path: Path, sides: data.ImageSet, proxies: dict[str, DistilledSet], uninterrupted: SearchResult
) -> None:
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(tmp_path / "sides.npz", classes=np.array(sides.classes), **{name: getattr(sides, name) for name in names})
    for name, proxy in proxies.items():
        proxy.save(tmp_path / name)
    metrics = tmp_path / "run" / "metrics.jsonl"
    child = start_job(tmp_path / "run", tmp_path)
    while child.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 4):
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    before = metrics.read_text().splitlines()[:4]
    with open(metrics, "a", encoding="utf-8") as file:
        file.write('{"step": 99, "se')  # as a kill in the middle of a line leaves it
    again = search(data.load(f"npz:{tmp_path}/sides.npz"), proxies, SMALL, tmp_path / "run")
    assert equal(again, uninterrupted)
    rows = metrics.read_text().splitlines()
    assert rows[:4] == before and len(rows) == 3 * 4  # what was done is not done again
    assert [json.loads(row)["step"] for row in rows] == list(range(1, 13))


def test_a_signal_ends_the_current_training_and_the_search_resumes(
    tmp_path: Path,
    sides: data.ImageSet,
    proxies: dict[str, DistilledSet],
    uninterrupted: SearchResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = module._Trainings._train_and_test
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return train(*args, **kwargs)

    monkeypatch.setattr(module._Trainings, "_train_and_test", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(sides, proxies, SMALL, tmp_path)
    assert len(calls) == len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    assert equal(search(sides, proxies, SMALL, tmp_path), uninterrupted)
    assert len(calls) == 12


def test_a_run_folder_holds_the_numbers_and_a_picture(
    tmp_path: Path, sides: data.ImageSet, proxies: dict[str, DistilledSet]
) -> None:
    result = search(sides, proxies, SMALL, tmp_path)
    report = json.loads((tmp_path / "search.json").read_text())
    assert report["architectures"] == [str(a) for a in SMALL.grid.architectures()]
    for name in (*proxies, WHOLE):
        for kind in ("validation", "test", "seconds"):
            assert report["sets"][name][kind] == getattr(result.scores(name), kind).tolist()
        assert min(report["sets"][name]["seconds"]) > 0
    with Image.open(tmp_path / "search.png") as picture:
        assert picture.size == (689, 676)  # two columns: 5.3 x 5.2 inches of 130 dots
    with pytest.raises(InputError, match="holds a run with networks=1, not 2"):
        search(sides, proxies, dataclasses.replace(SMALL, networks=2), tmp_path)
    with pytest.raises(InputError, match=r"holds a run with proxies\.four="):
        search(sides, {**proxies, "four": random_real(search_data(sides, SMALL), 4, seed=9)}, SMALL, tmp_path)
    with pytest.raises(InputError, match=r"holds a run with proxies\.four="):
        soft = dataclasses.replace(proxies["four"], soft_labels=torch.full((8, 2), 0.5))
        search(sides, {**proxies, "four": soft}, SMALL, tmp_path)


def test_the_old_name_of_selected_works_for_one_release() -> None:
    values = np.array([0.1, 0.3])
    scores = Scores(1, values, values, values)
    with pytest.deprecated_call(match="use selected"):
        assert SearchResult(("a", "b"), {"one": scores}, scores).found("one") == "b"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"held_out": 0.0}, r"held_out must be a number in \(0, 1\), got 0\.0"),
        ({"held_out": 1.0}, r"held_out must be a number in \(0, 1\), got 1\.0"),
        ({"networks": 0}, "networks must be a whole number >= 1, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchConfig(**setting)


def test_what_does_not_fit_is_refused_before_anything_is_trained_or_written(
    tmp_path: Path, sides: data.ImageSet, proxies: dict[str, DistilledSet]
) -> None:
    digits = random_real(data.load("digits"), 1)
    deep = dataclasses.replace(SMALL, grid=Grid(depths=(1, 4)))
    white = random_real(sides, 1, preprocessing=Preprocessing.fit(sides, "zca"))
    for refused, config, message in (
        ({}, SMALL, "no proxy is given; expected: at least one small set"),
        ({WHOLE: proxies["one"]}, SMALL, "a proxy is named 'whole set'"),
        ({"digits": digits}, SMALL, r"proxy 'digits' has 10 classes of \(1, 8, 8\) images, the data 2 of"),
        (proxies, deep, "depth must be >= 1 and leave at least one pixel of 8x8 images, got 4"),
        ({**proxies, "white": white}, SMALL, "some proxies are whitened and some are not"),
    ):
        with pytest.raises(InputError, match=message):
            search(sides, refused, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_architectures_name_states_its_arguments() -> None:
    names = {str(a) for a in PAPERS_GRID.architectures()}
    assert len(names) == 720  # results are stored by name
    assert str(Candidate(16, 2, "group", "leaky_relu", "none")) == "16x2 group leaky_relu none"
