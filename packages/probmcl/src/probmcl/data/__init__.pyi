from .sets import ArraySplit, FileSplit, MultiLabelSet, Split, checked_labels, held_out, read_image
from .sources import load

__all__ = ["ArraySplit", "FileSplit", "MultiLabelSet", "Split", "checked_labels", "held_out", "load", "read_image"]
