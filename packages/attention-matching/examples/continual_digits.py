"""Class-incremental learning of ten digits, two by two, with a buffer of one image each.

Takes some minutes on two cores; the same command resumes a stopped run. Writes ``continual/continual.png``.
"""

from __future__ import annotations

import sys

from attention_matching import ContinualConfig, continual
from sextet_common.data import load

config = ContinualConfig(steps=5, ipc=1, buffers=("random", "herding", "datadam"), orders=3)
result = continual(load("digits"), config, sys.argv[1] if len(sys.argv) > 1 else "continual")
print(result.to_markdown())
