from __future__ import annotations

import pytest
import torch
from attention_matching import ConvNet, build
from d2m_generator.training.matching import MatchingLoss, energy_distance, feature_scale, mean_distance
from sextet_common.errors import InputError
from torch import Tensor

CLASSES, EACH = 3, 4


def images(seed: int, each: int = EACH) -> Tensor:
    return torch.randn(CLASSES * each, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def network() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet((1, 8, 8), 5, width=6).double()


def energy(x: Tensor, y: Tensor) -> Tensor:
    """Compute the energy distance with loops over pairs, over the mean distance of the real ones."""
    between = torch.stack([(a - b).norm() for a in x for b in y]).mean()
    within = [torch.stack([(a - b).norm() for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return (2 * between - within[0].mean() - within[1].mean()) / within[0].mean()


def literal(loss: MatchingLoss, real: Tensor, made: Tensor) -> list[float]:
    """Compute each class's loss with loops over classes, images, blocks and channels."""
    net, found = network(), []
    for label in range(CLASSES):
        stats = []
        for x in (real, made):
            each = len(x) // CLASSES
            mine = x[label * each : (label + 1) * each]
            maps: dict[str, list[Tensor]] = {"channel": [], "spatial": []}
            features = net.features(mine)
            for block in features.maps[:-1]:
                rows: dict[str, list[Tensor]] = {"channel": [], "spatial": []}
                for image in block:
                    channel = torch.stack([(c.abs() ** loss.power).sum() for c in image])
                    spatial = (image.abs() ** loss.power).sum(dim=0).flatten()
                    rows["channel"].append(channel / channel.norm())
                    rows["spatial"].append(spatial / spatial.norm())
                for name, each_row in rows.items():
                    maps[name].append(torch.stack(each_row).mean(dim=0))
            stats.append((maps, features.embedding.mean(dim=0), net.classifier(features.embedding)))
        (maps_r, e_r, o_r), (maps_m, e_m, o_m) = stats
        scale = 0.01 / ((6 / 128) ** 0.75 * (4 / 16) * 2**0.5)  # attention-matching's balance: width 6, 2 blocks, 2x2
        total = loss.feature_weight * scale * ((e_r - e_m) ** 2).sum()
        if loss.spread_weight:
            mine = [net.features(x.view(CLASSES, -1, 1, 8, 8)[label]).embedding for x in (real, made)]
            total = total + loss.spread_weight * energy(*mine)
        for name in ("channel", "spatial"):
            if loss.maps in (name, "both"):
                total = total + sum(((a - b) ** 2).sum() for a, b in zip(maps_r[name], maps_m[name], strict=True))
        if loss.prediction == "mse":
            total = total + loss.prediction_weight * ((o_r.mean(dim=0) - o_m.mean(dim=0)) ** 2).mean()
        elif loss.prediction == "kl":
            pairs = zip(o_r, o_m, strict=True) if loss.reduction == "sample" else [(o_r.mean(dim=0), o_m.mean(dim=0))]
            values = []
            for a, b in pairs:
                p, q = (torch.distributions.Categorical(logits=x / loss.temperature) for x in (a, b))
                values.append(torch.distributions.kl_divergence(p, q))
            scale = loss.temperature**2 if loss.temperature_squared else 1
            total = total + loss.prediction_weight * scale * torch.stack(values).mean()
        found.append(float(total.detach()))
    return found


@pytest.mark.parametrize(
    "loss",
    [
        MatchingLoss(),
        MatchingLoss(maps="spatial", power=2, prediction="mse"),
        MatchingLoss(maps="both", power=4, temperature=2.0, temperature_squared=True),
        MatchingLoss(maps="none", prediction="none"),
        MatchingLoss(spread_weight=2.0),
        MatchingLoss(reduction="sample", prediction_weight=3.0, feature_weight=0.5),
    ],
)
def test_the_loss_is_its_formula_and_gradients_flow_to_what_is_made(loss: MatchingLoss) -> None:
    real, made = images(1), images(2).requires_grad_()
    found = loss(network(), real, made, CLASSES)
    assert found.detach().tolist() == pytest.approx(literal(loss, real, made.detach()), rel=1e-4)
    found.sum().backward()
    assert made.grad is not None and bool((made.grad.flatten(1) != 0).any(dim=1).all())


def test_equal_images_have_no_loss_and_counts_may_differ() -> None:
    loss, real = MatchingLoss(maps="both"), images(1)
    assert float(loss(network(), real, real, CLASSES).sum().detach()) == pytest.approx(0, abs=1e-10)
    twice = real.view(CLASSES, EACH, 1, 8, 8).repeat(1, 2, 1, 1, 1).flatten(0, 1)
    assert float(loss(network(), twice, real, CLASSES).sum().detach()) == pytest.approx(0, abs=1e-10)
    assert loss(network(), images(1, each=6), images(2), CLASSES).shape == (CLASSES,)


def test_the_energy_distance_tells_apart_distributions_of_equal_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    points, others = (torch.randn(1, 2000, 3, generator=draw) for _ in range(2))

    def distance(other: torch.Tensor) -> float:
        return float(energy_distance(points, other, mean_distance(points), mean_distance(other)))

    assert abs(distance(others)) < 0.01  # unbiased: its deviation is of the order of 1 / 2000
    assert distance(0.3 * others) > 0.1
    assert distance(others[:, :1]) > 0  # one point has no spread
    assert float(mean_distance(points)) == pytest.approx(float(torch.pdist(points[0]).mean()))


def test_the_balance_of_maps_and_embeddings_is_that_of_the_papers_network_for_every_width() -> None:
    for width in (16, 64, 128):
        net = ConvNet((3, 32, 32), 10, width=width)
        expected = 0.01 / (width / 128) ** 0.75
        assert feature_scale(net, net.features(torch.rand(1, 3, 32, 32))) == pytest.approx(expected)
    other = build("resnet18", (3, 32, 32), 10)
    assert feature_scale(other, other.features(torch.rand(2, 3, 32, 32))) == 0.01


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"maps": "all"}, "maps must be channel, spatial, both or none, got 'all'"),
        ({"prediction": "l1"}, "prediction must be kl, mse or none, got 'l1'"),
        ({"reduction": "batch"}, "reduction must be class or sample, got 'batch'"),
        ({"prediction_weight": -1.0}, "prediction_weight must be a number >= 0, got -1"),
        ({"temperature": 0.0}, "temperature must be a number > 0, got 0"),
    ],
)
def test_options_outside_what_is_accepted(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MatchingLoss(**words)  # type: ignore[arg-type]


def test_unlike_numbers_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="to pair"):
        MatchingLoss(reduction="sample")(network(), images(1, each=6), images(2), CLASSES)
