"""Label bits by the three readings, and discovered subclasses compared with the known ones.

Run it: ``python examples/bits.py``
"""

from __future__ import annotations

import numpy as np
from subclass_kd import (
    TrainConfig,
    build,
    discover_subclasses,
    features_of,
    label_bits,
    load,
    mutual_label_bits,
    predict,
    soft_label_bits,
    train_teacher,
)

data = load("digits")
teacher = train_teacher(build("convnet-deep", data.input_shape, 10, width=12), data, TrainConfig(epochs=12))
logits = predict(teacher, data.train)
print(label_bits(data.train.labels, data.hierarchy))
for temperature in (1.0, 4.0):
    print(f"T = {temperature:g}: {soft_label_bits(logits, data.hierarchy, temperature)}")
    print(f"T = {temperature:g}: {mutual_label_bits(logits, data.hierarchy, temperature)}")

features = features_of(teacher, data.train.batch(range(len(data.train)))).numpy()
classes = data.hierarchy.class_labels(data.train.labels)
discovered = discover_subclasses(features, classes, (3, 7), class_names=data.hierarchy.class_names)
correct = 0
for cluster in range(discovered.hierarchy.n_subclasses):
    correct += np.bincount(data.train.labels[discovered.subclass_labels == cluster]).max()
share = 100 * correct / len(classes)
print(f"{discovered.hierarchy.n_subclasses} clusters; {share:.1f} % of images show the most frequent digit of theirs")
