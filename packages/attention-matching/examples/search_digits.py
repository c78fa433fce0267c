"""Which of 96 ConvNets suits digits? Rank them by training on ten images per class, and see whether that was right.

Takes some minutes on two cores; the same command goes on with a stopped run. Writes ``search/ranking/search.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from attention_matching.experiments.search import SearchConfig, search, search_data
from attention_matching.experiments.small_sets import small_sets
from sextet_common.data import load

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "search")
digits, config = load("digits"), SearchConfig()
part = search_data(digits, config)  # without the images that the ranking is measured on
proxies = small_sets(["random", "herding", "datadam"], part, ipc=10, out=folder / "proxies")
result = search(digits, proxies, config, folder / "ranking")
print(result.to_markdown())
