"""A mixture as a folder for the Hugging Face Hub."""

from __future__ import annotations

import os

from sextet_common import hub

from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.density.storage import HUB_FILE


def export_hub(mixture: GaussianMixture, path: str | os.PathLike[str], *, license: str = "unknown") -> None:
    """Write a model card (README.md) and mixture.safetensors, which `GaussianMixture.from_pretrained` reads.

    ``license`` is an identifier of the Hub. ``path`` is a new or empty folder, written atomically.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp()) / "unit"
    >>> export_hub(GaussianMixture([1.0], [[0.0]], [[[1.0]]]), folder)
    >>> len(GaussianMixture.from_pretrained(folder))
    1
    """
    front = {"license": license, "library_name": "gmr-metric", "tags": ["gaussian-mixture", "density-estimation"]}
    with hub.new_folder(path) as folder:
        mixture.save(folder / HUB_FILE)
        (folder / "README.md").write_text(hub.card(front, _body(mixture)), encoding="utf-8")


def _body(mixture: GaussianMixture) -> str:
    return f"""# Gaussian mixture of {len(mixture)} components in {mixture.dim} dimensions

`{HUB_FILE}` holds the weights ({len(mixture)}), the means ({len(mixture)} x {mixture.dim}) and the covariances
of type {mixture.covariance_type} ({" x ".join(map(str, mixture.covariances.shape))}) in float64.

If the mixture was estimated from data, describe the data and name its licence here: a density estimate with a component
at each sample contains the samples.

```python
from gmr_metric import GaussianMixture

mixture = GaussianMixture.from_pretrained("OWNER/NAME")
mixture.logpdf(points)  # points of shape (n, {mixture.dim})
```"""
