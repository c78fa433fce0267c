from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from sextet_common import seeding
from sextet_common.errors import InputError

KEYS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=8)), max_size=4)


def test_the_derived_seed_is_the_first_63_bits_of_sha256() -> None:
    digest = hashlib.sha256(b"7\0'net'\0003").digest()
    assert seeding.derive(7, "net", 3) == int.from_bytes(digest[:8], "little") // 2


@given(st.integers(0, 2**63), KEYS, KEYS)
def test_different_keys_give_different_seeds_and_equal_ones_equal(seed: int, a: list, b: list) -> None:
    same = [(type(k), k) for k in a] == [(type(k), k) for k in b]
    assert (seeding.derive(seed, *a) == seeding.derive(seed, *b)) == same
    assert 0 <= seeding.derive(seed, *a) < 2**63


def test_a_number_and_its_text_are_different_keys() -> None:
    assert seeding.derive(0, 1) != seeding.derive(0, "1")
    assert seeding.derive(0, np.int64(1)) == seeding.derive(0, 1)


def test_streams_do_not_depend_on_the_order_of_creation() -> None:
    forward = [seeding.generator(3, "step", k).random(4) for k in range(5)]
    backward = [seeding.generator(3, "step", k).random(4) for k in reversed(range(5))][::-1]
    np.testing.assert_array_equal(forward, backward)


def test_streams_of_neighbouring_keys_are_uncorrelated() -> None:
    draws = np.stack([seeding.generator(0, k).standard_normal(4000) for k in range(20)])
    correlations = np.corrcoef(draws)[np.triu_indices(20, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)  # five standard errors, 190 pairs


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True, None])
def test_a_seed_that_is_not_a_whole_number_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed must be a whole number >= 0"):
        seeding.derive(seed)


def test_torch_seed_seeds_the_global_generator_and_restores_it() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with seeding.torch_seed(0, "network"):
        first = torch.nn.Linear(3, 3).weight
    assert torch.equal(torch.rand(3), expected)
    with seeding.torch_seed(0, "network"):
        assert torch.equal(torch.nn.Linear(3, 3).weight, first)
