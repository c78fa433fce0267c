"""Memory: a set of bytes is not copied in floats by a distillation, an evaluation or a training on all images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, whose peak is not that of other tests. The small set has the same batches, so that what it
# needs is what any set needs.
PROGRAM = '''
import mmap
import threading
import time
import numpy as np
from attention_matching import DistillConfig, Distiller, EvaluateConfig, evaluate, evaluate_whole, random_real
from sextet_common.data import ImageSet

def anonymous():
    """Memory of this process without files that are mapped, such as torch's libraries."""
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * mmap.PAGESIZE

peak = 0

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.005)

def run(count):
    images = np.zeros((count, 3, 32, 32), dtype=np.uint8)
    images[::2] = 255
    data = ImageSet.of(images, np.arange(count) % 2, images, np.arange(count) % 2)
    Distiller(DistillConfig(method="dm", steps=2, width=4, depth=1, device="cpu", whitening="none")).fit(data)
    short = EvaluateConfig(networks=1, epochs=1, width=4, depth=1, device="cpu")
    evaluate(random_real(data, 1), data, short)
    evaluate_whole(data, short)

threading.Thread(target=watch, daemon=True).start()
run(512)
before = peak
run(10_000)
print(peak - before)
'''


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory of a process is read from Linux's /proc")
def test_the_peak_grows_by_less_than_twice_the_bytes_of_the_images() -> None:
    # glibc gives freed blocks of this size back at once: else holes in its heap count, by chance up to 200 MB.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    words = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    raw = 10_000 * 3 * 32 * 32
    assert int(result.stdout) < 2 * raw  # one copy in floats takes four times the bytes, beside them
