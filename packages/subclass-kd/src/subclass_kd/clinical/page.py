"""The page of a clinical report: HTML without scripts or links, with its figures inside."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from sextet_common import figures
from sextet_common.text import html

from subclass_kd.clinical.measures import Interval, roc
from subclass_kd.clinical.report import ClinicalReport, percent

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #fff; max-width: 64rem; margin: 2rem auto;
  padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead, .note, figcaption { color: #566573; } .note { font-size: 0.88rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.35rem 0.6rem; border-bottom: 1px solid #dfe5ea; white-space: nowrap; }
td:first-child { white-space: normal; } small { color: #566573; display: block; } .wide { overflow-x: auto; }
.cards { display: flex; flex-wrap: wrap; gap: 0.8rem; margin: 1.2rem 0; }
.card { border: 1px solid #dfe5ea; border-radius: 6px; padding: 0.6rem 1rem; flex: 1 1 9rem; }
.card b { display: block; font-size: 1.5rem; } .card span { color: #566573; font-size: 0.85rem; display: block; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } .pair img { flex: 1 1 20rem; min-width: 0; max-width: 30rem; }
.examples { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: 15rem; }
figure img { width: 7.3rem; height: 7.3rem; object-fit: contain; background: #eef1f4; image-rendering: pixelated; }
figcaption { font-size: 0.82rem; overflow-wrap: anywhere; }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""
_OUTCOMES = ("false negative", "false positive", "true positive", "true negative")


@dataclass(frozen=True)
class Example:
    """A test image with its heat map, if there is one; ``image`` is in [0, 1]."""

    outcome: str
    caption: str
    image: Float[np.ndarray, "channels height width"]
    heat: Float[np.ndarray, "height width"] | None


def page(report: ClinicalReport, examples: Sequence[Example], *, title: str, notes: Sequence[str] = ()) -> str:
    """Return the page as HTML."""
    parts = [
        f"<h1>{html(title)}: {html(report.positive)} against {html(report.negative)}</h1>",
        _lead(report),
        _cards(report),
        "<h2>Decisions</h2>",
        _table(
            ("rule", "threshold", *report.points[0].measures),
            [(p.name, f"{p.threshold:.4f}", *p.measures.values()) for p in report.points],
        ),
        "<p class=note>Per cent. An image is called positive if its probability exceeds the threshold, which was "
        "chosen on the validation images; the test images only measure it. The first row is the rule of this report. "
        "PPV and NPV hold for the share of positive images in the test part.</p>",
        "<h2>Curves</h2>",
        f"<div class=pair>{_figure(_roc(report), 'ROC curve')}{_figure(_curve(report), 'calibration curve')}</div>",
        "<p class=note>Circles: the thresholds above. Calibration: share of positive images in ten bins of "
        "probability, with Wilson's intervals; bars: number of images.</p>",
        _measures(report),
        *_comparison(report),
        "<h2>By subclass</h2>",
        _table(
            ("subclass", "correct decisions, per cent"),
            list(report.by_subclass.items()),
        ),
        *_pictures(report, examples),
        "<h2>Notes</h2>",
        "<ul class=note>" + "".join(f"<li>{html(note)}</li>" for note in (*_methods(report), *notes)) + "</ul>",
    ]
    head = f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{html(title)}</title>"
    view = "<meta name=viewport content='width=device-width'>"
    return f"{head}{view}<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _lead(report: ClinicalReport) -> str:
    counts = report.counts()
    words = []
    for name in ("test", "validation"):
        part = counts[name]
        of = "" if part["patients"] is None else f" of {part['patients']} patients"
        words.append(f"{part['images']} {name} images{of}, {part['positive']} of them positive")
    return f"<p class=lead>{html('; '.join(words))}.</p>"


def _cards(report: ClinicalReport) -> str:
    first = report.points[0]
    values = {
        "AUROC": report.auroc,
        "sensitivity": first.measures["sensitivity"],
        "specificity": first.measures["specificity"],
        "calibration error": report.measures["calibration error"],
    }
    cards = []
    for name, value in values.items():
        low, high = (f"{100 * end:.1f}" for end in (value.low, value.high))
        cards.append(
            f"<div class=card><span>{name}</span><b>{100 * value.value:.1f} %</b><span>{low} to {high}</span></div>"
        )
    return f"<div class=cards>{''.join(cards)}</div>"


def _measures(report: ClinicalReport) -> str:
    rows: list[tuple[str, str | Interval]] = [("AUROC, DeLong's interval", report.auroc)]
    for name, value in report.measures.items():
        if name == "Brier score":
            rows.append((name, f"{value.value:.4f} ({value.low:.4f} to {value.high:.4f})"))
        elif "difference" not in name:
            rows.append((name, value))
    return _table(("measure on the test images", "per cent; Brier score from 0 to 1"), rows)


def _comparison(report: ClinicalReport) -> Iterable[str]:
    if report.comparison is None:
        return
    test = report.comparison
    yield "<h2>Against the second network</h2>"
    p = "undefined: both order the images equally" if np.isnan(test.p) else f"{test.p:.4g} (z = {test.z:.2f})"
    yield _table(
        ("AUROC", "per cent"),
        [
            ("this network", test.first),
            ("second network", test.second),
            ("difference, DeLong", test.difference),
            ("difference, bootstrap", report.measures["AUROC, difference"]),
            ("p of DeLong's test", p),
        ],
    )


def _pictures(report: ClinicalReport, examples: Sequence[Example]) -> Iterable[str]:
    yield "<h2>Images</h2>"
    yield (
        "<p class=note>The most confident test images of each outcome, with the probability of "
        f"{html(report.positive)} and the true subclass. Beside an image: Grad-CAM, what speaks for the decision "
        "(yellow: most). A heat map shows where a network looked, not that it is right.</p>"
    )
    for outcome in _OUTCOMES:
        chosen = [example for example in examples if example.outcome == outcome]
        if not chosen:
            yield f"<h3>{outcome}s</h3><p class=note>None.</p>"
            continue
        pictures = []
        for example in chosen:
            both = _picture(_rgb(example.image), "image")
            if example.heat is not None:
                both += " " + _picture(_overlay(example.image, example.heat), "heat map")
            pictures.append(f"<figure>{both}<figcaption>{html(example.caption)}</figcaption></figure>")
        yield f"<h3>{outcome}s</h3><div class=examples>{''.join(pictures)}</div>"


def _methods(report: ClinicalReport) -> list[str]:
    config = report.config
    level, known = f"{100 * config.level:g} %", report.test.groups is not None
    unit = "patients" if known else "images, because their patients are unknown"
    notes = [
        f"Intervals are percentiles at {level} of {config.replicates} bootstrap samples of whole {unit}.",
        "DeLong's interval and test take images as independent"
        + ("; with several images per patient, prefer the bootstrap." if known else "."),
        "Calibration error: distance of mean probability and share of positive images, mean over the bins' images.",
    ]
    if report.auroc.low == report.auroc.high:
        notes.append("An interval without width comes from too few errors and is no certainty.")
    return [*notes, "For research. Not a medical device."]


def _cell(value: str | Interval) -> str:
    if isinstance(value, str):
        return html(value)
    shown, _, ends = percent(value).partition(" ")
    return f"{shown} <small>{ends.strip('[]').replace(', ', ' to ')}</small>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str | Interval]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{html(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _roc(report: ClinicalReport) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "roc.png")
        with figures.figure_file(path, (4.6, 4.2)) as figure:
            axis = figure.subplots()
            for parts, name, color in (
                (report.test, "this network", figures.COLOURS[0]),
                (report.against, "second network", figures.COLOURS[1]),
            ):
                if parts is not None:
                    one = np.ones((1, len(parts.positive)))
                    sensitivity, specificity, _ = roc(parts.positive, parts.probability, one)
                    axis.plot(1 - specificity[0], sensitivity[0], color=color, label=name, linewidth=1.6)
            for point in report.points:
                x, y = 1 - point.measures["specificity"].value, point.measures["sensitivity"].value
                axis.plot([x], [y], "o", color=figures.COLOURS[0], markerfacecolor="white")
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
            axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
            if report.against is not None:
                axis.legend(frameon=False, loc="lower right")
        return path.read_bytes()


def _curve(report: ClinicalReport) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "calibration.png")
        with figures.figure_file(path, (4.6, 4.2)) as figure:
            axis, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
            for each in report.curve:
                share: Interval = each.positive
                axis.plot([each.probability] * 2, [share.low, share.high], color=figures.COLOURS[0], linewidth=1.4)
                axis.plot([each.probability], [share.value], "o", color=figures.COLOURS[0])
            axis.set(ylabel="share of positive images", ylim=(-0.02, 1.02), xlim=(-0.02, 1.02))
            edges = np.linspace(0, 1, 11)
            counts.hist(report.test.probability, edges, color="0.75")
            counts.set(xlabel="probability", ylabel="images")
        return path.read_bytes()


def _figure(content: bytes, alternative: str) -> str:
    return f"<img alt='{alternative}' src='data:image/png;base64,{base64.b64encode(content).decode()}'>"


def _picture(pixels: np.ndarray, alternative: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8)).save(buffer, format="png")
    return _figure(buffer.getvalue(), alternative)


def _rgb(image: np.ndarray) -> np.ndarray:
    """Return an image of 1, 3 or other numbers of channels as (height, width, 3)."""
    shown = image if len(image) == 3 else np.repeat(image.mean(axis=0, keepdims=True), 3, axis=0)
    return np.moveaxis(shown, 0, -1)


def _overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image in grey, with the heat in colour over it."""
    import matplotlib

    colour = matplotlib.colormaps["inferno"](heat)[..., :3]
    grey = _rgb(image).mean(axis=2, keepdims=True)
    share = 0.7 * heat[..., None] ** 0.7
    blended: np.ndarray = grey * (1 - share) + colour * share
    return blended
