"""Fresh networks from a key: their law, and that nothing of an earlier draw remains."""

from __future__ import annotations

import math

import pytest
import torch
from attention_matching.images import keyed
from attention_matching.kinds import ARCHITECTURES
from attention_matching.networks.build import build
from attention_matching.networks.convnet import ConvNet
from attention_matching.networks.fresh import FreshNetworks
from scipy import stats
from sextet_common.errors import InputError
from torch import nn


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "vit"])
def test_every_layer_follows_torchs_own_law(architecture: str) -> None:
    network = FreshNetworks(build(architecture, (3, 32, 32), 10)).draw(keyed.key(5, "network"))
    torch.manual_seed(0)
    peer = build(architecture, (3, 32, 32), 10)
    for (name, ours), theirs in zip(network.named_modules(), peer.modules(), strict=True):
        if isinstance(ours, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(ours.weight[0].numel())
            for mine, torchs in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
                if mine is not None:
                    assert mine.abs().max() <= bound
                    if mine.numel() > 500:  # two samples of one law; seeded
                        sample = mine.flatten()[:20000].numpy(), torchs.detach().flatten()[:20000].numpy()
                        assert stats.ks_2samp(*sample).pvalue > 1e-4, name
        elif isinstance(ours, nn.GroupNorm | nn.BatchNorm2d):
            assert torch.equal(ours.weight, torch.ones_like(ours.weight)) and not ours.bias.any()


def test_a_key_names_one_network_whatever_was_drawn_before() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    family = FreshNetworks(ConvNet((3, 16, 16), 4, width=8))
    first = family.draw(keyed.key(0, "a")).features(images).embedding.clone()
    second = family.draw(keyed.key(0, "b")).features(images).embedding.clone()
    assert not torch.allclose(first, second)
    other = FreshNetworks(ConvNet((3, 16, 16), 4, width=8))
    assert torch.equal(other.draw(keyed.key(0, "a")).features(images).embedding, first)


def test_a_key_names_one_network_in_any_order_in_memory() -> None:
    plain = FreshNetworks(ConvNet((3, 16, 16), 4, width=8))
    last = FreshNetworks(ConvNet((3, 16, 16), 4, width=8).to(memory_format=torch.channels_last))
    for name in "ab":
        networks = [family.draw(keyed.key(0, name)) for family in (plain, last)]
        assert networks[1].blocks[1][0].weight.is_contiguous(memory_format=torch.channels_last)
        for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
            assert torch.equal(ours, theirs)


def test_weights_with_no_known_fresh_state_are_refused() -> None:
    with pytest.raises(InputError, match="got a ViT"):
        FreshNetworks(build("vit", (3, 32, 32), 10))
