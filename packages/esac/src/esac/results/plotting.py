"""Figures of runs: learning curves over seeds, winners, sigma, gradient schedule, updates and scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sextet_common import text
from sextet_common.errors import STRUCTURE, InputError, reading
from sextet_common.figures import COLOURS, figure_file

from esac.results.records import LARGEST, Folder, Labels, Record, XAxis, grouped, read, seeds_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AXES = {"steps": "environment steps", "seconds": "seconds of learning", "cpu_seconds": "processor seconds"}
_ORIGINS = {"mean": COLOURS[0], "crossed": COLOURS[3], "sac": COLOURS[1]}
_DASHES = ("-", "--", ":", "-.")  # the next one when all colours are used
_BINS = 60  # of the winners' shares: one generation has only a few winners


def learning_curves(folders: Sequence[Folder], path: Folder, axis: XAxis = "steps", label: Labels = None) -> Figure:
    """Draw evaluation returns, a panel per environment: means over seeds with a 95 % bootstrap band.

    Runs of one environment and label are seeds of one curve. The curve covers the range in which all of them have been
    evaluated; between evaluations the last one counts.

    Parameters
    ----------
    folders, label
        As for `esac.results.records.read`.
    path
        The PNG file.
    axis
        "steps" of the environment, "seconds" of learning, or "cpu_seconds" of the learner's process. Files of
        Stable-Baselines3 have steps only.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "evaluations.npz", timesteps=[100, 200], results=[[1.0, 3.0], [4.0, 4.0]])
    >>> figure = learning_curves([folder], folder / "curves.png")
    >>> figure.axes[0].get_xlabel(), (folder / "curves.png").exists()
    ('environment steps', True)
    """
    if axis not in _AXES:
        raise InputError(f"axis {axis!r}", " or ".join(_AXES))
    records = read(folders, label)
    for record in records:
        if axis not in record.evaluations:
            raise InputError(f"{record.path} has no evaluations by {axis}", "evaluated runs, or axis='steps'")
    return _draw_curves(records, path, axis)


def winners(folder: Folder, path: Folder) -> Figure:
    """Draw the shares of the winners' origins over environment steps; many generations are pooled into 60 bins."""
    return _draw_runs(read([folder]), path, "winners")


def sigma(folder: Folder, path: Folder) -> Figure:
    """Draw the standard deviation of the mutations over environment steps."""
    return _draw_runs(read([folder]), path, "sigma")


def schedule(folder: Folder, path: Folder) -> Figure:
    """Draw the probability of gradient-based learning, or its share of the time, and the updates over steps."""
    return _draw_runs(read([folder]), path, "schedule")


def scaling(table: Mapping[str, Any], path: Folder) -> Figure:
    """Draw the time of a generation by number of workers: predicted as a line, measured as points.

    The table is that of `esac.scaling.scaling_table`; ``here`` may be missing.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "scaling.png"
    >>> _ = scaling({"workers": [1, 2, 4], "predicted": [4.0, 2.0, 1.1], "measured": {"1": 4.1, "2": 2.2}}, path)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    with reading("the scaling table", "workers and predicted of one length, measured {workers: seconds}", *STRUCTURE):
        lines = [(np.array(table["workers"], dtype=np.float64), np.array(table["predicted"], dtype=np.float64))]
        for name in ("measured", "here"):
            pairs = sorted((float(n), float(seconds)) for n, seconds in table.get(name, {}).items())
            lines.append((np.array([n for n, _ in pairs]), np.array([seconds for _, seconds in pairs])))
        values = np.concatenate([np.stack(line).ravel() for line in lines])
        if lines[0][0].ndim != 1 or not len(lines[0][0]) or not ((values > 0) & (values < LARGEST)).all():
            raise ValueError("all numbers must be > 0")
    with figure_file(path, (6.0, 3.6)) as figure:
        from matplotlib.ticker import LogLocator, NullLocator

        axis = figure.subplots()
        axis.plot(*lines[0], color=COLOURS[0], label="predicted, one core per worker")
        axis.plot(*lines[1], "o", color=COLOURS[1], markersize=8, fillstyle="none", label="measured, this machine")
        if len(lines[2][0]):
            axis.plot(*lines[2], "x", color=COLOURS[0], label="predicted, this machine")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), minor_locator=NullLocator(), major_formatter="{x:g}")
        axis.set(xlabel="workers", ylabel="seconds per generation")
        axis.legend(frameon=False)
    return figure


def updates(folders: Sequence[Folder], path: Folder, label: Labels = None) -> Figure:
    """Draw the number of gradient updates, a panel per environment: means over seeds as bars, each seed as a dot."""
    records = read(folders, label)
    for record in records:
        if not record.rows:
            raise InputError(f"{record.path} has no metrics.jsonl", "runs of esac train")
    return _draw_updates(records, path)


def _draw_updates(records: Sequence[Record], path: Folder) -> Figure:
    styles, environments = _styles(records), grouped(records)
    with _panels(path, list(environments)) as (figure, axes):
        for axis, groups in zip(axes, environments.values(), strict=True):
            for place, (name, group) in enumerate(groups.items()):
                # runs of mode es make no updates and lack the metric
                values = [float(np.nanmax(np.append(record.column("sac/updates"), 0.0))) for record in group]
                mean = float(np.mean(values))
                axis.bar(place, mean, width=0.6, color=styles[name][0], alpha=0.6)
                above = (place, max(values))
                axis.annotate(f"{mean:,.0f}", above, (0, 5), textcoords="offset points", ha="center", fontsize=8)
                axis.plot([place] * len(values), values, ".", color="black", markersize=4)
            axis.set_xticks(range(len(groups)), [text.label(name) for name in groups])
            axis.set_xlim(-0.7, len(groups) - 0.3)
            axis.margins(y=0.15)  # room for the numbers
            axis.grid(visible=False, axis="x")
            axis.set_ylabel("gradient updates")
            axis.yaxis.set_major_formatter(_short())
    return figure


def draw_all(folders: Sequence[Folder], out: Folder, label: Labels = None) -> list[Path]:
    """Draw all figures that run folders have data for into the folder `out`, and return their paths.

    These are curves-steps.png, curves-seconds.png, updates.png, and with a panel per run winners.png, sigma.png and
    schedule.png. A run is left out of the figures for which it has no data.
    """
    records = read(folders, label)
    drawn = []
    axis: XAxis
    for axis in ("steps", "seconds"):
        if shown := [record for record in records if axis in record.evaluations]:
            drawn.append(Path(out) / f"curves-{axis}.png")
            _draw_curves(shown, drawn[-1], axis)
    if shown := [record for record in records if record.has("sac/updates")]:
        drawn.append(Path(out) / "updates.png")
        _draw_updates(shown, drawn[-1])
    for kind, (names, _) in _KINDS.items():
        if shown := [record for record in records if record.has(*names)]:
            drawn.append(Path(out) / f"{kind}.png")
            _draw_runs(shown, drawn[-1], kind)
    return drawn


def _draw_curves(records: Sequence[Record], path: Folder, axis: XAxis) -> Figure:
    styles, groups = _styles(records), grouped(records)
    with _panels(path, list(groups)) as (figure, axes):
        for panel, labels in zip(axes, groups.values(), strict=True):
            for name, group in labels.items():
                points, curve = seeds_curve(group, axis)
                colour, dash = styles[name]
                marker = "o" if len(points) == 1 else ""
                panel.plot(points, curve.mean, dash, marker=marker, color=colour, linewidth=1.4, label=text.label(name))
                panel.fill_between(points, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
            panel.set(xlabel=_AXES[axis], ylabel="return of evaluations")
            panel.xaxis.set_major_formatter(_short())
        _legend(figure)
    return figure


def _draw_runs(records: Sequence[Record], path: Folder, kind: str) -> Figure:
    """Draw one kind of figure, a panel per run."""
    names, draw = _KINDS[kind]
    for record in records:
        if not record.has(*names):
            raise InputError(f"{record.path} has no {' or '.join(names)} in its metrics.jsonl", "a run that has them")
    titles = [f"{r.env}, {r.label}" + ("" if r.seed is None else f", seed {r.seed}") for r in records]
    with _panels(path, titles) as (figure, axes):
        for axis, record in zip(axes, records, strict=True):
            steps, known = record.steps()
            draw(axis, steps, {name: record.column(name)[known] for name in (*names, "sac/updates")})
            axis.set_xlabel(_AXES["steps"])
            axis.xaxis.set_major_formatter(_short())
        _legend(figure)
    return figure


def _draw_winners(axis: Axes, steps: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    counts = np.nan_to_num(np.stack([columns[f"pop/winner_origin/{origin}"] for origin in _ORIGINS]))
    bins = np.array_split(np.arange(len(steps)), min(len(steps), _BINS))
    edges = np.array([0.0, *(steps[each[-1]] for each in bins)])
    sums = np.stack([counts[:, each].sum(axis=1) for each in bins], axis=1)
    shares = np.divide(sums, sums.sum(axis=0), out=np.zeros_like(sums), where=sums.sum(axis=0) > 0)
    shares = np.hstack([shares, shares[:, -1:]])  # a step extends to the start of the next one
    axis.stackplot(edges, shares, labels=list(_ORIGINS), colors=list(_ORIGINS.values()), step="post", linewidth=0)
    axis.margins(x=0)
    axis.set(ylim=(0, 1), ylabel="share of winners")
    axis.yaxis.set_major_formatter("{x:.0%}")


def _draw_sigma(axis: Axes, steps: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    axis.plot(steps, columns["es/sigma"], color=COLOURS[0], linewidth=1.4)
    axis.set_ylabel("standard deviation of mutations")


def _draw_schedule(axis: Axes, steps: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    annealed = np.isfinite(columns["sac/p"]).any()
    drawn, updates = columns["sac/p" if annealed else "sac/share"], columns["sac/updates"]
    known = np.isfinite(drawn)
    axis.plot(steps[known], drawn[known], color=COLOURS[0], linewidth=1.4)
    axis.set_ylim(0, 1.05)  # a probability of 1 stays visible
    axis.set_ylabel("probability of gradients" if annealed else "gradients' share of the time", color=COLOURS[0])
    other = axis.twinx()
    other.plot(steps, updates, color=COLOURS[1], linewidth=1.4, drawstyle="steps-post")
    other.set_ylim(bottom=0)
    other.set_ylabel("gradient updates", color=COLOURS[1])
    other.yaxis.set_major_formatter(_short())
    other.grid(visible=False)


_KINDS = {  # a run needs one of these metrics
    "winners": (tuple(f"pop/winner_origin/{origin}" for origin in _ORIGINS), _draw_winners),
    "sigma": (("es/sigma",), _draw_sigma),
    "schedule": (("sac/p", "sac/share"), _draw_schedule),
}


@contextmanager
def _panels(path: Folder, titles: Sequence[str]) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure with a panel per title, at most three in a row, and save it at the end."""
    columns = min(3, len(titles))
    rows = math.ceil(len(titles) / columns)
    with figure_file(path, (6.0 if columns == 1 else 4.0 * columns, 3.4 * rows)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for rest in axes[len(titles) :]:
            rest.remove()
        for axis, title in zip(axes, titles, strict=False):
            axis.set_title(text.label(title), loc="left", fontsize=9)
        yield figure, axes[: len(titles)]


def _legend(figure: Figure) -> None:
    """Add one legend for all panels below them."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    if handles:
        columns = min(4, len(handles))
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns, frameon=False)


def _styles(records: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Return colour and dash of each label, the same in all panels."""
    labels = dict.fromkeys(record.label for record in records)
    count = len(COLOURS)
    return {name: (COLOURS[k % count], _DASHES[k // count % len(_DASHES)]) for k, name in enumerate(labels)}


def _short() -> Any:
    """Return a formatter that writes 200000 as 200k."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")
