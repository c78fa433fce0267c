"""A small consistency model of diffusers: trained on the images, then distilled through its single step.

Run it: ``python examples/one_step_consistency.py``
"""

from __future__ import annotations

from d2m_generator import D2M, D2MConfig, DiffusionGenerator, Judge, PoolConfig, PretrainConfig, pretrain
from sextet_common.data import load

data = load("digits")
generator = DiffusionGenerator.consistency(10, data.image_shape, width=16)
pretrain(generator, data, PretrainConfig(steps=300, lr=2e-3))
judge = Judge(data)
print("before:", judge(generator, images=200))
D2M(D2MConfig(steps=60, images=4, lr=2e-4, pool=PoolConfig(networks=2, width=32))).fit(generator, data)
print("after: ", judge(generator, images=200))
generator.save_pretrained("digits-consistency")
print("digits-consistency/unet opens by UNet2DModel.from_pretrained")
