from .sets import (
    ArraySplit as ArraySplit,
    FileSplit as FileSplit,
    MultiLabelSet as MultiLabelSet,
    Split as Split,
    checked_labels as checked_labels,
    held_out as held_out,
    read_image as read_image,
)
from .sources import load as load

__all__ = ["ArraySplit", "FileSplit", "MultiLabelSet", "Split", "checked_labels", "held_out", "load", "read_image"]
