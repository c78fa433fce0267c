"""Distill the digits into one image per class, compare it with random real images, and save the set."""

from __future__ import annotations

from attention_matching import DistillConfig, Distiller, EvaluateConfig, evaluate, evaluate_random_real
from sextet_common.data import load

digits = load("digits")
distilled = Distiller(DistillConfig(ipc=1, method="atom", steps=100)).fit(digits)  # 600 steps by default
training = EvaluateConfig(networks=2, epochs=150)
print("random real", evaluate_random_real(digits, 1, training))
print("distilled  ", evaluate(distilled, digits, training))
distilled.save("digits.safetensors")
