"""Memory: a set of bytes is not copied in floats by a distillation, an evaluation or a training on all images."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own, whose peak is not that of other tests. The small set has the same batches, so that what it
# needs is what any set needs.
PROGRAM = """
import resource
import numpy as np
from attention_matching import DistillConfig, Distiller, EvaluateConfig, evaluate, evaluate_whole, random_real
from sextet_common.data import ImageSet

def run(count):
    images = np.zeros((count, 3, 32, 32), dtype=np.uint8)
    images[::2] = 255
    data = ImageSet.of(images, np.arange(count) % 2, images, np.arange(count) % 2)
    Distiller(DistillConfig(method="dm", steps=2, width=4, depth=1, device="cpu", whitening="none")).fit(data)
    short = EvaluateConfig(networks=1, epochs=1, width=4, depth=1, device="cpu")
    evaluate(random_real(data, 1), data, short)
    evaluate_whole(data, short)

run(512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(20_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_the_peak_grows_by_less_than_twice_the_bytes_of_the_images() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    raw = 20_000 * 3 * 32 * 32
    assert int(result.stdout) < 2 * raw  # one copy in floats takes four times the bytes, beside them
