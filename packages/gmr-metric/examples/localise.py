"""Locate a network of sensors from noisy distances to four anchors and to each other, and draw the beliefs.

Most sensors hear no anchor or one, and one distance leaves a ring of places, so that beliefs have several modes until
the messages of neighbours rule them out. For the sensor that hears two others alone, two places remain. Run
``python examples/localise.py``; it writes localisation.png (extra ``plot``).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from gmr_metric import GaussianMixture
from gmr_metric.belief import BeliefPropagation, Linear, Model, Potential, Unary, ring
from sextet_common.figures import COLOURS, figure_file

REACH, DEVIATION = 3.4, 0.15  # m
draw = np.random.default_rng(4)
anchors = {f"anchor {k}": np.array(place) for k, place in enumerate([(1.0, 1.0), (9.0, 1.0), (1.0, 9.0), (9.0, 9.0)])}
cells = np.array(list(itertools.product((1.5, 4.0, 6.0, 8.5), (2.5, 5.0, 7.5))))
sensors = {f"sensor {k}": place for k, place in enumerate(cells + draw.uniform(-1, 1, size=cells.shape))}
sensors["hears two"] = np.array([0.3, 5.6])  # two places fit
places = {**anchors, **sensors}

area = GaussianMixture(np.ones(1), [[5.0, 5.0]], [16 * np.eye(2)])
graph: list[Potential] = [
    Unary(name, GaussianMixture([1.0], [place], [1e-4 * np.eye(2)])) for name, place in anchors.items()
]
graph += [Unary(name, area) for name in sensors]
links = []
for first, second in itertools.combinations(places, 2):
    true = float(np.linalg.norm(places[first] - places[second]))
    if true < REACH and second in sensors:
        measured = true + DEVIATION * draw.normal()
        links.append((first, second))
        offset = ring(measured, DEVIATION)
        if first in anchors:
            graph.append(Unary(second, offset.affine(np.eye(2), anchors[first])))
        else:
            graph.append(Linear(first, second, Model(np.eye(2), offset)))

method = BeliefPropagation(n_components=25, max_iterations=5, convergence=0.05)
beliefs = method.run(graph)
errors = {}
for name, place in sensors.items():
    means = beliefs[name].means
    errors[name] = float(np.linalg.norm(means[beliefs[name].pdf(means).argmax()] - place))
print(f"{len(links)} distances, {beliefs.iterations} iterations, {', '.join(f'{a:.3f}' for a in beliefs.history)} rad")
print(
    f"most likely places: median error {np.median(list(errors.values())):.2f} m; largest {max(errors.values()):.2f} m"
)

axis = np.linspace(-0.5, 10.5, 241)
grid = np.stack(np.meshgrid(axis, axis), axis=-1)
with figure_file(Path("localisation.png"), (6.4, 6.4)) as figure:
    axes = figure.subplots()
    for first, second in links:
        axes.plot(*np.transpose([places[first], places[second]]), color="0.85", linewidth=0.8, zorder=0)
    for number, (name, place) in enumerate(sensors.items()):
        colour = COLOURS[number % 5]
        density = beliefs[name].pdf(grid.reshape(-1, 2)).reshape(grid.shape[:2])
        ranked = np.sort(density.ravel())[::-1]
        levels = [ranked[np.searchsorted(np.cumsum(ranked) / ranked.sum(), share)] for share in (0.95, 0.5)]
        axes.contour(axis, axis, density, levels=levels, colors=colour, linewidths=1.2)
        axes.plot(*place, "x", color=colour, markersize=7)
    axes.plot(*np.transpose(list(anchors.values())), "k^", markersize=8, label="anchors")
    axes.plot([], [], "kx", label="true places")
    axes.plot([], [], "k-", linewidth=1.2, label="50 % and 95 % of a belief")
    axes.set(xlim=(-0.5, 10.5), ylim=(-0.5, 10.5), aspect="equal", xlabel="metres", ylabel="metres")
    axes.legend(loc="lower center", fontsize=8, ncols=3)
