from __future__ import annotations

from collections import deque

import pytest
import torch
from probmcl import MemoryQueue, MixtureParameters, MultiLabelSupConLoss, ProbabilisticContrastiveLoss
from sextet_common.errors import InputError


def test_it_holds_what_a_deque_holds() -> None:
    queue, expected = MemoryQueue(5, 2, 3), deque(maxlen=5)
    random = torch.Generator().manual_seed(0)
    for rows in (2, 2, 3, 5, 7, 1):
        embeddings = torch.randn(rows, 2, generator=random)
        labels = torch.randint(0, 2, (rows, 3), generator=random)
        queue.add(embeddings, labels)
        expected.extend(zip(embeddings.tolist(), labels.tolist(), strict=True))
        held = sorted(zip(queue.embeddings[queue.present].tolist(), queue.labels[queue.present].tolist(), strict=True))
        assert held == sorted(expected)


def test_the_loss_against_a_queue_is_that_against_what_it_holds() -> None:
    queue, loss = MemoryQueue(10, 3, 2), MultiLabelSupConLoss()
    earlier, labels = torch.randn(4, 3), torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0]])
    anchors = torch.randn(2, 3)
    queue.add(earlier, labels)
    found = loss(anchors, labels[:2], None, queue.embeddings, queue.labels, present=queue.present)
    torch.testing.assert_close(found, loss(anchors, labels[:2], None, earlier, labels))
    empty = MemoryQueue(10, 3, 2)
    assert float(loss(anchors, labels[:2], None, empty.embeddings, empty.labels, present=empty.present)) == 0


def test_it_is_saved_with_a_state_dict_and_keeps_no_history() -> None:
    queue, again = MemoryQueue(4, 2, 1), MemoryQueue(4, 2, 1)
    queue.add(torch.ones(3, 2, requires_grad=True), torch.ones(3, 1))
    again.load_state_dict(queue.state_dict())
    for each in (queue, again):
        each.add(torch.full((2, 2), 7.0), torch.zeros(2, 1))
    assert torch.equal(queue.embeddings, again.embeddings) and not queue.embeddings.requires_grad
    assert queue.labels.flatten().tolist() == [0, 1, 1, 0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="size must be a whole number >= 1, got 0"):
        MemoryQueue(0, 2, 2)
    queue = MemoryQueue(4, 2, 3)
    for embeddings, labels in (((2, 3), (2, 3)), ((2, 2), (2, 2)), ((2, 2), (3, 3))):
        with pytest.raises(InputError, match=r"expected: \(batch, 2\) and \(batch, 3\)"):
            queue.add(torch.zeros(embeddings), torch.zeros(labels))
    with pytest.raises(InputError, match="the queue holds embeddings"):
        queue.mixtures  # noqa: B018  # reading it is the test


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
@pytest.mark.parametrize("similarity", ["label", "mixture"])
def test_the_loss_against_a_queue_of_mixtures_is_that_against_what_it_holds(draw, covariance, similarity) -> None:
    queue = MemoryQueue(6, 4, 3, n_components=3, covariance=covariance)
    loss = ProbabilisticContrastiveLoss(similarity=similarity)
    earlier, batch = (draw(seed, 4, 3, 4, covariance, torch.float32) for seed in (0, 1))
    labels = torch.tensor([[1, 0, 1], [0, 1, -1], [1, 1, 0], [0.5, 0, 0]])
    assert queue.add(earlier, labels).tolist() == [0, 1, 2, 3]
    stored = {"ref_emb": queue.mixtures, "ref_labels": queue.labels, "present": queue.present}
    torch.testing.assert_close(loss(batch, labels, **stored), loss(batch, labels, ref_emb=earlier, ref_labels=labels))
    places = queue.add(batch, labels)
    assert places.tolist() == [4, 5, 0, 1]
    held = MixtureParameters.cat([batch.select(slice(2, 4)), earlier.select(slice(2, 4)), batch.select(slice(0, 2))])
    assert all(torch.equal(a, b) for a, b in zip(queue.mixtures, held, strict=True))
    # With the batch itself among the references, an anchor must not meet itself.
    stored = {"ref_emb": queue.mixtures, "ref_labels": queue.labels, "present": queue.present}
    both = MixtureParameters.cat([batch, earlier.select(slice(2, 4))])
    loss.reduction = "none"
    expected = loss(both, torch.cat([labels, labels[2:]]))[:4]
    torch.testing.assert_close(loss(batch, labels, **stored, self_index=places), expected)


def test_places_of_rows_that_a_queue_does_not_keep_are_minus_one() -> None:
    queue = MemoryQueue(3, 1, 1)
    queue.add(torch.zeros(1, 1), torch.zeros(1, 1))
    assert queue.add(torch.arange(5.0)[:, None], torch.zeros(5, 1)).tolist() == [-1, -1, 0, 1, 2]
    assert queue.embeddings.flatten().tolist() == [2, 3, 4]
