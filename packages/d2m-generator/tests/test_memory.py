"""Memory: a set of bytes is not copied in floats by pre-training or a distillation."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own; the small set has the same batches, so that what it needs is what any set needs.
PROGRAM = """
import resource
import numpy as np
from d2m_generator import D2M, ConditionalGAN, D2MConfig, PoolConfig, PretrainConfig, pretrain
from sextet_common.data import ImageSet

def run(count):
    images = np.zeros((count, 3, 32, 32), dtype=np.uint8)
    images[::2] = 255
    data = ImageSet.of(images, np.arange(count) % 2, images[:2], np.arange(2))
    gan = ConditionalGAN(2, (3, 32, 32), width=4)
    pretrain(gan, data, PretrainConfig(steps=1, batch_size=8, device="cpu"))
    pool = PoolConfig(networks=1, untrained=0, epochs=1, trained_on=64, width=4)
    D2M(D2MConfig(steps=1, real_batch=8, pool=pool, device="cpu")).fit(gan, data)

run(512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(20_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_the_peak_grows_by_less_than_twice_the_bytes_of_the_images() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    raw = 20_000 * 3 * 32 * 32
    assert int(result.stdout) < 2 * raw  # one copy in floats takes four times the bytes, beside them
