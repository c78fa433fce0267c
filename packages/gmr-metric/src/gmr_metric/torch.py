"""Inner products and similarities of batches of Gaussian mixtures in PyTorch: differentiable, in bounded memory.

A batch is three tensors: log weights (batch, components), means (batch, components, dims) and covariances, whose rank
determines their kind: (batch, components) isotropic variances, (batch, components, dims) diagonal variances, or
(batch, components, dims, dims) full symmetric matrices. A component with log weight -inf is absent; its mean and
covariance must still be valid, with any values.

Only shapes and dtypes are checked, because checking values would make a GPU wait for the host. A variance that is not
positive gives NaN or infinity; a full matrix that is not positive definite makes ``torch.linalg.cholesky`` raise. Only
that call makes the host wait: isotropic and diagonal batches never do.

The way of computing is chosen by shape and device. Differences of means lose no digits: an exponent's error is a few
eps times the exponent. Isotropic blocks on a CPU use matrix products of centred means, in float32 where their error
``eps (|m|^2 + |n|^2) / 2 t`` is below 2e-5, and in float64 or by differences otherwise. On a GPU only sums of gradients
of isotropic means are products; their error is ``eps sum_b |w_ab| (|n_b| + |m_a|)`` of centred means. TF32 is not used.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gmr_metric.batched.batch import checked, checked_other, pairs_per_block
from gmr_metric.batched.general import log_squared_norms
from gmr_metric.batched.pairs import all_pairs, log_cosines

__all__ = ["log_inner_products", "log_similarity_matrix", "similarity_matrix"]


def log_inner_products(
    log_weights: Float[Tensor, "batch components"],
    means: Float[Tensor, "batch components dims"],
    covariances: Float[Tensor, "batch components *covariance"],
    other_log_weights: Float[Tensor, "others other_components"] | None = None,
    other_means: Float[Tensor, "others other_components dims"] | None = None,
    other_covariances: Float[Tensor, "others other_components *covariance"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Log of the L2 inner product of every mixture of one batch with every mixture of another, shape (batch, others).

    ``<f, g> = sum_ij w_i v_j N(m_i; n_j, P_i + Q_j)``, in log space throughout; a metric of mixtures from it: arXiv
    2306.07309. Weights need not sum to one. Half precision is computed in float32. The second batch has the same kind
    and dims, and is the first if omitted; the result is then exactly symmetric.

    A mixture whose weights are all zero gives -inf, and zero gradients. Second derivatives are correct too, except for
    isotropic variances if two means are equal (`torch.cdist` has a kink there), and with torch 2.6, whose cdist has
    none.

    Parameters
    ----------
    chunk_size
        The number of pairs of components evaluated at once. Larger problems are split into blocks, which the backward
        pass recomputes instead of storing; a block is never smaller than one component against one mixture. Forward
        and backward hold about 4 (isotropic), 5 (diagonal) or 6 dims**2 (full) numbers per pair, measured on a CPU;
        None means 2**19, 2**17 or 2**23 / dims**2 pairs, but small isotropic and diagonal batches are computed at once,
        up to 2**21 differences. On a GPU with Triton isotropic and diagonal batches hold one number per pair and only
        in the backward pass; None means 2**27 pairs. Results depend on it by rounding only.

    Examples
    --------
    Two mixtures of one component in one dimension, N(0, 1) and N(2, 1):

    >>> import torch
    >>> log_weights, means, variances = torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1)
    >>> log_inner_products(log_weights, means, variances)
    tensor([[-1.2655, -2.2655],
            [-2.2655, -1.2655]])
    """
    f = checked(log_weights, means, covariances)
    g = checked_other(f, other_log_weights, other_means, other_covariances)
    pairs_per_block(f, chunk_size)  # checks it
    return all_pairs(f, g, chunk_size)


def log_similarity_matrix(
    log_weights: Float[Tensor, "batch components"],
    means: Float[Tensor, "batch components dims"],
    covariances: Float[Tensor, "batch components *covariance"],
    other_log_weights: Float[Tensor, "others other_components"] | None = None,
    other_means: Float[Tensor, "others other_components dims"] | None = None,
    other_covariances: Float[Tensor, "others other_components *covariance"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Log cosine of every mixture of one batch with every mixture of another; finite where the cosine underflows.

    ``log <f, g> - (log <f, f> + log <g, g>) / 2``, minus the Cauchy-Schwarz divergence (arXiv 2306.07309). The scale of
    the weights cancels. The parameters are those of `log_inner_products`.

    The result, shape (batch, others), is at most 0; for one batch with itself symmetric with a diagonal of exactly 0.
    Values that rounding lifts above 0 are set to 0, but keep the gradient of the formula. A mixture whose weights are
    all zero has no direction: -inf, on the diagonal too.

    Examples
    --------
    >>> import torch
    >>> log_weights, means, variances = torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1)
    >>> log_similarity_matrix(log_weights, means, variances)
    tensor([[ 0.0000, -1.0000],
            [-1.0000,  0.0000]])
    """
    f = checked(log_weights, means, covariances)
    g = checked_other(f, other_log_weights, other_means, other_covariances)
    chunk = pairs_per_block(f, chunk_size)
    if g is f:  # its norms are those of the table itself, so that the diagonal cancels exactly
        return all_pairs(f, f, chunk_size, cosine=True)
    return log_cosines(all_pairs(f, g, chunk_size), log_squared_norms(f, chunk), log_squared_norms(g, chunk))


def similarity_matrix(
    log_weights: Float[Tensor, "batch components"],
    means: Float[Tensor, "batch components dims"],
    covariances: Float[Tensor, "batch components *covariance"],
    other_log_weights: Float[Tensor, "others other_components"] | None = None,
    other_means: Float[Tensor, "others other_components dims"] | None = None,
    other_covariances: Float[Tensor, "others other_components *covariance"] | None = None,
    *,
    chunk_size: int | None = None,
) -> Float[Tensor, "batch others"]:
    """Cosine of every mixture of one batch with every mixture of another: the exponential of `log_similarity_matrix`.

    It is in [0, 1], 1 for equal densities, and has a diagonal of exactly 1 for one batch with itself. For distant
    mixtures it underflows to 0, as does its gradient; a loss should use `log_similarity_matrix`.

    Examples
    --------
    >>> import torch
    >>> log_weights, means, variances = torch.zeros(2, 1), torch.tensor([[[0.0]], [[2.0]]]), torch.ones(2, 1)
    >>> similarity_matrix(log_weights, means, variances)
    tensor([[1.0000, 0.3679],
            [0.3679, 1.0000]])
    """
    other = (other_log_weights, other_means, other_covariances)
    return log_similarity_matrix(log_weights, means, covariances, *other, chunk_size=chunk_size).exp()
