"""Error message for a GPU without enough memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from sextet_common.errors import InputError


@contextmanager
def explain_out_of_memory(options: str) -> Iterator[None]:
    """Turn a GPU's "out of memory" into an `InputError` that names the options to make smaller."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise InputError("the GPU is out of memory", f"a smaller {options}") from error
