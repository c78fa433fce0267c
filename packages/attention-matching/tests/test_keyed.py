"""Keyed random numbers: the hash against plain integers, the choices against what a fair choice is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_matching.images import keyed
from hypothesis import given, settings, strategies as st
from scipy import stats

MASK = (1 << 64) - 1


def splitmix(state: int, count: int) -> list[int]:
    """The published generator, in Python's integers: what `bits` gives is its upper 63 bits' worth."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_bits_are_those_of_splitmix64(start: int) -> None:
    drawn = keyed.bits(torch.tensor(start), 5).tolist()
    assert drawn == [value & (MASK >> 1) for value in splitmix(start & MASK, 5)]


def test_the_first_numbers_of_the_published_generator() -> None:
    # Known outputs of SplitMix64 from state 1234567, as other implementations list them.
    assert splitmix(1234567, 2) == [6457827717110365317, 3203168211198807973]


def test_uniform_numbers_are_uniform_and_streams_independent() -> None:
    keys = keyed.fold(keyed.fold(keyed.key(0, "test"), 7), torch.arange(50))
    drawn = keyed.uniform(keys, 4000).double()
    assert drawn.shape == (50, 4000) and drawn.min() >= 0 and drawn.max() < 1
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > 1e-3  # seeded: it holds or it does not
    correlation = np.corrcoef(drawn.numpy()) - np.eye(50)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)
    steps = keyed.uniform(keyed.fold(keyed.key(0, "test"), torch.arange(20000)), 1)[:, 0].double()
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 4 / np.sqrt(20000)


def test_purposes_steps_and_seeds_have_streams_of_their_own() -> None:
    keys = [keyed.key(seed, name) for seed in (0, 1) for name in ("batch", "network")]
    folded = [int(keyed.fold(k, n)) for k in keys for n in range(100)]
    assert len(set(folded)) == 400
    assert int(keyed.fold(keys[0], 3)) == int(keyed.fold(keys[0], torch.tensor([1, 3]))[1])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_choice_is_distinct_where_the_class_has_enough_and_else_repeats(count: int) -> None:
    sizes = torch.tensor([8, 3, 1])
    for step in range(20):
        chosen = keyed.choose(keyed.fold(keyed.key(step, "batch"), torch.arange(3)), sizes, 8, count)
        assert chosen.shape == (3, count)
        for row, size in zip(chosen.tolist(), sizes.tolist(), strict=True):
            assert all(0 <= member < size for member in row)
            assert len(set(row)) == count or size < count


def test_every_member_is_chosen_equally_often() -> None:
    sizes, trials = torch.tensor([7]), 4000
    keys = keyed.fold(keyed.key(0, "batch"), torch.arange(trials))[:, None]
    counts = torch.bincount(torch.cat([keyed.choose(k, sizes, 7, 3)[0] for k in keys]), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_a_choice_does_not_depend_on_the_other_classes() -> None:
    keys, sizes = keyed.fold(keyed.key(0, "batch"), torch.arange(4)), torch.tensor([9, 5, 30, 12])
    together = keyed.choose(keys, sizes, 30, 6)
    for k in range(4):
        alone = keyed.choose(keys[k : k + 1], sizes[k : k + 1], int(sizes[k]), 6)
        assert torch.equal(alone[0], together[k])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_draws_the_numbers_of_the_cpu() -> None:
    for where in ("cpu", "cuda"):
        keys = keyed.fold(keyed.key(3, "batch", where), torch.arange(5, device=where))
        drawn = keyed.uniform(keys, 100).cpu()
        chosen = keyed.choose(keys, torch.tensor([90, 40, 3, 8, 70], device=where), 90, 30).cpu()
        if where == "cpu":
            expected = drawn, chosen
    assert torch.equal(drawn, expected[0]) and torch.equal(chosen, expected[1])
