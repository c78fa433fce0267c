"""A folder of images and a table of labels: train, predict, export.

python examples/csv_folder.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from probmcl import Config, HeadConfig, ProbMCL, export, load
from probmcl.scenes import compose, digits

folder = Path(tempfile.mkdtemp())
scenes = compose(digits(), sizes=(60, 2, 2)).train
lines = ["image,labels,split"]
for number, (pixels, labels) in enumerate(zip(scenes.inputs, scenes.labels, strict=True)):
    Image.fromarray((255 * pixels[0]).astype(np.uint8)).save(folder / f"{number}.png")
    part = "train" if number % 5 else "test"
    lines.append(f"{number}.png,{'|'.join(str(digit) for digit in np.flatnonzero(labels))},{part}")
(folder / "labels.csv").write_text("\n".join(lines) + "\n")

data = load(f"csv:{folder}", size=32)
config = Config(epochs=2, classifier_epochs=2, batch_size=16, head=HeadConfig(dim=16, hidden=(32,)))
model = ProbMCL("convnet", data.n_labels, config, width=4).fit(data, folder / "run")
print(model.evaluate(data.test).table(data.label_names))
print(export(model, folder / "model.pt2").name)
