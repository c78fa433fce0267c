"""The balance of attention and features in networks that are not the papers'."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attention_matching.networks.convnet import default_depth, embedding_positions

WIDTH, POSITIONS = 128, 16  # the papers' ConvNet: channels, and the 4x4 positions of its embedding


def balanced_attention_weight(sides: Sequence[int], width: int, depth: int) -> float:
    """Return the weight of a ConvNet's attention term that keeps the published balance with its features.

    Not specified in the papers, whose lambda belongs to their ConvNet: width 128, 3 blocks (0.01), or 4 and more from
    64 pixels (0.02), an embedding of 4x4 positions. For width C, L blocks and P positions::

        (C / 128)^(3/4) * P / 16 * sqrt((L_papers - 1) / (L - 1))

    The gradient of the features with respect to the pixels is a sum over channels: its incoherent part grows with
    sqrt(C), its coherent part with C, and near C = 128 both are equally large. Average pooling makes it proportional
    to P. The gradient of unit-length attention maps hardly depends on C, and those of L - 1 blocks add incoherently.

    Examples
    --------
    >>> balanced_attention_weight((32, 32), width=128, depth=3), balanced_attention_weight((64, 64), 128, depth=4)
    (1.0, 1.0)
    >>> round(balanced_attention_weight((32, 32), width=32, depth=3), 3)
    0.354
    """
    side = min(sides)
    papers = 3 if side < 64 else default_depth(side)
    positions = embedding_positions(sides, depth) / POSITIONS
    return math.pow(width / WIDTH, 0.75) * positions * math.sqrt((papers - 1) / max(depth - 1, 1))
