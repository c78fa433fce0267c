"""The losses in a custom training loop: no trainer, a memory queue, a mixture density head.

python examples/own_loop.py
"""

from __future__ import annotations

import torch
from probmcl import (
    Augmentation,
    MemoryQueue,
    MixtureDensityHead,
    MultiLabelSupConLoss,
    ProbMCLLoss,
    build,
    uncertainty,
)
from probmcl.scenes import compose, digits

torch.manual_seed(0)
data = compose(digits(), sizes=(128, 32, 32))
encoder = build("convnet", data.input_shape, width=4)
head = MixtureDensityHead(encoder.out_features, n_components=10, dim=16, hidden=(32,))
probabilistic = ProbMCLLoss()
supervised, queue = MultiLabelSupConLoss(), MemoryQueue(size=64, dim=16, n_labels=10)
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=2e-3)
draw, views_of = torch.Generator().manual_seed(0), Augmentation()

for step in range(8):
    rows = torch.arange(16) + 16 * step
    views = views_of.views(data.train.batch(rows.numpy()), draw)
    labels = torch.from_numpy(data.train.labels[rows.numpy()]).repeat(2, 1)
    points = head.project(encoder(views))
    loss = probabilistic(head.mixture(points), points.roll(16, dims=0), labels)
    if step:  # earlier batches take part too
        loss = loss + 0.1 * supervised(points, labels, None, queue.embeddings, queue.labels, present=queue.present)
    queue.add(points.detach(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {float(loss.detach()):.3f}")

print(uncertainty(head(encoder(data.test.batch([0, 1, 2])))))
