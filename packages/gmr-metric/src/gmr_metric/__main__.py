"""The command `gmr-metric`: reduce a mixture, compare methods and mixtures, estimate a density."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from sextet_common import cli, files, npy
from sextet_common.errors import InputError, reading

from gmr_metric.distances.metrics import available_metrics, distance, kl_divergence
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.reduction.api import Reduction, available_methods
from gmr_metric.reduction.api import reduce as reduce_mixture

_Components = Annotated[int | None, tyro.conf.arg(aliases=["-k"])]
_File = tyro.conf.Positional[Path]
_Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
_QUICK = 5.0  # seconds; a method that took less is timed again


def reduce(
    mixture: _File,
    /,
    n_components: _Components = None,
    method: str = "oggmr",
    max_distance: float | None = None,
    option: _Repeated = (),
    out: Path | None = None,
    trace: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Reduce a mixture; without --out its JSON goes to the standard output.

    Parameters
    ----------
    mixture
        The mixture's .json or .npz file.
    n_components
        How many components to keep at most.
    method
        prune, threshold, salmond, west, williams, runnalls, cowa, gmrc, ctd, brute-force or oggmr.
    max_distance
        The largest angle to the original, in radians: the fewest components within it are kept.
    option
        An option of the method's own, NAME=VALUE; once for each.
    out
        Where the reduced mixture goes, .json or .npz.
    trace
        Where the components' assignment and the method's steps go, as JSON.
    plot
        Where a picture goes, .png.
    """
    _check_ending(out, ".json", ".npz")
    _check_ending(plot, ".png")
    original = GaussianMixture.load(mixture)
    found = reduce_mixture(original, n_components, method, max_distance=max_distance, **_options(option))
    if out is None:
        arrays = {name: getattr(found.mixture, name).tolist() for name in ("weights", "means", "covariances")}
        print(json.dumps({"format": "gmr-metric mixture", "version": 1, **arrays}))
    else:
        with _writing(out):
            found.mixture.save(out)
    if trace is not None:
        steps = [step._asdict() for step in found.history]
        table = {"assignment": found.assignment.tolist(), "distance": found.distance, "history": steps}
        with _writing(trace):
            files.write_text(trace, json.dumps(table) + "\n")
    if plot is not None:
        from gmr_metric.plotting import plot_reduction

        with _writing(plot):
            plot_reduction(found, plot)
    if out is not None:
        kept = f"{len(original)} components to {len(found.mixture)}"
        ise = distance(original, found.mixture, "ise")
        written = ", ".join(str(path) for path in (out, trace, plot) if path is not None)
        print(f"{kept}: angle {found.distance:.6g}, ISE {ise:.6g}, {found.seconds:.3g} s; {written}")


def distance_between(first: _File, second: _File, /, metric: str = "angle", samples: int = 10_000) -> None:
    """Print the distance between two mixtures.

    Parameters
    ----------
    first, second
        The mixtures' .json or .npz files.
    metric
        angle, chord, sine, l2, ise, nise, cauchy-schwarz, mw2, kl, or all of them.
    samples
        How many samples kl draws.
    """
    f, g = GaussianMixture.load(first), GaussianMixture.load(second)
    for name in available_metrics() if metric == "all" else (metric,):
        if name == "kl":
            estimate = kl_divergence(f, g, samples=samples)
            print(f"kl {estimate.value:.6g} +- {estimate.standard_error:.2g} (standard error)")
        else:
            value = distance(f, g, name)
            print(f"{name} {value:.12g}" if metric == "all" else f"{value:.12g}")


def compare(
    mixture: _File,
    /,
    n_components: Annotated[int, tyro.conf.arg(aliases=["-k"])],
    methods: str = "",
    samples: int = 10_000,
    json_out: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    plot: Path | None = None,
) -> None:
    """Reduce a mixture by all methods, and show the angle, ISE, KL and seconds of each.

    Parameters
    ----------
    mixture
        The mixture's .json or .npz file.
    n_components
        How many components to keep at most.
    methods
        Only these methods, with commas between them; all where not given.
    samples
        How many samples the Kullback-Leibler divergence draws.
    json_out
        Where the table goes, as JSON.
    plot
        Where a picture goes, .png.
    """
    _check_ending(plot, ".png")
    chosen = tuple(methods.split(",")) if methods else available_methods()
    for method in chosen:
        if method not in available_methods():
            raise InputError(f"method {method!r} is unknown", ", ".join(available_methods()))
    original = GaussianMixture.load(mixture)
    rows: list[dict[str, Any]] = []
    complaints: list[InputError] = []
    for method in chosen:
        try:
            found = reduce_mixture(original, n_components, method)
        except InputError as error:
            complaints.append(error)
            rows.append({"method": method, "error": str(error)})
        else:
            rows.append(_row(original, method, n_components, found, samples))
    if len(complaints) == len(rows):  # nothing to compare
        raise complaints[0]
    rows.sort(key=lambda row: row.get("angle", np.inf))
    print(f"{'method':<12} {'angle':>10} {'ISE':>10} {'KL':>10} {'+-':>8} {'seconds':>9}  components")
    for row in rows:
        if "error" in row:
            print(f"{row['method']:<12} {row['error']}")
            continue
        numbers = f"{row['angle']:>10.4g} {row['ise']:>10.4g} {row['kl']:>10.4g} {row['kl_error']:>8.1g}"
        print(f"{row['method']:<12} {numbers} {row['seconds']:>9.3g}  {row['components']}")
    if json_out is not None:
        with _writing(json_out):
            files.write_text(json_out, json.dumps(rows, indent=1) + "\n")
    if plot is not None:
        from gmr_metric.plotting import plot_comparison

        drawn = {row["method"]: (row["angle"], row["seconds"]) for row in rows if "angle" in row}
        title = f"{len(original)} components in {original.dim} dimensions, to {n_components}"
        with _writing(plot):
            plot_comparison(drawn, plot, title=title)


def kde(samples: _File, /, out: Path, bandwidth: str = "scott") -> None:
    """Estimate a density from samples, as a mixture with a Gaussian at each.

    Parameters
    ----------
    samples
        A .csv file of numbers with or without a line of names, or a .npy file, one sample a row.
    out
        Where the mixture goes, .json or .npz.
    bandwidth
        scott, silverman, or the factor of the samples' standard deviations.
    """
    _check_ending(out, ".json", ".npz")
    chosen: str | float = bandwidth
    if bandwidth not in ("scott", "silverman"):
        try:
            chosen = float(bandwidth)
        except ValueError:
            raise InputError(f"bandwidth is {bandwidth!r}", "scott, silverman or a number > 0") from None
    mixture = GaussianMixture.from_kde(_samples(samples), chosen)
    with _writing(out):
        mixture.save(out)
    print(f"{len(mixture)} components in {mixture.dim} dimensions; {out}")


def _row(original: GaussianMixture, method: str, n_components: int, found: Reduction, samples: int) -> dict[str, Any]:
    """Return what the comparison shows of one reduction."""
    seconds = found.seconds
    if seconds < _QUICK:  # the first call of a method may also compile or load what it needs
        seconds = min(seconds, reduce_mixture(original, n_components, method).seconds)
    kl = kl_divergence(original, found.mixture, samples=samples)
    return {
        "method": method,
        "angle": found.distance,
        "ise": distance(original, found.mixture, "ise"),
        "kl": kl.value,
        "kl_error": kl.standard_error,
        "seconds": seconds,
        "components": len(found.mixture),
    }


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE, the value as JSON where it is that, else as a word."""
    options: dict[str, Any] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not mark or not name.isidentifier():
            raise InputError(f"option {word!r}", "NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def _check_ending(path: Path | None, *endings: str) -> None:
    """Refuse a file of another kind before the work rather than after it."""
    if path is not None and path.suffix not in endings:
        raise InputError(f"{path} has no known ending", " or ".join(endings))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}", "a place for a file") from error


def _samples(path: Path) -> np.ndarray:
    """Read samples, one a row."""
    with reading(path, "a .csv or .npy file of numbers"):
        return _array(path) if path.suffix == ".npy" else _table(path)


def _array(path: Path) -> np.ndarray:
    found = npy.read_npy(path)
    if found.dtype.kind not in "biuf":
        raise ValueError(f"its numbers are {found.dtype}")
    return np.asarray(found[:, None] if found.ndim == 1 else found, dtype=np.float64)


def _table(path: Path) -> np.ndarray:
    """Read comma-separated numbers; a first line without any number holds the columns' names."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and not any(_is_number(word) for word in lines[0].split(",")):
        del lines[0]
    if not lines:
        raise ValueError("it holds no numbers")
    return np.loadtxt(lines, delimiter=",", ndmin=2)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    commands: dict[str, Callable[..., None]] = {
        "reduce": reduce,
        "distance": distance_between,
        "compare": compare,
        "kde": kde,
    }
    return cli.run("gmr-metric", commands, arguments)


if __name__ == "__main__":
    sys.exit(main())
