"""Clinical report of a network: decisions at thresholds from validation images, measured on the test images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from sextet_common.checks import Count, Natural, OpenShare, PositiveShare, check_fields
from sextet_common.errors import InputError
from sextet_common.options import Advanced
from torch import nn

from subclass_kd.clinical.delong import AurocTest, auroc_interval, auroc_test
from subclass_kd.clinical.measures import (
    BINS,
    Interval,
    Rule,
    at_fixed,
    auroc,
    bin_of,
    bootstrap,
    calibration,
    choose_threshold,
    rates,
)
from subclass_kd.data import Part, SubclassSet
from subclass_kd.inference import predict


@dataclass(frozen=True)
class ClinicalConfig:
    """What a clinical report measures, and how."""

    positive: str | None = None
    """Name of the positive class; by default the second of two."""
    rule: Rule = "youden"
    """How the decisions' threshold is chosen on the validation images: youden (the largest sum of sensitivity and
    specificity), sensitivity or specificity (at least the share below), half (0.5)."""
    sensitivity: PositiveShare = 0.9
    """Fixed sensitivity, at which the specificity is reported."""
    specificity: PositiveShare = 0.9
    """Fixed specificity, at which the sensitivity is reported."""
    level: Advanced[OpenShare] = 0.95
    """Confidence level of all intervals."""
    replicates: Advanced[Count] = 2000
    """Bootstrap samples."""
    seed: Advanced[Natural] = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Predictions:
    """A network's predictions on a part of the data, for one positive class.

    ``groups`` are the images' patients, or None if unknown. ``subclasses`` are the labels, as in the part, and
    ``subclass_probabilities`` the network's.
    """

    positive: Bool[np.ndarray, " images"]
    probability: Float[np.ndarray, " images"]
    groups: Shaped[np.ndarray, " images"] | None
    subclasses: Int[np.ndarray, " images"]
    subclass_probabilities: Float[np.ndarray, "images subclasses"]

    @classmethod
    def of(cls, network: nn.Module, data: SubclassSet, part: Literal["validation", "test"], label: int) -> Predictions:
        """Run a network on a part; probabilities have double precision, so that large ones are not all 1."""
        images: Part = getattr(data, part)
        logits = predict(network, images).double()
        probability = data.hierarchy.class_log_probs(logits).exp()[:, label].numpy()
        positive = data.hierarchy.class_labels(images.labels) == label
        each = torch.softmax(logits, dim=1).numpy()
        return cls(positive, probability.clip(0, 1), images.groups, images.labels, each)


@dataclass(frozen=True)
class OperatingPoint:
    """Decisions at a threshold that the probability must exceed, chosen on validation, measured on test images."""

    name: str
    threshold: float
    measures: dict[str, Interval]


@dataclass(frozen=True)
class CalibrationBin:
    """Images in a bin of probability: their mean probability, and the share of positive ones with Wilson's interval."""

    images: int
    probability: float
    positive: Interval


@dataclass(frozen=True)
class ClinicalReport:
    """Result of `clinical_report`.

    ``auroc`` and ``comparison`` have DeLong's intervals, which take images as independent. All ``measures`` and those
    of the ``points`` and of each subclass have bootstrap intervals by patient, or by image if patients are unknown.
    The first point is the one of the config's rule. ``by_subclass`` is the share of correct decisions there.
    """

    positive: str
    negative: str
    config: ClinicalConfig
    auroc: Interval
    measures: dict[str, Interval]
    points: tuple[OperatingPoint, ...]
    by_subclass: dict[str, Interval]
    curve: tuple[CalibrationBin, ...]
    comparison: AurocTest | None
    validation: Predictions = field(repr=False)
    test: Predictions = field(repr=False)
    against: Predictions | None = field(default=None, repr=False)

    def counts(self) -> dict[str, dict[str, int | None]]:
        """Return the number of images, of positive ones and of patients (None if unknown) of each part."""
        return {
            name: {
                "images": len(part.positive),
                "positive": int(part.positive.sum()),
                "patients": None if part.groups is None else len(np.unique(part.groups)),
            }
            for name, part in (("validation", self.validation), ("test", self.test))
        }

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without the predictions; undefined numbers are None."""
        plain = dataclasses.asdict(dataclasses.replace(self, validation=None, test=None, against=None))  # type: ignore[arg-type]
        for name in ("validation", "test", "against"):
            del plain[name]
        return {"counts": self.counts(), **_without_nan(plain)}

    def table(self) -> str:
        """Return the operating points as a Markdown table, per cent."""
        names = list(self.points[0].measures)
        lines = [f"| threshold | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for point in self.points:
            cells = [percent(point.measures[name]) for name in names]
            lines.append(f"| {point.name}: {point.threshold:.3f} | {' | '.join(cells)} |")
        return "\n".join(lines)


def clinical_report(
    network: nn.Module, data: SubclassSet, config: ClinicalConfig | None = None, *, against: nn.Module | None = None
) -> ClinicalReport:
    """Measure a network's decisions between a positive class and the others on the test images.

    Thresholds are chosen on the validation images. ``against`` is a second network, whose AUROC on the same images is
    compared by DeLong's test. `save_clinical` writes the report as a page.
    """
    config = config or ClinicalConfig()
    label = _positive_label(data, config.positive)
    validation, test = (Predictions.of(network, data, part, label) for part in ("validation", "test"))
    other = None if against is None else Predictions.of(against, data, "test", label)
    y, p = test.positive, test.probability
    thresholds = {
        name: choose_threshold(validation.positive, validation.probability, rule, target)
        for name, rule, target in _rules(config)
    }
    fixed = {"specificity": config.specificity, "sensitivity": config.sensitivity}
    subclasses = [s for s in np.unique(test.subclasses) if s >= 0]
    right = (p > next(iter(thresholds.values()))) == y

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = {"AUROC": auroc(y, p, weights), **calibration(y, p, weights)}
        curve = at_fixed(y, p, weights, **fixed)
        values[f"sensitivity at specificity {config.specificity:g}"] = curve["sensitivity"]
        values[f"specificity at sensitivity {config.sensitivity:g}"] = curve["specificity"]
        if other is not None:
            values["AUROC, difference"] = values["AUROC"] - auroc(y, other.probability, weights)
        for name, threshold in thresholds.items():
            values |= {f"{name}\n{each}": x for each, x in rates(y, p > threshold, weights).items()}
        with np.errstate(invalid="ignore"):
            for s in subclasses:
                of_it = (test.subclasses == s).astype(np.float64)
                values[f"\n{s}"] = weights @ (right * of_it) / (weights @ of_it)
        return values

    groups = np.arange(len(y)) if test.groups is None else test.groups
    drawn = bootstrap(statistics, groups, replicates=config.replicates, level=config.level, seed=config.seed)
    points = tuple(
        OperatingPoint(name, threshold, {k.partition("\n")[2]: drawn[k] for k in drawn if k.startswith(f"{name}\n")})
        for name, threshold in thresholds.items()
    )
    names = data.hierarchy.class_names
    return ClinicalReport(
        positive=names[label],
        negative=names[1 - label] if len(names) == 2 else "all other classes",
        config=config,
        auroc=auroc_interval(y, p, level=config.level),
        measures={name: value for name, value in drawn.items() if "\n" not in name},
        points=points,
        by_subclass={data.hierarchy.subclass_names[s]: drawn[f"\n{s}"] for s in subclasses},
        curve=calibration_curve(y, p, level=config.level),
        comparison=None if other is None else auroc_test(y, p, other.probability, level=config.level),
        validation=validation,
        test=test,
        against=other,
    )


def calibration_curve(
    positive: np.ndarray, probability: np.ndarray, *, level: float = 0.95
) -> tuple[CalibrationBin, ...]:
    """Return the bins of equal width that have images, with Wilson's intervals, which take images as independent."""
    from scipy import stats  # slow to import

    bins = []
    for number in range(BINS):
        rows = bin_of(probability) == number
        if rows.any():
            count, found = int(rows.sum()), int(positive[rows].sum())
            low, high = stats.binomtest(found, count).proportion_ci(level, method="wilson")
            bins.append(CalibrationBin(count, float(probability[rows].mean()), Interval(found / count, low, high)))
    return tuple(bins)


def percent(interval: Interval) -> str:
    """Return an interval in per cent, or "undefined"."""
    if np.isnan(interval.value):
        return "undefined"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _rules(config: ClinicalConfig) -> list[tuple[str, Rule, float]]:
    """Return name, rule and target of each operating point, the config's rule first."""
    every: list[tuple[str, Rule, float]] = [
        ("largest sum of both", "youden", 0.9),
        (f"sensitivity at least {config.sensitivity:g}", "sensitivity", config.sensitivity),
        (f"specificity at least {config.specificity:g}", "specificity", config.specificity),
        ("one half", "half", 0.5),
    ]
    return sorted(every, key=lambda point: point[1] != config.rule)


def _positive_label(data: SubclassSet, name: str | None) -> int:
    names = data.hierarchy.class_names
    if name is None and len(names) == 2:
        return 1
    if name not in names:
        given = f"positive is {name!r}" if name is not None else f"no positive class of {len(names)} is named"
        raise InputError(given, f"one of {', '.join(names)}")
    if len(names) < 2:
        raise InputError("the data have one class", "at least two")
    return names.index(name)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
