from .sets import ArraySplit as ArraySplit
from .sets import FileSplit as FileSplit
from .sets import MultiLabelSet as MultiLabelSet
from .sets import Split as Split
from .sets import checked_labels as checked_labels
from .sets import held_out as held_out
from .sets import read_image as read_image
from .sources import load as load

__all__ = ["ArraySplit", "FileSplit", "MultiLabelSet", "Split", "checked_labels", "held_out", "load", "read_image"]
