"""Train ProbMCL and the asymmetric loss on scenes of real digits, and ask ProbMCL which images it is unsure of.

Run by ``python3 tools/dev.py demo``; alone: ``python examples/demo.py --out demo``.
Writes result.json (what the page shows), picture.png and the run folders.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tyro
from probmcl import Config, MultiLabelSet, ProbMCL, complexity, error_by_quantile, save_map
from probmcl.scenes import compose, digits
from sextet_common import files

METHODS = {
    "asymmetric loss": Config(method="asymmetric", epochs=20, classifier_epochs=5),
    "ProbMCL, encoder frozen": Config(label_aware="each", epochs=20, classifier_epochs=5),
}


def measured(model: ProbMCL, data: MultiLabelSet) -> list[str]:
    """Return a row of the table."""
    scores = model.evaluate(data.test)
    parameters, _ = complexity(model.inference(), data.input_shape)
    shares = (scores.mean_ap, scores.cf1, scores.of1, scores.calibration_error)
    return [*(f"{100 * share:.1f} %" for share in shares), f"{parameters:,}"]


def main(out: Path, scenes: int = 2000, width: int = 8) -> None:
    """Run the demo.

    Parameters
    ----------
    out
        Where to write.
    scenes
        Scenes to train on.
    width
        Of the encoder.
    """
    data = compose(digits(), sizes=(scenes, 300, 1000))
    rows = []
    for name, config in METHODS.items():
        model = ProbMCL("convnet", config=config, width=width).fit(data, out / name.split(",")[0].replace(" ", "-"))
        rows.append([name, *measured(model, data)])
    save_map(model, data.test, out / "picture.png")
    wrong = (model.predict_proba(data.test).numpy() > 0.5) != np.array(data.test.labels, dtype=bool)
    errors = error_by_quantile(model.uncertainty(data.test).total.numpy(), wrong.any(axis=1))
    result = {
        "title": "Which digits are in the picture, and how sure is that",
        "sentence": (
            f"Of the fifth of the scenes that ProbMCL's mixtures are surest of, {100 * errors[0]:.0f} % have a label "
            f"wrong; of the fifth that they are least sure of, {100 * errors[-1]:.0f} %."
        ),
        "columns": ["method", "mAP", "CF1", "OF1", "calibration error", "parameters at inference"],
        "rows": rows,
        "note": (
            f"{scenes} scenes of 1 to 5 handwritten digits (scikit-learn's) to train on, 1000 to test with; "
            "same small encoder, 25 passes each, scores at the threshold 0.5. Surest by the variance of an image's "
            "mixture. The picture: labels and test images on a plane (t-SNE). Digits of the groups 012, 345 and "
            "6789 appear together more often than others."
        ),
        "picture": "picture.png",
        "errors": errors.tolist(),
        "maps": {row[0]: row[1] for row in rows},
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
