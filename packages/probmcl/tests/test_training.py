"""Diagnostics, the moving average, the one-cycle schedule and mixed precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from probmcl import Config, ContrastiveConfig, HeadConfig, MultiLabelSet, ProbMCL
from probmcl.scenes import compose, digits
from probmcl.training.average import Average
from probmcl.training.optimization import Optimization
from probmcl.training.stages import Training
from sextet_common.errors import DataWarning
from sextet_common.processes import Processes
from torch import nn

SMALL = {"epochs": 1, "classifier_epochs": 1, "batch_size": 16, "head": HeadConfig(8, hidden=(16,)), "device": "cpu"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes() -> MultiLabelSet:
    return compose(digits(), sizes=(80, 40, 40))


@pytest.mark.parametrize(("method", "mode"), [("probmcl", "joint"), ("probmcl", "two_stage"), ("supcon", "joint")])
def test_metrics_tell_whether_the_contrastive_term_learns(
    scenes: MultiLabelSet, tmp_path: Path, method: str, mode: str
) -> None:
    weights = ContrastiveConfig(likelihood_weight=0.5)
    config = Config(**{**SMALL, "epochs": 4}, method=method, mode=mode, contrastive=weights)
    ProbMCL("convnet", 10, config, width=2).fit(scenes, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    row = [row for row in rows if row.get("stage") in ("joint", "contrastive")][-1]
    assert row["logit_spread"] > 0 and 0 < row["uniform_probability"] < 1 and 0 < row["positive_probability"] < 1
    terms = {"joint": ["classification", "contrastive"], "two_stage": ["contrastive", "likelihood"]}[mode]
    assert all(row[f"gradient_{name}"] > 0 for name in terms)


def test_a_contrastive_term_that_stays_uniform_is_warned_of(scenes: MultiLabelSet, tmp_path: Path) -> None:
    blind = ContrastiveConfig(temperature=1000.0)
    config = Config(**{**SMALL, "epochs": 12}, contrastive=blind)  # 5 steps an epoch, checked at step 50
    with pytest.warns(DataWarning, match="after 50 steps and would be .* if all similarities were equal"):
        ProbMCL("convnet", 10, config, width=2).fit(scenes, tmp_path)


def test_the_average_is_what_a_loop_over_the_steps_gives(scenes: MultiLabelSet) -> None:
    config = Config(**SMALL, method="bce", ema_decay=0.7, calibrate=False)
    model = ProbMCL("convnet", 10, config, width=2)
    job = Training(model._build(scenes.input_shape, 10), scenes, config, CPU)
    name = "encoder.body.blocks.0.weight"
    value = job.network.state_dict()[name].clone().double()
    for number in range(job.steps):
        weights = {}
        average = job.average
        keep = average.copy_to
        average.copy_to = lambda network, keep=keep, weights=weights: (
            weights.update(last=network.state_dict()[name].clone()),
            keep(network),
        )
        job.step(number)
        last = weights.get("last", job.network.state_dict()[name]).double()
        decay = min(0.7, (1 + number) / (10 + number))
        value = decay * value + (1 - decay) * last
    torch.testing.assert_close(job.network.state_dict()[name].double(), value, rtol=1e-5, atol=1e-7)
    fitted = model.fit(scenes)._fitted().state_dict()
    assert torch.equal(fitted[name], job.network.state_dict()[name])  # what is evaluated and saved


def test_integers_are_not_averaged() -> None:
    network = nn.BatchNorm1d(2)
    assert set(Average(network, 0.9).values) == {"weight", "bias", "running_mean", "running_var"}


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 40])
def test_the_one_cycle_is_torchs_also_when_resumed(steps: int) -> None:
    config = Config(schedule="onecycle")
    weight = nn.Parameter(torch.ones(2, 2))
    whole = Optimization([weight], 0.1, steps, config, CPU, 0)
    expected = []
    for _ in range(steps):
        group = whole.optimizer.param_groups[0]
        expected.append((group["lr"], group["betas"]))
        whole.step(weight.square().sum(), Processes(CPU))
    for done in range(steps):
        group = Optimization([weight], 0.1, steps, config, CPU, done).optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == expected[done]
    if steps == 40:
        fresh = torch.optim.AdamW([weight], 0.1)
        torchs = torch.optim.lr_scheduler.OneCycleLR(fresh, 0.1, total_steps=40, pct_start=0.2)
        for lr, betas in expected:
            assert (lr, betas) == (fresh.param_groups[0]["lr"], fresh.param_groups[0]["betas"])
            fresh.step()
            torchs.step()
        assert max(lr for lr, _ in expected) == 0.1


def test_float16_skips_a_step_whose_gradient_is_too_large_and_lowers_the_scale() -> None:
    weight = nn.Parameter(torch.ones(1, 1))
    optimization = Optimization([weight], 0.1, 4, Config(precision="float16"), CPU, 0)
    scale = optimization.scaler.get_scale()
    optimization.step((weight * 3e38).sum(), Processes(CPU))
    assert float(weight.detach()) == 1 and optimization.scaler.get_scale() < scale
    optimization.step(weight.sum(), Processes(CPU))
    assert float(weight.detach()) < 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_near_to_float32(scenes: MultiLabelSet, precision: str) -> None:
    probabilities = [
        ProbMCL("convnet", 10, Config(**SMALL, precision=value, calibrate=False), width=2)
        .fit(scenes)
        .predict_proba(scenes.test)
        for value in ("float32", precision)
    ]
    difference = (probabilities[0] - probabilities[1]).abs().max()
    assert 0 < float(difference) < 0.05, np.asarray(difference)
