"""Custom data, from arrays to a student: images, votes of several annotators and a curriculum.

    python examples/own_data.py

The annotators are simulated: seven of them see noisy digits and vote whether they are five or more.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from subclass_kd import (
    SubclassKDLoss,
    SubclassSet,
    TrainConfig,
    build,
    distill,
    evaluate,
    label_bits,
    subclasses_from_votes,
    train_teacher,
)

pixels, digits = load_digits(return_X_y=True)
images = (pixels / 16).reshape(-1, 1, 8, 8).astype(np.float32)
random = np.random.default_rng(0)
votes = (digits[:, None] + random.normal(0, 1.5, (len(digits), 7)) > 4.5).astype(np.int64)  # (images, annotators)

voted = subclasses_from_votes(votes, "clear-ambiguous", class_names=("below five", "five or more"))
print(label_bits(voted.subclass_labels, voted.hierarchy))
train, test = slice(0, 1300), slice(1300, None)
data = SubclassSet.of(
    (images[train], voted.subclass_labels[train]),
    (images[test], voted.subclass_labels[test]),
    voted.hierarchy,
    difficulty=voted.difficulty[train],
    source="voted digits",
)
outputs = voted.hierarchy.n_subclasses
config = TrainConfig(epochs=12, curriculum="root")  # easy images first: those on which the annotators agree
teacher = train_teacher(build("convnet-deep", data.input_shape, outputs, width=12), data, config)
objective = SubclassKDLoss(voted.hierarchy, temperature=2, normalize_groups=True)
student = distill(teacher, build("convnet", data.input_shape, outputs, width=4), data, objective, config)
for name, network in (("teacher", teacher), ("student", student)):
    print(f"F1 of the {name}: {100 * evaluate(network, data).f1:.1f} %")
