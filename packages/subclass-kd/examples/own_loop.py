"""The loss in a custom training loop with a custom teacher: tensors in, a scalar out.

Run it: ``python examples/own_loop.py``
"""

from __future__ import annotations

import torch
from subclass_kd import Hierarchy, SubclassKDLoss, load
from torch import nn

data = load("digits")
parity = Hierarchy.from_dict({"even": ["0", "2", "4", "6", "8"], "odd": ["1", "3", "5", "7", "9"]})
order = [
    parity.subclass_names.index(name) for name in data.hierarchy.subclass_names
]  # numbers in `parity` of the digits in `data`
images, labels = data.train.batch(range(len(data.train))), torch.tensor(order)[torch.tensor(data.train.labels)]


def mlp(hidden: int) -> nn.Module:
    """Return a network with one output per subclass."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, parity.n_subclasses))


torch.manual_seed(0)
teacher, student = mlp(256), mlp(4)
optimizer = torch.optim.Adam(teacher.parameters(), 3e-3)
for _ in range(60):
    loss = nn.functional.cross_entropy(teacher(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

objective = SubclassKDLoss(parity, temperature=4.0, alpha=0.9)
optimizer = torch.optim.Adam(student.parameters(), 1e-2)
for _ in range(200):
    with torch.no_grad():
        teacher_logits = teacher(images)
    loss = objective(student(images), teacher_logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

test, answers = data.test.batch(range(len(data.test))), data.hierarchy.class_labels(torch.tensor(data.test.labels))
classes = parity.class_log_probs(student(test)).argmax(dim=1)
share = float((classes == answers).double().mean())
print(f"the student tells even from odd in {100 * share:.1f} % of the test images")
