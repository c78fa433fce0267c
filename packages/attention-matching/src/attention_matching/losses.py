"""What a distilled set is trained on: the distance between real and synthetic statistics."""

from __future__ import annotations

from jaxtyping import Float
from sextet_common.errors import InputError
from torch import Tensor, nn

from attention_matching.attention import class_means, spatial_attention
from attention_matching.networks import Features


class AttentionMatchingLoss(nn.Module):
    """DataDAM's loss: spatial attention of the inner blocks, plain features of the last.

    For class k, with real images T and synthetic images S of that class::

        loss[k] = scale * (sum over l < L of ||mean_T z_l - mean_S z_l||^2
                           + feature_weight * ||mean_T h - mean_S h||^2)

    where ``z_l`` is block l's normalised attention map and ``h`` the flattened features of
    the last block L.

    Parameters
    ----------
    power
        The attention's exponent p: 4 in the paper's table.
    feature_weight
        The weight lambda of the features: 0.01 for small images, 0.02 from 64x64.
    scale
        The factor s. DataDAM's public code has 100, and its learning rates assume it.

    References
    ----------
    DataDAM (arXiv 2310.00093), section 3.

    Examples
    --------
    >>> import torch
    >>> from attention_matching.networks import ConvNet
    >>> images = torch.rand(4, 1, 8, 8)
    >>> features = ConvNet((1, 8, 8), 2, width=4, depth=2).features(images)
    >>> AttentionMatchingLoss()(features, features, n_classes=2).tolist()
    [0.0, 0.0]
    """

    def __init__(self, power: int = 4, feature_weight: float = 0.01, scale: float = 100.0) -> None:
        super().__init__()
        self.power = power
        self.feature_weight = feature_weight
        self.scale = scale

    def forward(self, real: Features, synthetic: Features, n_classes: int) -> Float[Tensor, " classes"]:
        """Compare the statistics of real and synthetic images, class by class.

        Parameters
        ----------
        real, synthetic
            A network's features of both, class after class, equally many of each class.
        n_classes
            How many classes there are.

        Returns
        -------
        Tensor
            Each class's loss, shape (n_classes,): their sum is the loss of the paper.

        Raises
        ------
        InputError
            Where the two have different numbers of blocks.
        """
        if len(real.maps) != len(synthetic.maps):
            raise InputError(
                f"features of {len(real.maps)} and {len(synthetic.maps)} blocks", "those of one network for both"
            )

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return (class_means(a, n_classes) - class_means(b, n_classes)).square().sum(dim=1)

        total = self.feature_weight * distance(real.embedding, synthetic.embedding)
        for real_map, synthetic_map in zip(real.maps[:-1], synthetic.maps[:-1], strict=True):
            total = total + distance(
                spatial_attention(real_map, self.power), spatial_attention(synthetic_map, self.power)
            )
        return self.scale * total
