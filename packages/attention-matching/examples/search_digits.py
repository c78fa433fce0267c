"""Rank 96 ConvNets by training on ten images per class, and compare with training on all digits.

Takes some minutes on two cores; the same command resumes a stopped run. Writes ``search/ranking/search.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from attention_matching import SearchConfig, search, search_data, small_sets
from sextet_common.data import load

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "search")
digits, config = load("digits"), SearchConfig()
remaining = search_data(digits, config)  # without the images that the ranking is measured on
proxies = small_sets(["random", "herding", "datadam"], remaining, ipc=10, out=folder / "proxies")
result = search(digits, proxies, config, folder / "ranking")
print(result.to_markdown())
