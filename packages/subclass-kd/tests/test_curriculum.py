from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from subclass_kd import CurriculumSampler, curriculum
from torch.utils.data import DataLoader, TensorDataset

DIFFICULTY = np.random.default_rng(0).permutation(40) / 40


@pytest.mark.parametrize("schedule", ["linear", "root", "step"])
def test_the_share_grows_from_its_start_to_all_and_stays(schedule) -> None:
    sampler = curriculum(DIFFICULTY, schedule, epochs=8, start=0.25)
    shares = [sampler.share(epoch) for epoch in range(12)]
    assert shares[0] == pytest.approx(0.25) and shares[8:] == [1.0] * 4
    assert all(a <= b for a, b in itertools.pairwise(shares))
    at_half = {"linear": 0.625, "root": (0.0625 + 0.9375 / 2) ** 0.5, "step": 0.625}[schedule]
    assert shares[4] == pytest.approx(at_half)
    if schedule == "step":
        assert len(set(shares)) == 5


def test_an_epoch_has_the_easiest_samples_and_no_others() -> None:
    sampler = curriculum(DIFFICULTY, epochs=10, start=0.2)
    for epoch in (0, 3, 10):
        sampler.set_epoch(epoch)
        count = round(sampler.share(epoch) * 40)
        assert sorted(sampler) == sorted(np.argsort(DIFFICULTY)[:count].tolist()) and len(sampler) == count


def test_it_works_in_a_loader_and_shuffles_anew_each_epoch() -> None:
    sampler = curriculum(DIFFICULTY, start=1.0)
    loader = DataLoader(TensorDataset(torch.arange(40)), batch_size=8, sampler=sampler)
    first = torch.cat([rows for (rows,) in loader])
    assert torch.equal(first, torch.cat([rows for (rows,) in loader]))
    sampler.set_epoch(1)
    second = torch.cat([rows for (rows,) in loader])
    assert not torch.equal(first, second) and torch.equal(first.sort().values, second.sort().values)


def test_whole_epochs_repeat_easy_samples() -> None:
    sampler = CurriculumSampler(DIFFICULTY, start=0.25, whole=True)
    counts = np.bincount(sampler.rows(0), minlength=40)
    assert counts.sum() == 40 and set(counts[counts > 0]) == {4}


def test_whole_epochs_are_cut_to_the_number_of_samples_and_shuffled_anew() -> None:
    sampler = CurriculumSampler(DIFFICULTY, start=0.3, whole=True)
    rows = sampler.rows(0)
    counts = np.bincount(rows, minlength=40)
    assert len(rows) == 40 and sorted(set(counts[counts > 0])) == [3, 4] and (counts > 0).sum() == 12
    assert rows[:12].tolist() != rows[12:24].tolist()
    assert sorted(CurriculumSampler(DIFFICULTY, epochs=4, start=0.3, whole=True).rows(4)) == list(range(40))


def test_an_epoch_has_one_sample_at_least_and_the_seed_orders_equal_ones() -> None:
    assert len(curriculum(np.array([0.2, 0.1]), start=0.1).rows(0)) == 1
    equal = [curriculum(np.zeros(40), start=0.25, seed=seed).rows(0) for seed in (0, 0, 1)]
    assert equal[0].tolist() == equal[1].tolist() and sorted(equal[0]) != sorted(equal[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": np.array([np.nan])}, "finite numbers"),
        ({"difficulty": np.zeros((2, 2))}, r"shape \(2, 2\)"),
        ({"schedule": "cosine"}, "schedule must be linear, root or step, got 'cosine'"),
        ({"epochs": 0}, "epochs must be a whole number >= 1, got 0"),
        ({"start": 0.0}, r"start must be a number in \(0, 1\], got 0.0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        curriculum(**{"difficulty": DIFFICULTY, **options})
