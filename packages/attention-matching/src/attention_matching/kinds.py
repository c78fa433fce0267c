"""Names of methods, networks, transforms and files among which options choose; light, so that `--help` is."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from sextet_common.checks import Bounds

Method = Literal["datadam", "atom", "dm"]
Selection = Literal["random", "k-centre", "herding"]
Source = Literal["random", "k-centre", "herding", "dm", "datadam", "atom"]
MAX_POWER = 32  # its sums over any image stay in float32's range once the features are scaled to 1
Power = Annotated[int, Bounds(1, MAX_POWER)]

Operation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
Whitening = Literal["none", "zca"]

Architecture = Literal["convnet", "alexnet", "vgg11", "resnet18", "vit"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
Norm = Literal["instance", "batch", "group", "layer", "none"]
Activation = Literal["relu", "sigmoid", "leaky_relu"]
Pooling = Literal["avg", "max", "none"]

Export = Literal["folder", "pt-dc", "pt-mtt", "ddranking", "hub", "hub-imagefolder", "compact"]
Layout = Literal["dc", "mtt"]
