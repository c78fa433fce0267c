from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sextet_common.errors import InputError
from subclass_kd import CrossEntropy, Hierarchy, LearnedSubclassLoss

H = Hierarchy(np.array([0, 0, 1, 1, 1]))
CLASS_ONLY = torch.tensor([-2, -2, -2, -2, -3, -3, -3, -3])  # of the classes 0 and 1


def test_the_loss_is_the_literal_double_sum() -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 4, 1, 2, 2])
    rows = [[x - sum(row) / 5 for x in row] for row in logits.tolist()]
    rows = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    spread = 0.0
    for a in rows:
        inner = [math.exp(sum(x * y for x, y in zip(a, b, strict=True)) / 0.5) for b in rows]
        spread += (math.log(sum(inner) / 6) - 1 / 0.5) / 6
    hard = float(CrossEntropy(H, "class")(logits, None, labels))
    value = LearnedSubclassLoss(H, 0.3, 0.5)(logits, None, labels)
    assert float(value) == pytest.approx(hard + 0.3 * spread, abs=1e-6)


def test_only_classes_count_and_the_spread_is_learned() -> None:
    logits = torch.nn.Parameter(0.01 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    labels, loss = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]), LearnedSubclassLoss(H, weight=1.0)
    assert loss(logits, None, labels) == loss(logits, None, labels + (labels == 0).int())
    torch.testing.assert_close(loss(logits, None, CLASS_ONLY), loss(logits, None, labels))
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(logits, None, labels).backward()
        optimizer.step()
    assert len(set(logits.argmax(dim=1)[:4].tolist())) == 2  # both subclasses of class 0 are used
    assert CrossEntropy(H, "class")(logits, None, labels) < 0.1


@pytest.mark.parametrize(("words", "message"), [({"weight": -1.0}, "weight"), ({"temperature": 0.0}, "temperature")])
def test_invalid_settings_are_refused(words: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LearnedSubclassLoss(H, **words)
