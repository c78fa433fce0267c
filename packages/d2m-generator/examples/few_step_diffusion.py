"""A small diffusion model: trained on the images, then distilled through the last of its four steps.

Run it: ``python examples/few_step_diffusion.py``
"""

from __future__ import annotations

from d2m_generator import D2M, D2MConfig, DiffusionGenerator, Judge, PoolConfig, PretrainConfig, pretrain
from sextet_common.data import load

data = load("digits")
generator = DiffusionGenerator.denoising(10, data.image_shape, width=16, steps=4, grad_steps=1)
pretrain(generator, data, PretrainConfig(steps=300, lr=2e-3))
judge = Judge(data)
print("before:", judge(generator, images=200))
D2M(D2MConfig(steps=20, images=4, lr=2e-4, pool=PoolConfig(networks=2, width=32))).fit(generator, data)
print("after: ", judge(generator, images=200))
generator.save_pretrained("digits-diffusion")
print("digits-diffusion/unet opens by UNet2DModel.from_pretrained")
