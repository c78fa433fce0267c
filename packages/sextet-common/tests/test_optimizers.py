from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sextet_common import optimizers
from sextet_common.errors import InputError
from torch import Tensor, nn

MADE = {
    "Adam": lambda p: torch.optim.Adam(p, 0.1),
    "AdamW in groups": lambda p: torch.optim.AdamW([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.0}], 0.1),
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, 0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.1),
}


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        network(torch.linspace(number, 1, 3)).square().sum().backward()
        optimizer.step()


def layer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("kind", MADE)
def test_an_optimizer_that_is_restored_goes_on_to_the_same_bits(kind: str) -> None:
    whole, parted = layer(), layer()
    steps(whole, MADE[kind](list(whole.parameters())), 6)
    optimizer = MADE[kind](list(parted.parameters()))
    steps(parted, optimizer, 3)
    again = MADE[kind](list(parted.parameters()))
    optimizers.restore(again, {**optimizers.state(optimizer, "memory"), "model.weight": torch.ones(9)}, "memory")
    for number in range(3, 6):
        again.zero_grad()
        parted(torch.linspace(number, 1, 3)).square().sum().backward()
        again.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"optimizer.0.exp_avg": torch.zeros(3, 2)}, "optimizer.0.exp_avg has shape (3, 2)"),
        ({"optimizer.2.exp_avg": torch.zeros(2)}, "numbers of its 2 parameters"),
        ({"optimizer.x.exp_avg": torch.zeros(2)}, "numbers of its 2 parameters"),
        ({"optimizer.-1.exp_avg": torch.zeros(2)}, "numbers of its 2 parameters"),
        ({"optimizer.0.other": torch.zeros(2, 3)}, "exp_avg, exp_avg_sq, step as Adam"),
        ({"optimizer.1.step": torch.tensor(-1.0)}, "optimizer.1.step is -1.0; expected: one finite number >= 0"),
        ({"optimizer.1.step": torch.tensor(float("nan"))}, "optimizer.1.step is nan"),
        ({"optimizer.1.step": torch.zeros(2)}, "optimizer.1.step has shape (2,)"),
        ({"optimizer.1.step": None}, "optimizer.1 has exp_avg, exp_avg_sq"),
    ],
)
def test_a_memory_that_is_not_this_optimizers_is_refused_by_its_name(
    changed: dict[str, Tensor | None], named: str
) -> None:
    network = layer()
    optimizer = torch.optim.Adam(network.parameters())
    steps(network, optimizer, 1)
    before = optimizers.state(optimizer)
    wrong = {name: tensor for name, tensor in {**before, **changed}.items() if tensor is not None}
    with pytest.raises(InputError, match=re.escape(named)):
        optimizers.restore(optimizer, wrong)
    after = optimizers.state(optimizer)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(("steps", "warmup"), [(50, 0.2), (50, 0.1), (3, 0.5), (1, 0.2)])
def test_the_rate_rises_linearly_and_falls_along_half_a_cosine(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = optimizers.warmup_cosine(optimizer, steps, warmup)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    rising = max(1, round(warmup * steps))
    falling = steps - rising + 1  # the peak, which is the last step of the warm-up, included
    expected = [0.3 * (k + 1) / rising for k in range(rising)]
    expected += [0.15 * (1 + np.cos(np.pi * k / falling)) for k in range(1, falling)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_a_schedule_resumes_where_it_was() -> None:
    def rates(done: int) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
        schedule = optimizers.warmup_cosine(optimizer, 10, 0.2, done=done)
        values = []
        for _ in range(done, 10):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return values

    assert rates(4) == rates(0)[4:]


def test_biases_and_normalisations_do_not_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    decayed, spared = optimizers.adamw(network.parameters(), 1e-3, 0.1).param_groups
    assert decayed["weight_decay"] == 0.1 and [tuple(p.shape) for p in decayed["params"]] == [(2, 3)]
    assert spared["weight_decay"] == 0.0 and len(spared["params"]) == 3
