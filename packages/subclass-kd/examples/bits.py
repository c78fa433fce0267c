"""How many bits subclasses add, by the three readings, and what is found where no subclass is known.

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
found = discover_subclasses(features, classes, (3, 7), class_names=data.hierarchy.class_names)
pure = 0
for cluster in range(found.hierarchy.n_subclasses):
    pure += np.bincount(data.train.labels[found.subclass_labels == cluster]).max()
print(f"{found.hierarchy.n_subclasses} clusters; {100 * pure / len(classes):.1f} % of the images are of their digit")
