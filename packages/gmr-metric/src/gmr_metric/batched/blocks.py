"""Inner products of isotropic and diagonal batches on a CPU, block by block, with gradients in closed form.

For components a of one batch and b of the other, ``e_ab = log w_a + log v_b + log N(m_a; n_b, P_a + Q_b)`` and
``A = logsumexp e`` over the components of a pair of mixtures. With G the gradient of A, ``r = G exp(e - A)``, t the sum
of the variances and d the difference of the means, the gradients are sums over the other batch's components::

    log weight: r        mean: -r d / t        variance: r (d^2 / t - 1) / 2 t

The forward pass keeps A alone; the backward pass recomputes every block. Isotropic blocks are matrix products; diagonal
ones, whose d^2 / t does not separate, loop over the dimensions with a block that stays in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ISOTROPIC_PAIRS, DIAGONAL_PAIRS = 2**19, 2**17  # default pairs of components in a block
_NATS_LOST = {torch.float32: 2e-5, torch.float64: 1e-11}  # tolerated error of an exponent from |m|^2 + |n|^2 - 2 m n


class Flat(NamedTuple):
    """The components of all mixtures of a batch in one row."""

    log_weights: Tensor  # (mixtures * components,)
    means: Tensor  # (mixtures * components, dims)
    variances: Tensor  # (mixtures * components,) or (mixtures * components, dims)
    components: int

    @classmethod
    def of(cls, log_weights: Tensor, means: Tensor, variances: Tensor) -> Flat:
        """Flatten the three tensors of a batch."""
        return cls(log_weights.flatten(), means.flatten(0, 1), variances.flatten(0, 1), log_weights.shape[1])

    @property
    def isotropic(self) -> bool:
        """Whether a component has one variance for all dimensions."""
        return self.variances.ndim == 1

    def __len__(self) -> int:
        return len(self.log_weights) // self.components


def product_dtype(f: Flat, g: Flat) -> torch.dtype | None:
    """Choose the dtype in which distances of isotropic components may come from matrix products; None for no dtype.

    With centred means ``|m|^2 + |n|^2 - 2 m n`` changes the exponent by about ``eps (|m|^2 + |n|^2) / 2 t``. This
    inspects values.
    """
    centre = _centre(f, g)
    with torch.no_grad():
        largest = sum(float((x.means - centre).square().sum(dim=1).max()) for x in (f, g))
        least = sum(float(x.variances.min()) for x in (f, g))
    tolerated = _NATS_LOST[f.means.dtype]
    for dtype in (torch.float32, torch.float64):
        if torch.finfo(dtype).bits >= torch.finfo(f.means.dtype).bits:
            lost = torch.finfo(dtype).eps * largest / least if least > 0 else math.nan
            if lost <= tolerated:
                return dtype
    return None


def forward(f: Flat, g: Flat, pairs: int, products: torch.dtype | None) -> Tensor:
    """Compute log <f, g> of all pairs of mixtures, (len(f), len(g)); for one batch with itself, half is mirrored."""
    inner = f.means.new_zeros(len(f), len(g))
    work = _Work(f, g, products)
    for rows, columns in _tiles(f, g, pairs):
        exponent = work.exponents(rows, columns)
        grouped = exponent.view(-1, f.components, columns.stop - columns.start, g.components)
        largest = grouped.amax(dim=(1, 3))
        largest = largest.masked_fill(torch.isneginf(largest), 0.0)
        _exp(grouped.sub_(largest[:, None, :, None]))
        inner[rows, columns] = grouped.sum(dim=(1, 3)).log() + largest
    return inner.triu() + inner.triu(1).mT if g is f else inner


def backward(
    f: Flat, g: Flat, inner: Tensor, gradient: Tensor, pairs: int, products: torch.dtype | None
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Compute the gradients of both batches' flat tensors; if `g` is `f`, their sum is the gradient."""
    if g is f:  # each pair once, from the upper triangle
        gradient = gradient.triu() + gradient.tril(-1).mT
    known = inner.masked_fill(torch.isneginf(inner), 0.0)  # an empty mixture's ratios are exp(-inf - 0)
    work = _Work(f, g, products)
    sums = _Sums(f), _Sums(g)
    for rows, columns in _tiles(f, g, pairs):
        ratios = work.exponents(rows, columns)
        grouped = ratios.view(-1, f.components, columns.stop - columns.start, g.components)
        _exp(grouped.sub_(known[rows, None, columns, None])).mul_(gradient[rows, None, columns, None])
        work.add_gradients(ratios, rows, columns, sums)
    return sums[0].gradients(), sums[1].gradients()


class _Sums:
    """The gradients of a batch, summed block by block; for diagonal batches with the dimensions first."""

    def __init__(self, f: Flat) -> None:
        self.components, self.isotropic = f.components, f.isotropic
        self.log_weights = torch.zeros_like(f.log_weights)
        turned = f.means if f.isotropic else f.means.mT
        self.means = torch.zeros_like(turned, memory_format=torch.contiguous_format)
        self.variances = torch.zeros_like(f.variances if f.isotropic else turned, memory_format=torch.contiguous_format)

    def part(self, mixtures: slice) -> slice:
        return slice(mixtures.start * self.components, mixtures.stop * self.components)

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.isotropic:
            return self.log_weights, self.means, self.variances
        return self.log_weights, self.means.mT, self.variances.mT


class _Work:
    """The exponents of a block of pairs, and the terms that their gradients need."""

    def __init__(self, f: Flat, g: Flat, products: torch.dtype | None) -> None:
        self.f, self.g, self.products = f, g, products
        self.dims = f.means.shape[1]
        self.constant = -0.5 * self.dims * math.log(2 * math.pi)
        if f.isotropic:
            centre = _centre(f, g).to(products)
            self.left, self.right = (x.means.to(products) - centre for x in (f, g))  # in float32 it would round
            self.left_square, self.right_square = (x.square().sum(dim=1) for x in (self.left, self.right))
        else:  # dimensions first, so that one dimension of many components is contiguous
            self.left, self.right = (x.means.mT.contiguous() for x in (f, g))
            self.left_variances, self.right_variances = (x.variances.mT.contiguous() for x in (f, g))
            self.together = _factors(f, g)

    def exponents(self, rows: slice, columns: slice) -> Tensor:
        """Compute e of a block: (rows' components, columns' components)."""
        self.a, self.b = _part(self.f, rows), _part(self.g, columns)
        exponent = self._isotropic() if self.f.isotropic else self._diagonal()
        exponent += (self.f.log_weights[self.a] + self.constant)[:, None]
        exponent += self.g.log_weights[self.b]
        return exponent

    def _isotropic(self) -> Tensor:
        a, b, dtype = self.a, self.b, self.f.means.dtype
        squared = torch.addmm(self.right_square[b][None], self.left[a], self.right[b].mT, alpha=-2)
        squared = squared.add_(self.left_square[a][:, None]).clamp_(min=0).to(dtype)
        self.total = self.f.variances[a][:, None] + self.g.variances[b]
        self.quotient = squared.div_(self.total)
        return torch.log(self.total).mul_(-0.5 * self.dims).sub_(self.quotient, alpha=0.5)

    def _diagonal(self) -> Tensor:
        a, b = self.a, self.b
        left, right, p, q = self.left[:, a], self.right[:, b], self.left_variances[:, a], self.right_variances[:, b]
        exponent = left.new_zeros(left.shape[1], right.shape[1])
        total, squared, product = (torch.empty_like(exponent) for _ in range(3))
        for dim in range(self.dims):
            torch.add(p[dim][:, None], q[dim], out=total)
            torch.sub(left[dim][:, None], right[dim], out=squared)
            exponent.addcdiv_(squared.square_(), total)
            place = dim % self.together
            product.copy_(total) if place == 0 else product.mul_(total)
            if place == self.together - 1 or dim == self.dims - 1:  # one logarithm for the product of several variances
                exponent += product.log_()
        return exponent.mul_(-0.5)

    def add_gradients(self, ratios: Tensor, rows: slice, columns: slice, sums: tuple[_Sums, _Sums]) -> None:
        """Add a block's contribution to the gradients, given its ratios r."""
        f, g = sums
        a, b = f.part(rows), g.part(columns)
        f.log_weights[a] += ratios.sum(dim=1)
        g.log_weights[b] += ratios.sum(dim=0)
        if not self.f.isotropic:
            self._add_diagonal(ratios, f.means[:, a], g.means[:, b], f.variances[:, a], g.variances[:, b])
            return
        slope = ratios.div_(self.total)
        wide = slope.to(self.left.dtype)
        f.means[a] += (wide @ self.right[b] - wide.sum(dim=1)[:, None] * self.left[a]).to(f.means.dtype)
        g.means[b] += (wide.mT @ self.left[a] - wide.sum(dim=0)[:, None] * self.right[b]).to(f.means.dtype)
        share = self.quotient.sub_(self.dims).mul_(slope).mul_(0.5)
        f.variances[a] += share.sum(dim=1)
        g.variances[b] += share.sum(dim=0)

    def _add_diagonal(self, ratios: Tensor, f_means: Tensor, g_means: Tensor, f_var: Tensor, g_var: Tensor) -> None:
        a, b = self.a, self.b
        left, right, p, q = self.left[:, a], self.right[:, b], self.left_variances[:, a], self.right_variances[:, b]
        total, quotient, share = (torch.empty_like(ratios) for _ in range(3))
        for dim in range(self.dims):
            torch.add(p[dim][:, None], q[dim], out=total)
            torch.sub(left[dim][:, None], right[dim], out=quotient)
            quotient.div_(total)
            torch.mul(quotient, ratios, out=share)
            f_means[dim] -= share.sum(dim=1)
            g_means[dim] += share.sum(dim=0)
            quotient.square_().sub_(total.reciprocal_()).mul_(ratios)
            f_var[dim].add_(quotient.sum(dim=1), alpha=0.5)
            g_var[dim].add_(quotient.sum(dim=0), alpha=0.5)


def _exp(x: Tensor) -> Tensor:
    """Compute exp in place, 0 below the smallest normal number, where a CPU is ten times slower."""
    least = math.ceil(math.log(torch.finfo(x.dtype).tiny))
    return functional.threshold(x.clamp_(min=least).exp_(), 1.5 * math.exp(least), 0.0, inplace=True)


def _centre(f: Flat, g: Flat) -> Tensor:
    return (f.means.mean(dim=0) + g.means.mean(dim=0)) / 2


def _part(f: Flat, mixtures: slice) -> slice:
    return slice(mixtures.start * f.components, mixtures.stop * f.components)


def _tiles(f: Flat, g: Flat, pairs: int) -> Iterator[tuple[slice, slice]]:
    """Split the table of pairs of mixtures into roughly square blocks; for one batch with itself the upper half."""
    whole = max(1, pairs // (f.components * g.components))
    rows = min(len(f), max(math.isqrt(whole), whole // len(g), 1))
    columns = max(1, min(len(g), whole // rows))
    for i in range(0, len(f), rows):
        for j in range(0, len(g), columns):
            if g is not f or j + columns > i:
                yield slice(i, min(i + rows, len(f))), slice(j, min(j + columns, len(g)))


def _factors(f: Flat, g: Flat) -> int:
    """Return how many sums of variances can be multiplied within the dtype's range."""
    with torch.no_grad():
        least, most = (sum(float(getattr(x.variances, side)()) for x in (f, g)) for side in ("min", "max"))
    if not 0 < least <= most < math.inf:
        return 1
    room = math.log(torch.finfo(f.means.dtype).max)
    return max(1, min(8, int(0.95 * room / max(abs(math.log(least)), abs(math.log(most)), 1e-3))))
