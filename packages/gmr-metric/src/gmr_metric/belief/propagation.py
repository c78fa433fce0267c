"""Sum-product belief propagation with mixtures as messages.

On a graph without cycles, messages pass once in each direction, and beliefs are the marginals up to reductions. On
others, they are passed repeatedly (loopy belief propagation; for localisation see A. T. Ihler, J. W. Fisher,
R. L. Moses and A. S. Willsky, "Nonparametric belief propagation for self-localization of sensor networks", IEEE Journal
on Selected Areas in Communications 23, 2005).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sextet_common.checks import Count, NonNegative, Positive, ShareBelowOne, check_fields
from sextet_common.errors import InputError

from gmr_metric.belief import information
from gmr_metric.belief.information import Information
from gmr_metric.belief.potentials import Joint, Linear, Measurement, Unary
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction.api import check_method, reduce

Potential = Unary | Measurement | Linear | Joint
_Pair = Linear | Joint
_NEGLIGIBLE = 1e-3  # radians that dropping the least components may cost without a tolerance


@dataclass(frozen=True, eq=False)
class Beliefs:
    """The beliefs of all variables, and how they were reached.

    ``history`` holds, for each iteration on a graph with cycles, the largest angle between a variable's belief and the
    one before, in radians. Without cycles it is empty, and there is one iteration.
    """

    mixtures: Mapping[str, GaussianMixture]
    iterations: int
    converged: bool
    history: tuple[float, ...] = field(default=(), repr=False)

    def __getitem__(self, variable: str) -> GaussianMixture:
        return self.mixtures[variable]


@dataclass(frozen=True)
class BeliefPropagation:
    """Belief propagation with mixtures, whose products are reduced.

    Parameters
    ----------
    n_components
        The largest number of components of a product of messages and of a belief; None for no limit.
    tolerance
        The largest angle between such a product and its reduction, in radians, as long as ``n_components`` suffice;
        None to keep as many as these. With both None, nothing is reduced; without cycles the result is then exact.
    method, options
        A method of :func:`gmr_metric.reduce` and its options.
    damping
        The share of the previous message that a new one keeps, on graphs with cycles.
    max_iterations, convergence
        On graphs with cycles, stop after this many iterations, or when no belief moves by more than this angle.

    Examples
    --------
    A walk of two steps from 0 whose end is measured at 4:

    >>> from gmr_metric.models import Model
    >>> step = Model([[1.0]], [[1.0]])
    >>> start = GaussianMixture([1.0], [[0.0]], [[[1.0]]])
    >>> graph = [Unary("a", start), Linear("a", "b", step), Linear("b", "c", step), Measurement("c", step, [4.0])]
    >>> beliefs = BeliefPropagation().run(graph)
    >>> [beliefs[name].means.round(3).tolist() for name in "abc"]
    [[[1.0]], [[2.0]], [[3.0]]]
    """

    n_components: Count | None = 20
    tolerance: NonNegative | None = None
    method: str = "runnalls"
    options: Mapping[str, Any] = field(default_factory=dict)
    damping: ShareBelowOne = 0.0
    max_iterations: Count = 50
    convergence: Positive = 1e-3

    def __post_init__(self) -> None:
        check_fields(self)
        check_method(self.method)

    def run(self, potentials: Sequence[Potential]) -> Beliefs:
        """Return the beliefs of all variables of the potentials, in the order in which these name them.

        The order of the potentials is that of the messages; on a graph without cycles it changes reductions only.
        """
        graph = _Graph(self, potentials)
        order = graph.tree()
        if order is None:
            return self._loopy(graph)
        for pair, child, _ in reversed(order):
            graph.send(pair, child)
        for pair, _, parent in order:
            graph.send(pair, parent)
        return Beliefs({name: _proper(name, graph.density(name)) for name in graph.dims}, 1, True)

    def _loopy(self, graph: _Graph) -> Beliefs:
        history: list[float] = []
        beliefs: dict[str, GaussianMixture | None] = dict.fromkeys(graph.dims)
        while len(history) < self.max_iterations and not (history and history[-1] <= self.convergence):
            for number, pair in enumerate(graph.pairs):
                graph.send(number, next(iter(pair.dims)))
            for number, pair in reversed(list(enumerate(graph.pairs))):
                graph.send(number, list(pair.dims)[1])
            latest = {name: graph.density(name) for name in graph.dims}
            history.append(max(_change(beliefs[name], latest[name]) for name in latest))
            beliefs = latest
        converged = history[-1] <= self.convergence
        mixtures = {name: _proper(name, belief) for name, belief in beliefs.items()}
        return Beliefs(mixtures, len(history), converged, tuple(history))

    def reduced(self, message: Information) -> Information:
        """Return a message within the limits; what is no density stays as it is."""
        most = len(message.logs) if self.n_components is None else min(self.n_components, len(message.logs))
        if len(message.logs) == 1 or (self.tolerance is None and most == len(message.logs)):
            return message
        moments = information.to_moments(message)
        if moments is None or (self.tolerance == 0 and most == len(message.logs)):
            return message
        budget = _NEGLIGIBLE if self.tolerance is None else 0.1 * self.tolerance
        kept = _not_negligible(moments[0], moments[2], budget)
        logs, means, covariances = (array[kept] for array in moments)
        mixture = GaussianMixture(np.exp(logs), means, covariances, normalize=True)
        limit = None if self.tolerance is None else 0.9 * self.tolerance
        if limit is not None or most < len(mixture):
            count = min(most, len(mixture))
            mixture = reduce(mixture, count, self.method, max_distance=limit, **self.options).mixture
        return information.of_mixture(mixture)


class _Graph:
    """The variables, the potentials and the current messages from pairs to variables."""

    def __init__(self, settings: BeliefPropagation, potentials: Sequence[Potential]) -> None:
        self.settings = settings
        self.pairs: list[_Pair] = [p for p in potentials if isinstance(p, _Pair)]
        self.dims: dict[str, int] = {}
        self.own: dict[str, Information] = {}
        for potential in potentials:
            for name, dim in potential.dims.items():
                if self.dims.setdefault(name, dim) != dim:
                    raise InputError(f"{name} has {self.dims[name]} dimensions in one potential, {dim} in another")
        if not self.dims:
            raise InputError("no potentials", "at least one")
        for potential in potentials:
            if isinstance(potential, Unary | Measurement):
                [(name, dim)] = potential.dims.items()
                known = self.own.get(name, information.constant(dim))
                self.own[name] = settings.reduced(information.product(known, potential.message()))
        self.around: dict[str, list[int]] = {name: [] for name in self.dims}
        for number, pair in enumerate(self.pairs):
            for name in pair.dims:
                self.around[name].append(number)
        self.messages: dict[tuple[int, str], Information] = {}

    def tree(self) -> list[tuple[int, str, str]] | None:
        """Return (pair, child, parent), parents first, or None if there is a cycle."""
        order: list[tuple[int, str, str]] = []
        seen: set[str] = set()
        used: set[int] = set()
        for root in self.dims:
            if root in seen:
                continue
            seen.add(root)
            waiting = [root]
            for parent in waiting:  # grows
                for number in self.around[parent]:
                    if number in used:
                        continue
                    used.add(number)
                    child = _other(self.pairs[number], parent)
                    if child in seen:
                        return None
                    seen.add(child)
                    waiting.append(child)
                    order.append((number, child, parent))
        return order

    def send(self, number: int, sender: str) -> None:
        """Compute a variable's message to a pair, and the pair's to the other variable."""
        pair = self.pairs[number]
        receiver = _other(pair, sender)
        message = pair.message(self._product(sender, number), receiver)
        previous = self.messages.get((number, receiver))
        if self.settings.damping and previous is not None:
            message = _blend(previous, message, self.settings.damping)
        self.messages[number, receiver] = self.settings.reduced(message)

    def density(self, name: str) -> GaussianMixture | None:
        """Return the belief of a variable, None if its potentials say too little."""
        return information.to_mixture(self._product(name))

    def _product(self, name: str, without: int | None = None) -> Information:
        """Multiply all that is known about a variable, but for one pair's message; reduce after each product."""
        result = self.own.get(name, information.constant(self.dims[name]))
        for number in self.around[name]:
            message = self.messages.get((number, name))
            if number != without and message is not None and not message.says_nothing:
                result = self.settings.reduced(information.product(result, message))
        return result


def _proper(name: str, belief: GaussianMixture | None) -> GaussianMixture:
    if belief is None:
        wanted = f"a Unary potential of {name} or its neighbours, which may be wide"
        raise InputError(f"the belief of {name} is no density", wanted)
    return belief


def _other(pair: _Pair, name: str) -> str:
    return next(other for other in pair.dims if other != name)


def _not_negligible(logs: np.ndarray, covariances: np.ndarray, budget: float) -> np.ndarray:
    """Return the components without those whose removal changes the angle by at most ``budget``.

    The norm of a sum is at most the sum of the norms, and that of the whole at least the root of their squares.
    """
    norms = logs - 0.25 * np.linalg.slogdet(covariances)[1]
    order = np.argsort(norms, kind="stable")
    dropped = np.logaddexp.accumulate(norms[order])
    whole = 0.5 * logsumexp(2 * norms)
    first = min(int(np.searchsorted(dropped, whole + np.log(max(budget, 1e-300)))), len(logs) - 1)
    return np.sort(order[first:])


def _blend(previous: Information, latest: Information, share: float) -> Information:
    """Mix two messages that are densities; otherwise return the latest."""
    old, new = information.to_moments(previous), information.to_moments(latest)
    if old is None or new is None:
        return latest
    logs = [np.log(s) + m[0] - logsumexp(m[0]) for s, m in ((share, old), (1 - share, new))]
    means, covariances = (np.concatenate([old[k], new[k]]) for k in (1, 2))
    return information.of_moments(np.concatenate(logs), means, covariances)


def _change(before: GaussianMixture | None, after: GaussianMixture | None) -> float:
    return np.pi / 2 if before is None or after is None else distance(before, after)
