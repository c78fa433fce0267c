"""Map of labels: probmcl's embeddings as one Gaussian mixture per label, reduced by gmr-metric.

ProbMCL predicts a mixture for every image; its mean is the image's point. The kernel density estimate of all points of
a label has hundreds of components and is reduced to a few with the same moments. The angle between two labels' mixtures
measures how little they overlap. A coarser view, one Gaussian per label, is reduced to as many as there are groups of
labels. Conformal sets say which labels an image has, with a guarantee.

Run it: ``python examples/label_map.py --out label-map``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tyro
from gmr_metric import GaussianMixture, pairwise_distances, reduce
from gmr_metric.plotting import ellipses
from probmcl import Config, ConformalSets, ContrastiveConfig, HeadConfig, LabelGaussians, ProbMCL
from probmcl.scenes import GROUPS, compose, digits
from sextet_common import figures, files


def draw(mixtures: Mapping[str, GaussianMixture], path: Path) -> None:
    """Draw the first two dimensions of the labels' mixtures: one-sigma ellipses, one colour per group of digits."""
    group_of = {str(digit): number for number, group in enumerate(GROUPS) for digit in group}
    title = f"Map of the labels, {max(map(len, mixtures.values()))} components each"
    with figures.figure_file(path, (7.0, 6.0), title=title) as figure:
        axis = figure.subplots()
        around = np.linspace(0, 2 * np.pi, 90)
        for name, mixture in mixtures.items():
            flat, colour = mixture.marginal([0, 1]), figures.COLOURS[group_of[name]]
            for part, weight in zip(ellipses(flat), flat.weights, strict=True):
                tilt = np.deg2rad(part.angle)
                turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
                x, y = turn @ (np.array(part.axes)[:, None] * np.stack([np.cos(around), np.sin(around)]))
                axis.fill(part.centre[0] + x, part.centre[1] + y, color=colour, alpha=0.35 * weight, linewidth=0)
                axis.plot(part.centre[0] + x, part.centre[1] + y, color=colour, linewidth=0.8, alpha=0.7)
        places = _apart(np.stack([mixture.marginal([0, 1]).mean() for mixture in mixtures.values()]), 0.065)
        for name, place in zip(mixtures, places, strict=True):
            circle = {"boxstyle": "circle", "facecolor": figures.COLOURS[group_of[name]], "edgecolor": "white"}
            axis.annotate(name, place, ha="center", va="center", color="white", weight="bold", zorder=4, bbox=circle)
        axis.set(xticks=[], yticks=[], xlabel="first principal axis of the labels' means", ylabel="second")


def _apart(points: np.ndarray, share: float) -> np.ndarray:
    """Push points apart until no two are closer than a share of their width."""
    least = share * np.ptp(points[:, 0])
    for _ in range(200):
        away = points[:, None] - points
        length = np.hypot(*np.moveaxis(away, 2, 0)).clip(1e-9)
        points = points + (away * ((least - length).clip(0) / length)[..., None]).sum(axis=1) / 2
    return points


def groups(embeddings: np.ndarray, labels: np.ndarray, number: int) -> list[str]:
    """Describe every label by one Gaussian, merge those until ``number`` are left, and return which are one now."""
    gaussians = LabelGaussians.fit(embeddings, labels)
    whole = GaussianMixture(gaussians.weights, gaussians.means, np.ones(len(gaussians.weights)), normalize=True)
    merged = reduce(whole, number, "runnalls").assignment
    return sorted("".join(map(str, np.flatnonzero(merged == k))) for k in range(number))


def main(
    out: Path,
    scenes: int = 1000,
    epochs: int = 15,
    width: int = 8,
    axes: int = 4,
    components: int = 3,
    seed: int = 0,
) -> None:
    """Run the composition.

    Parameters
    ----------
    out
        Output folder: result.json, picture.png, points.npz, the model's run folder and a mixture for each label.
    scenes
        Training scenes of digits.
    epochs
        Epochs of ProbMCL's first stage.
    width
        Width of the encoder.
    axes
        Dimensions of the map: the principal axes of the labels' means. The figure shows the first two.
    components
        Components of each label's reduced mixture.
    seed
        Seed of all random draws.
    """
    data = compose(digits(), sizes=(scenes, 100, 600), seed=seed)
    head, contrastive = HeadConfig(dim=16, hidden=(128,)), ContrastiveConfig(label_aware="each", likelihood_weight=1.0)
    config = Config(epochs=epochs, classifier_epochs=3, head=head, contrastive=contrastive, seed=seed)
    model = ProbMCL("convnet", config=config, width=width).fit(data, out / "probmcl")
    mixtures = model.mixtures(data.test)
    points = (mixtures.log_weights.exp()[..., None] * mixtures.means).sum(dim=1).double().numpy()
    labels = np.array(data.test.labels, dtype=np.float64)
    share = labels / labels.sum(axis=1, keepdims=True)  # an image with few labels says more about each of them
    means = (share.T @ points) / share.sum(axis=0)[:, None]
    plane = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)[2][:axes]
    places = points @ plane.T
    np.savez(out / "points.npz", places=places, share=share)

    reduced = {}
    before = {}
    for number, name in enumerate(data.label_names):
        rows = np.flatnonzero(share[:, number])
        whole = GaussianMixture.from_kde(places[rows], weights=share[rows, number])
        before[name] = len(whole)
        reduced[name] = reduce(whole, min(components, len(whole)), "runnalls").mixture
        reduced[name].save(out / "mixtures" / f"{name}.json")
    draw(reduced, out / "picture.png")
    angles = pairwise_distances(list(reduced.values()))
    same = np.array([[any(a in g and b in g for g in GROUPS) for b in range(10)] for a in range(10)])
    half = len(labels) // 2
    chances = model.predict_proba(data.test).numpy()
    sets = ConformalSets.fit(chances[:half], labels[:half], level=0.9, guarantee="set")
    covered = sets.measure(chances[half:], labels[half:])
    result = {
        "groups": groups(model.embed(data.test).numpy(), labels, len(GROUPS)),
        "whole_sets": covered.whole_set,
        "labels_in_a_set": covered.mean_size,
        "mean_ap": model.evaluate(data.test).mean_ap,
        "components": {name: [before[name], len(mixture)] for name, mixture in reduced.items()},
        "angles": angles.tolist(),
        "angle_within_groups": float(angles[same & ~np.eye(10, dtype=bool)].mean()),
        "angle_between_groups": float(angles[~same].mean()),
    }
    files.write_text(out / "result.json", json.dumps(result, indent=2) + "\n")
    print(f"mAP {100 * result['mean_ap']:.1f} %; from {sum(before.values())} components to {components} a label")
    print(
        f"angles: {result['angle_within_groups']:.2f} rad within the groups of digits that occur together, "
        f"{result['angle_between_groups']:.2f} rad between them"
    )
    print(f"one Gaussian per label, merged to {len(GROUPS)}: {', '.join(result['groups'])}")
    print(f"conformal sets: {100 * covered.whole_set:.1f} % hold all labels, on average {covered.mean_size:.1f} labels")


if __name__ == "__main__":
    tyro.cli(main)
