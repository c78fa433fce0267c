"""The commands of `gmr-metric`: reduce a mixture, compare mixtures and methods, estimate a density."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from sextet_common import cli, files
from sextet_common.errors import InputError

from gmr_metric.density import storage
from gmr_metric.density.kinds import CovarianceType
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances import metrics
from gmr_metric.reduction import api

_Components = Annotated[int | None, tyro.conf.arg(aliases=["-k"])]
_File = tyro.conf.Positional[Path]
_Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
_QUICK = 5.0  # seconds; faster methods are timed again


def reduce(
    mixture: _File,
    /,
    n_components: _Components = None,
    method: str = "oggmr",
    max_distance: float | None = None,
    option: _Repeated = (),
    levels: str = "",
    out: Path | None = None,
    trace: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Reduce a mixture; without --out, print the result as JSON.

    Parameters
    ----------
    mixture
        The mixture's .json, .npz or .safetensors file, a folder of export, or OWNER/NAME on the Hub.
    n_components
        The largest number of components to keep.
    method
        prune, threshold, salmond, west, williams, runnalls, cowa, gmrc, ctd, brute-force or oggmr.
    max_distance
        The largest angle to the original, in radians: keep the fewest components within it.
    option
        An option of the method, NAME=VALUE; may be repeated.
    levels
        Several numbers of components, separated by commas, instead of one, from one run of a method that only merges:
        runnalls, salmond, west, williams, or oggmr with the option refine=none. A file is written for each, such as
        NAME-100.npz if --out is NAME.npz; trace, plot and what is printed are those of the fewest.
    out
        File for the reduced mixture, .json, .npz or .safetensors.
    trace
        File for the components' assignment and the method's steps, as JSON.
    plot
        File for a picture, .png.
    """
    _check_suffix(out, *storage.SUFFIXES)
    _check_suffix(plot, ".png")
    if plot is not None:
        cli.require_extra("gmr-metric", "plot")
    options = _options(option)
    counts = _levels(levels, n_components, max_distance, method, options, out)
    original = _load(mixture)
    if counts and counts[0] > len(original):
        raise InputError(f"level {counts[0]} of {len(original)} components", f"1 to {len(original)}")
    fewest = counts[-1] if counts else n_components
    reduction = api.reduce(original, fewest, method, max_distance=max_distance, **options)
    if out is None:
        arrays = {name: getattr(reduction.mixture, name) for name in ("weights", "means", "covariances")}
        print(storage.to_json(arrays))
    else:
        mixtures = {out.with_stem(f"{out.stem}-{count}"): reduction.cut(count).mixture for count in counts}
        for path, level in (mixtures or {out: reduction.mixture}).items():
            with _writing(path):
                level.save(path)
    if trace is not None:
        steps = [step._asdict() for step in reduction.history]
        table = {"assignment": reduction.assignment.tolist(), "distance": reduction.distance, "history": steps}
        with _writing(trace):
            files.write_text(trace, json.dumps(table) + "\n")
    if plot is not None:
        from gmr_metric.plotting import plot_reduction

        with _writing(plot):
            plot_reduction(reduction, plot)
    if out is not None:
        sizes = f"{len(original)} components to {len(reduction.mixture)}"
        ise = metrics.distance(original, reduction.mixture, "ise")
        numbers = f"angle {reduction.distance:.6g}, ISE {ise:.6g}, {reduction.seconds:.3g} s"
        written = ", ".join(str(path) for path in (*(mixtures or (out,)), trace, plot) if path is not None)
        print(f"{sizes}: {numbers}; {written}")


def export(mixture: _File, /, to: Path, license: str = "unknown") -> None:
    """Write a mixture as a folder for the Hugging Face Hub: a model card and the arrays.

    Parameters
    ----------
    mixture
        The mixture's .json, .npz or .safetensors file.
    to
        The folder, new or empty.
    license
        The Hub's identifier of the licence, such as mit.
    """
    from gmr_metric.interop.hub import export_hub

    export_hub(_load(mixture), to, license=license)
    print(to)


def distance(first: _File, second: _File, /, metric: str = "angle", samples: int = 10_000) -> None:
    """Print the distance between two mixtures.

    Parameters
    ----------
    first, second
        The mixtures, as for reduce.
    metric
        angle, chord, sine, l2, ise, nise, cauchy-schwarz, mw2, kl, or all of them.
    samples
        Number of samples for kl.
    """
    f, g = _load(first), _load(second)
    for name in metrics.available_metrics() if metric == "all" else (metric,):
        if name == "kl":
            estimate = metrics.kl_divergence(f, g, samples=samples)
            print(f"kl {estimate.value:.6g} +- {estimate.standard_error:.2g} (standard error)")
        else:
            note = ""
            if name in metrics.WITH_ERROR:
                value, error = metrics.distance(f, g, name, return_error=True)
                note = f" (below its rounding error of {error:.1g})" if value < error else ""
            else:
                value = metrics.distance(f, g, name)
            print((f"{name} {value:.12g}" if metric == "all" else f"{value:.12g}") + note)


def compare(
    mixture: _File,
    /,
    n_components: Annotated[int, tyro.conf.arg(aliases=["-k"])],
    methods: str = "",
    samples: int = 10_000,
    json_out: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    plot: Path | None = None,
) -> None:
    """Reduce a mixture by all methods, and print the angle, ISE, KL and seconds of each.

    Parameters
    ----------
    mixture
        The mixture's .json, .npz or .safetensors file, a folder of export, or OWNER/NAME on the Hub.
    n_components
        The largest number of components to keep.
    methods
        Only these methods, separated by commas; all by default.
    samples
        Number of samples for the Kullback-Leibler divergence.
    json_out
        File for the table, as JSON.
    plot
        File for a picture, .png.
    """
    _check_suffix(plot, ".png")
    if plot is not None:
        cli.require_extra("gmr-metric", "plot")
    chosen = tuple(methods.split(",")) if methods else api.available_methods()
    for method in chosen:
        api.check_method(method)
    original = _load(mixture)
    rows: list[dict[str, Any]] = []
    errors: list[InputError] = []
    for method in chosen:
        try:
            reduction = api.reduce(original, n_components, method)
        except InputError as error:
            errors.append(error)
            rows.append({"method": method, "error": str(error)})
        else:
            rows.append(_row(method, n_components, reduction, samples))
    if len(errors) == len(rows):  # nothing to compare
        raise errors[0]
    rows.sort(key=lambda row: row.get("angle", np.inf))
    _print_table(rows)
    if json_out is not None:
        with _writing(json_out):
            files.write_text(json_out, json.dumps(rows, indent=1) + "\n")
    if plot is not None:
        from gmr_metric.plotting import plot_comparison

        drawn = {row["method"]: (row["angle"], row["seconds"]) for row in rows if "angle" in row}
        title = f"{len(original)} components in {original.dim} dimensions, to {n_components}"
        with _writing(plot):
            plot_comparison(drawn, plot, title=title)


def convert(mixture: _File, /, to: Path, covariance_type: CovarianceType | None = None) -> None:
    """Write a mixture in another format, or with another type of covariances.

    Parameters
    ----------
    mixture
        The mixture, as for reduce.
    to
        File for the result, .json, .npz or .safetensors.
    covariance_type
        full, diag or spherical; unchanged by default. The result is exact from spherical over diag to full, and keeps
        only the variances, or their mean, the other way.
    """
    _check_suffix(to, *storage.SUFFIXES)
    loaded = _load(mixture)
    converted = loaded.convert(covariance_type or loaded.covariance_type)
    with _writing(to):
        converted.save(to)
    print(f"{len(converted)} components in {converted.dim} dimensions, {converted.covariance_type}; {to}")


def kde(samples: _File, /, out: Path, bandwidth: str = "scott", covariance_type: CovarianceType = "full") -> None:
    """Estimate a density from samples, as a mixture with a Gaussian at each.

    Parameters
    ----------
    samples
        A .csv file of numbers, with or without a header line, or a .npy file; one sample per row.
    out
        File for the mixture, .json, .npz or .safetensors.
    bandwidth
        scott, silverman, or a factor of the samples' standard deviations.
    covariance_type
        Of the kernel: full, diag or spherical.
    """
    _check_suffix(out, *storage.SUFFIXES)
    chosen = _bandwidth(bandwidth, "scott", "silverman")
    mixture = GaussianMixture.from_kde(storage.read_samples(samples), chosen, covariance_type=covariance_type)
    with _writing(out):
        mixture.save(out)
    print(f"{len(mixture)} components in {mixture.dim} dimensions; {out}")


def stream(
    samples: _File,
    /,
    out: Path,
    n_components: _Components = None,
    forgetting: float | None = None,
    bandwidth: str | None = None,
    method: str | None = None,
    state: Path | None = None,
) -> None:
    """Estimate the density of a stream of samples in bounded memory, as a mixture.

    Parameters
    ----------
    samples
        A .csv file of numbers, with or without a header line, or a .npy file, one sample per row, read in parts; - for
        a CSV on standard input.
    out
        File for the mixture, .json, .npz or .safetensors.
    n_components
        The largest number of components, 50 by default.
    forgetting
        The half-life of a sample's weight, in samples; by default all have the same weight.
    bandwidth
        predictive (the default), scott, silverman, or a factor of the samples' standard deviations.
    method
        The method of reduction, oggmr by default.
    state
        File for the state, .npz or .safetensors. If it exists, the estimate continues from it, with its settings.
    """
    from gmr_metric.streaming import STATES, StreamingDensity

    _check_suffix(out, *storage.SUFFIXES)
    _check_suffix(state, *STATES)
    chosen = {"n_components": n_components, "forgetting": forgetting, "bandwidth": bandwidth, "method": method}
    settings: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    if bandwidth is not None:
        settings["bandwidth"] = _bandwidth(bandwidth, "predictive", "scott", "silverman")
    if state is not None and state.exists():
        density = StreamingDensity.load(state)
        for name, value in settings.items():
            if getattr(density, name) != value:
                raise InputError(f"{name} is {value}, but {getattr(density, name)} in {state}", "the same, or none")
    else:
        density = StreamingDensity(**settings)
    for chunk in storage.sample_chunks(samples):
        density.update(chunk)
    with _writing(out):
        density.mixture.save(out)
    if state is not None:
        density.save(state)
    print(f"{density.n_seen} samples, {len(density.mixture)} components in {density.mixture.dim} dimensions; {out}")


def belief(
    graph: _File,
    /,
    out: Path,
    n_components: _Components = 20,
    tolerance: float | None = None,
    method: str = "runnalls",
    damping: float = 0.0,
    max_iterations: int = 50,
    convergence: float = 1e-3,
) -> None:
    """Pass messages over a graph of variables; write the belief of each variable as a mixture.

    Parameters
    ----------
    graph
        A .json file of potentials: unary, measurement, linear, joint and range; see the guide.
    out
        Folder for the beliefs, one .json file for each variable.
    n_components
        The largest number of components of a product of messages.
    tolerance
        The largest angle between a product and its reduction, in radians, as long as n-components suffice.
    method
        The method of reduction.
    damping
        The share of the previous message that a new one keeps, on graphs with cycles.
    max_iterations
        The largest number of iterations on graphs with cycles.
    convergence
        On graphs with cycles, stop when no belief moves by more than this angle, in radians.
    """
    from gmr_metric.belief import BeliefPropagation, read_graph, write_beliefs

    propagation = BeliefPropagation(
        n_components,
        tolerance,
        method,
        damping=damping,
        max_iterations=max_iterations,
        convergence=convergence,
    )
    beliefs = propagation.run(read_graph(graph))
    write_beliefs(beliefs, out)
    for name, mixture in beliefs.mixtures.items():
        place = " ".join(f"{value:.6g}" for value in mixture.mean())
        print(f"{name}: {len(mixture)} components, mean {place}")
    print(f"iterations: {beliefs.iterations}, {'' if beliefs.converged else 'not '}converged; {out}")


def _bandwidth(word: str, *rules: str) -> str | float:
    try:
        return word if word in rules else float(word)
    except ValueError:
        raise InputError(f"bandwidth is {word!r}", f"{', '.join(rules)} or a number > 0") from None


def _levels(
    words: str,
    n_components: int | None,
    max_distance: float | None,
    method: str,
    options: dict[str, Any],
    out: Path | None,
) -> list[int]:
    """Read the numbers of components, descending; refuse what does not go with them."""
    if not words:
        return []
    if not all(word.isdecimal() and int(word) for word in words.split(",")):
        raise InputError(f"levels are {words!r}", "whole numbers >= 1, separated by commas")
    if out is None or n_components is not None or max_distance is not None:
        raise InputError("levels without a file, or with another number of components", "--levels and --out alone")
    if method in api.BUILT_IN and not api.merges_alone(method, options):
        raise InputError(f"levels of {method}", api.MERGING)
    return sorted({int(word) for word in words.split(",")}, reverse=True)


def splats(scene: _File, out: _File, /, keep: str = "10%", levels: str = "") -> None:
    """Write a scene of 3-D Gaussian splats with fewer of them that look much the same.

    Parameters
    ----------
    scene
        The scene's .ply file.
    out
        The new .ply file; with --levels, one file for each, such as OUT-10pct.ply.
    keep
        Splats to keep: a percentage (10%), a share up to 1 with its point (0.1), or a number (5000).
    levels
        Several of these, separated by commas, from one run.
    """
    _check_suffix(out, ".ply")
    from gmr_metric.interop.splats import Splats, levels_of_detail

    words = [word.strip() for word in (levels or keep).split(",")]
    original = Splats.load(scene)
    for word, level in zip(words, levels_of_detail(original, [_share(word) for word in words]), strict=True):
        target = out.with_stem(f"{out.stem}-{word.replace('%', 'pct')}") if levels else out
        with _writing(target):
            level.save(target)
        print(f"{len(original)} splats to {len(level)}; {target}")


def _share(word: str) -> float:
    """Read a percentage, a share or a number of splats."""
    try:
        if word.endswith("%"):
            return float(word[:-1]) / 100
        return int(word) if word.isdigit() else float(word)
    except ValueError:
        raise InputError(f"keep is {word!r}", "a percentage (10%), a share (0.1) or a number (5000)") from None


def _load(path: Path) -> GaussianMixture:
    """Load a mixture from a file, or from a folder or repository of the Hub."""
    is_file = path.is_file() or path.suffix in storage.SUFFIXES
    return GaussianMixture.load(path) if is_file else GaussianMixture.from_pretrained(path)


def _row(method: str, n_components: int, reduction: api.Reduction, samples: int) -> dict[str, Any]:
    """Return one row of the comparison."""
    original, seconds = reduction.original, reduction.seconds
    if seconds < _QUICK:  # the first call of a method may also compile or load what it needs
        seconds = min(seconds, api.reduce(original, n_components, method).seconds)
    kl = metrics.kl_divergence(original, reduction.mixture, samples=samples)
    return {
        "method": method,
        "angle": reduction.distance,
        "ise": metrics.distance(original, reduction.mixture, "ise"),
        "kl": kl.value,
        "kl_error": kl.standard_error,
        "seconds": seconds,
        "components": len(reduction.mixture),
    }


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'method':<12} {'angle':>10} {'ISE':>10} {'KL':>10} {'+-':>8} {'seconds':>9}  components")
    for row in rows:
        if "error" in row:
            print(f"{row['method']:<12} {row['error']}")
            continue
        numbers = f"{row['angle']:>10.4g} {row['ise']:>10.4g} {row['kl']:>10.4g} {row['kl_error']:>8.1g}"
        print(f"{row['method']:<12} {numbers} {row['seconds']:>9.3g}  {row['components']}")


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE; values are JSON, or plain words."""
    options: dict[str, Any] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not mark or not name.isidentifier():
            raise InputError(f"option {word!r}", "NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except (ValueError, RecursionError):
            options[name] = value
    return options


def _check_suffix(path: Path | None, *suffixes: str) -> None:
    """Refuse a file of another kind before the work rather than after it."""
    if path is not None and path.suffix not in suffixes:
        raise InputError(f"{path} has an unknown suffix", " or ".join(suffixes))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Name the file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}", "a writable path") from error
