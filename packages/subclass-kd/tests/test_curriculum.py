from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from subclass_kd.curriculum import CurriculumSampler, curriculum
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


def test_it_works_in_a_loader_and_orders_anew_each_epoch() -> None:
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": np.array([np.nan])}, "finite numbers"),
        ({"difficulty": np.zeros((2, 2))}, r"shape \(2, 2\)"),
        ({"schedule": "cosine"}, "the schedule is 'cosine'; expected: linear, root, step"),
        ({"epochs": 0}, "epochs is 0"),
        ({"start": 0.0}, "start is 0"),
    ],
)
def test_what_is_outside_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        curriculum(**{"difficulty": DIFFICULTY, **options})
