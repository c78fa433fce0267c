from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from probmcl import Config, ContrastiveConfig, HeadConfig, MultiLabelSet, ProbMCL, complexity, evaluate
from probmcl.scenes import compose, digits
from probmcl.training.calibration import calibrate
from probmcl.training.network import Network
from probmcl.training.objective import Objective
from probmcl.training.stages import Training
from sextet_common import checkpoint
from sextet_common.errors import InputError
from torch import nn

SMALL = {"epochs": 2, "classifier_epochs": 2, "batch_size": 16, "head": HeadConfig(8, hidden=(16,)), "device": "cpu"}
METHODS = [("probmcl", "joint"), ("probmcl", "two_stage"), ("supcon", "joint"), ("supcon", "two_stage")]
METHODS += [("asymmetric", "auto"), ("bce", "auto")]


@pytest.fixture(scope="module")
def scenes() -> MultiLabelSet:
    return compose(digits(), sizes=(80, 40, 40))


# Settings that release 0.1 did not have.
NEW = ["mode", "likelihood_weight", "normalise", "positives", "learn_temperature"]
NEW += ["unlabelled_ratio", "consistency_weight", "confidence", "schedule", "ema_decay"]


def small(method: str = "probmcl", **options: object) -> ProbMCL:
    return ProbMCL("convnet", 10, Config(**{**SMALL, "method": method, **options}), width=2)


def state(model: ProbMCL) -> dict[str, torch.Tensor]:
    return model._fitted().state_dict()


def equal(a: ProbMCL, b: ProbMCL) -> bool:
    return all(torch.equal(tensor, state(b)[name]) for name, tensor in state(a).items())


@pytest.mark.parametrize(("method", "mode"), METHODS)
def test_a_method_learns_saves_and_loads(scenes: MultiLabelSet, tmp_path: Path, method: str, mode: str) -> None:
    model = small(method, mode=mode).fit(scenes, tmp_path / "run")
    probabilities = model.predict_proba(scenes.test)
    assert probabilities.shape == (40, 10) and bool(((probabilities >= 0) & (probabilities <= 1)).all())
    for again in (ProbMCL.load(tmp_path / "run"), ProbMCL.load(tmp_path / "run" / "model.safetensors", on="cpu")):
        assert torch.equal(again.predict_proba(scenes.test), probabilities)
        assert again.config == model.config and again.label_names == tuple("0123456789")
    assert torch.equal(model.predict_proba(scenes.test.inputs), probabilities)
    assert model.embed(scenes.test).shape == (40, 16)
    scores = model.evaluate(scenes.test, threshold=0.3, k=2)
    assert scores == evaluate(probabilities, scenes.test.labels, threshold=0.3, k=2)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    stages = [row["stage"] for row in rows if "stage" in row]
    expected = {"auto": {"whole"}, "joint": {"joint"}, "two_stage": {"contrastive", "classifier"}}[mode]
    assert set(stages) == expected
    assert ("positive_rate" in rows[0]) is (method in ("probmcl", "supcon"))
    assert 0 < rows[-1]["validation_map"] <= 1


def test_what_is_deployed_is_the_plain_encoder_and_one_linear_layer(scenes: MultiLabelSet) -> None:
    probabilistic, plain = small().fit(scenes), small("bce").fit(scenes)
    counted = [complexity(model.inference(), scenes.input_shape) for model in (probabilistic, plain)]
    assert counted[0] == counted[1]
    logits = probabilistic.inference()(scenes.test.batch(range(40)))
    torch.testing.assert_close(logits.sigmoid(), probabilistic.predict_proba(scenes.test))


def test_the_second_stage_leaves_a_frozen_encoder_as_it_is(scenes: MultiLabelSet, tmp_path: Path) -> None:
    few = small(mode="two_stage", classifier_epochs=1, calibrate=False).fit(scenes, tmp_path / "a")
    many = small(mode="two_stage", classifier_epochs=3, calibrate=False).fit(scenes, tmp_path / "b")
    for name, tensor in state(few).items():
        same = torch.equal(tensor, state(many)[name])
        assert same is not name.startswith("classifier"), name
    tuned = small(classifier_epochs=1, fine_tune=True).fit(scenes)
    assert not torch.equal(state(few)["encoder.body.blocks.0.weight"], state(tuned)["encoder.body.blocks.0.weight"])


def test_the_same_seed_gives_the_same_model_and_another_another(scenes: MultiLabelSet) -> None:
    torch.manual_seed(1)
    first = small().fit(scenes)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert equal(first, small().fit(scenes)) and torch.equal(torch.get_rng_state(), before)
    assert not equal(first, small(seed=1).fit(scenes))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "mode"), [("probmcl", "joint"), ("probmcl", "two_stage"), ("bce", "auto")])
def test_a_killed_run_resumes_bit_identically(tmp_path: Path, method: str, mode: str) -> None:
    # Dropout and batch statistics are at work too: features, an MLP.
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        import numpy as np
        import torch
        from probmcl import Config, HeadConfig, MultiLabelSet, ProbMCL

        torch.set_num_threads(1)
        random = np.random.default_rng(0)
        y = (random.random((120, 5)) < 0.3).astype(np.uint8)
        x = y @ random.normal(size=(5, 12)) + random.normal(size=(120, 12))
        data = MultiLabelSet.of((x, y), None, (x, y))
        config = Config(method={method!r}, mode={mode!r}, epochs=25, classifier_epochs=25, batch_size=20,
                        checkpoint_every=7, head=HeadConfig(8, hidden=(16,)), device="cpu")
        ProbMCL("mlp", 5, config, width=16).fit(data, sys.argv[1])
        """)
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, str(script), str(whole)], check=True)
    kills = 0
    for wanted in (7, 130):  # in the first stage, and in the second if there are two
        process = subprocess.Popen([sys.executable, str(script), str(killed)])
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            steps = [int(path.stem[5:]) for path in (killed / "checkpoints").glob("step-*.safetensors")]
            if steps and max(steps) >= wanted:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.001)
        process.wait()
    subprocess.run([sys.executable, str(script), str(killed)], check=True)
    assert kills == 2
    assert equal(ProbMCL.load(whole, on="cpu"), ProbMCL.load(killed, on="cpu"))

    def lines(folder: Path) -> list[dict[str, object]]:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]

    assert lines(whole) == lines(killed)


class Killed(Exception):
    pass


RESUMED = {
    "two_stage": {"mode": "two_stage"},
    "joint": {"mode": "joint"},
    "bce": {"method": "bce"},
    "semi": {"mode": "joint", "consistency_weight": 0.5, "confidence": 0.6, "batch_size": 8},
    "semi in two stages": {"mode": "two_stage", "batch_size": 8},
    "average and one cycle": {"mode": "two_stage", "fine_tune": True, "ema_decay": 0.9, "schedule": "onecycle"},
    "float16": {"mode": "joint", "precision": "float16"},
    "bfloat16": {"mode": "joint", "precision": "bfloat16"},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_resumes_bit_identically_within_and_between_stages(
    scenes: MultiLabelSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    options = RESUMED[name]
    if "semi" in name:
        scenes = scenes.with_labelled(40)
    whole = small(checkpoint_every=5, **options).fit(scenes, tmp_path / "whole")
    step = Training.step
    for killed_at, resumed_from in ((7, 5), (12, 10), (18, 15)):  # the second of two stages begins at 10

        def die(self: Training, number: int, killed_at: int = killed_at) -> dict[str, torch.Tensor]:
            if number == killed_at:
                raise Killed
            return step(self, number)

        folder = tmp_path / str(killed_at)
        monkeypatch.setattr(Training, "step", die)
        with pytest.raises(Killed):
            small(checkpoint_every=5, **options).fit(scenes, folder)
        monkeypatch.setattr(Training, "step", step)
        assert max(path.stem for path in (folder / "checkpoints").glob("*")) == f"step-{resumed_from:08d}"
        assert equal(whole, small(checkpoint_every=5, **options).fit(scenes, folder))
        rows, expected = (
            [{**json.loads(line), "seconds": 0} for line in (path / "metrics.jsonl").read_text().splitlines()]
            for path in (folder, tmp_path / "whole")
        )
        assert rows == expected


def test_the_learning_rate_rises_over_a_fifth_of_a_stage_and_falls_along_a_cosine(scenes: MultiLabelSet) -> None:
    config = Config(**{**SMALL, "classifier_epochs": 4, "mode": "two_stage"})  # stages of 10 and 20 steps
    network = small()._build(scenes.input_shape, 10)
    job = Training(network, scenes, config, torch.device("cpu"))
    rates = []
    for number in range(job.steps):
        stage = job.stages[int(number >= 10)]
        if number == stage.end - stage.steps:
            job._enter(stage)
        rates.append(job.optimization.schedule.get_last_lr()[0])
        job.optimization.optimizer.step()
        job.optimization.schedule.step()
    for highest, steps, part in ((config.lr, 10, rates[:10]), (config.classifier_lr, 20, rates[10:])):
        rising = steps // 5
        np.testing.assert_allclose(part[:rising], highest * np.arange(1, rising + 1) / rising)
        turn = np.pi * np.arange(1, steps - rising + 1) / (steps - rising + 1)
        np.testing.assert_allclose(part[rising:], highest * (1 + np.cos(turn)) / 2)


def test_joint_training_adds_the_weighted_terms_to_the_classifiers_loss(scenes: MultiLabelSet, tmp_path: Path) -> None:
    weights = ContrastiveConfig(contrastive_weight=0.5, likelihood_weight=0.25)
    small(mode="joint", contrastive=weights).fit(scenes, tmp_path / "all")
    row = json.loads((tmp_path / "all" / "metrics.jsonl").read_text().splitlines()[-1])
    total = row["classification"] + 0.5 * row["contrastive"] + 0.25 * row["likelihood"]
    assert row["loss"] == pytest.approx(total, rel=1e-6)
    weights = ContrastiveConfig(contrastive_weight=0.0, likelihood_weight=0.25)
    small(mode="joint", contrastive=weights).fit(scenes, tmp_path / "one")
    row = json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "contrastive" not in row and {"classification", "likelihood"} <= row.keys()


@pytest.mark.parametrize("method", ["probmcl", "supcon"])
def test_without_weights_joint_training_is_that_of_the_classifiers_loss(scenes: MultiLabelSet, method: str) -> None:
    weights = ContrastiveConfig(contrastive_weight=0.0, likelihood_weight=0.0)
    config = Config(**SMALL, method=method, mode="joint", contrastive=weights)
    plain = Config(**SMALL, method="asymmetric")
    losses = []
    for settings in (config, plain):
        job = Training(small()._build(scenes.input_shape, 10), scenes, settings, torch.device("cpu"))
        job.network = Network(job.network.encoder, 10, settings)
        job.network.load_state_dict(small()._build(scenes.input_shape, 10).state_dict(), strict=False)
        views = config.augmentation.views(scenes.train.batch(range(8)), torch.Generator().manual_seed(0))
        terms = Objective(job.network, settings, classify=True, contrast=settings.is_contrastive)
        losses.append(terms(views, torch.from_numpy(np.array(scenes.train.labels[:8])).repeat(2, 1), 8)["loss"])
    assert torch.equal(*losses)
    assert not config.has_mixtures


def test_auto_is_two_stage_for_pre_trained_weights_or_fine_tuning(scenes: MultiLabelSet, tmp_path: Path) -> None:
    encoder = small()._build(scenes.input_shape, 10).encoder
    torch.save(encoder.body.state_dict(), tmp_path / "w.pt")
    assert small().config.mode == "joint" and small("bce").config.mode == "joint"
    assert ProbMCL("convnet", 10, width=2, weights=tmp_path / "w.pt").config.mode == "two_stage"
    assert small(fine_tune=True).config.mode == "two_stage"
    assert small(mode="joint").config.has_mixtures and not small(fine_tune=True).config.has_mixtures


@pytest.mark.parametrize("method", ["probmcl", "bce"])
def test_a_run_and_a_model_of_an_earlier_release_keep_its_settings(
    scenes: MultiLabelSet, tmp_path: Path, method: str
) -> None:
    mode = "two_stage" if method == "probmcl" else "auto"
    weights = ContrastiveConfig(likelihood_weight=1.0)
    options = {"mode": mode, "contrastive": weights, "head": HeadConfig(8, hidden=(16,), normalise=False)}
    options |= {"consistency_weight": 0.0, "confidence": 0.95}
    model = small(method, **options).fit(scenes, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    for name in NEW:
        del record["config"][name]
    (tmp_path / "config.json").write_text(json.dumps(record))
    saved = checkpoint.load(tmp_path / "model.safetensors", "torch")
    config = {name: value for name, value in saved.meta["config"].items() if name not in NEW}
    checkpoint.save(tmp_path / "old.safetensors", saved.arrays, {**saved.meta, "config": config})
    assert ProbMCL.load(tmp_path / "old.safetensors", on="cpu").config == model.config
    assert equal(model, small(method, **options).fit(scenes, tmp_path))
    assert json.loads((tmp_path / "config.json").read_text()) == record
    if method == "probmcl":
        with pytest.raises(InputError, match="mode=None, not 'joint'"):
            small(method, mode="joint", contrastive=weights).fit(scenes, tmp_path)


def test_a_run_folder_names_its_settings_as_release_0_1_did(scenes: MultiLabelSet, tmp_path: Path) -> None:
    small("bce").fit(scenes, tmp_path)
    names = [
        *("method", "seed", "epochs", "classifier_epochs", "batch_size", "lr", "classifier_lr", "weight_decay"),
        *("fine_tune", "calibrate", "require_labels", "dim", "n_components", "covariance", "hidden", "mean"),
        *("positive", "min_std", "similarity", "per_dimension", "temperature", "supcon_temperature", "threshold"),
        *("measure", "positive_weight", "contrastive_weight", "label_aware", "classifier_loss", "gamma_positive"),
        *("gamma_negative", "margin", "augmentation", "precision", "checkpoint_every", "device"),
    ]
    names += NEW
    record = json.loads((tmp_path / "config.json").read_text())["config"]
    assert record.keys() == {*names, "encoder", "width", "weights", "data", "data_sha256"}
    saved = checkpoint.load(tmp_path / "model.safetensors", "torch").meta["config"]
    assert saved == {name: record[name] for name in names}


def test_a_folder_of_other_settings_or_data_is_refused(scenes: MultiLabelSet, tmp_path: Path) -> None:
    small("bce").fit(scenes, tmp_path)
    with pytest.raises(InputError, match="holds a run with epochs=2, not 3"):
        small("bce", epochs=3).fit(scenes, tmp_path)
    with pytest.raises(InputError, match="data_sha256"):
        small("bce").fit(compose(digits(), sizes=(80, 40, 40), seed=1), tmp_path)
    before, lines = ProbMCL.load(tmp_path), (tmp_path / "metrics.jsonl").read_text()
    again = small("bce").fit(scenes, tmp_path)  # a finished run is not trained anew
    assert equal(again, before) and (tmp_path / "metrics.jsonl").read_text() == lines


def test_uncertainty_needs_a_mixture_that_fits_the_encoder(scenes: MultiLabelSet) -> None:
    found = small().fit(scenes).variances(scenes.test)
    assert found.between.shape == found.within.shape == (40,) and bool((found.within > 0).all())
    with pytest.raises(InputError, match="has no mixture density head"):
        small("supcon").fit(scenes).variances(scenes.test)
    with pytest.raises(InputError, match="fine-tuned after its mixture head"):
        small(fine_tune=True).fit(scenes).mixtures(scenes.test)


def test_calibration_is_the_best_scale_and_shift(scenes: MultiLabelSet) -> None:
    model = small("bce", calibrate=False, epochs=8).fit(scenes)
    network, split = model._fitted(), scenes.validation
    logits = network.logits(split.batch(range(40))).double().flatten()
    labels = torch.from_numpy(np.array(split.labels)).double().flatten()

    def loss(scale: float, shift: float) -> float:
        return float(nn.functional.binary_cross_entropy_with_logits(scale * logits + shift, labels))

    scale, shift = calibrate(network, split, torch.device("cpu"))
    assert scale != 1 and shift != 0
    best = loss(scale, shift)
    assert all(loss(scale + a, shift + b) >= best - 1e-9 for a in (-0.05, 0, 0.05) for b in (-0.05, 0, 0.05))
    torch.testing.assert_close(
        network.logits(split.batch(range(40))).flatten().double(), scale * logits + shift, rtol=1e-4, atol=1e-5
    )


def test_a_custom_encoder_is_trained_saved_and_required_when_loading(scenes: MultiLabelSet, tmp_path: Path) -> None:
    def own() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(1024, 6))

    model = ProbMCL(own(), 10, Config(**SMALL, method="bce")).fit(scenes, tmp_path)
    with pytest.raises(InputError, match="has a custom module as its encoder; expected: that module"):
        ProbMCL.load(tmp_path)
    loaded = checkpoint.load(tmp_path / "model.safetensors", "torch")
    old = tmp_path / "release-0.1.safetensors"
    checkpoint.save(old, loaded.arrays, {**loaded.meta, "encoder": "a module of one's own"})
    with pytest.raises(InputError, match="has a custom module as its encoder"):
        ProbMCL.load(old)
    again = ProbMCL.load(old, encoder=own())
    assert torch.equal(again.predict_proba(scenes.test), model.predict_proba(scenes.test))
    with pytest.raises(InputError, match=r"cannot be read.*the encoder that was trained"):
        ProbMCL.load(tmp_path, encoder=nn.Flatten())


@pytest.mark.parametrize("covariance", ["isotropic", "diagonal"])
def test_images_without_labels_have_no_positives_or_are_refused(covariance: str) -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 4)), np.eye(40, 3, dtype=int)
    data = MultiLabelSet.of((x, y), (x, y), (x, y))
    options = {**SMALL, "head": HeadConfig(8, covariance=covariance, hidden=(16,))}
    options["contrastive"] = ContrastiveConfig(label_aware="each", likelihood_weight=1.0)
    model = ProbMCL("mlp", 3, Config(**options), width=8).fit(data)
    assert bool(model.predict_proba(data.test).isfinite().all())
    with pytest.raises(InputError, match="train: row 3 has no label; expected: at least one"):
        ProbMCL("mlp", 3, Config(**options, require_labels=True), width=8).fit(data)
    nothing = MultiLabelSet.of((x, 0 * y), (x, y), (x, y))
    with pytest.raises(InputError, match="no training row has a label"):
        ProbMCL("mlp", 3, Config(**SMALL), width=8).fit(nothing)


def test_a_non_finite_loss_is_reported_with_its_step(scenes: MultiLabelSet, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)) * 1e30
    y = np.eye(40, 3, dtype=int)
    data = MultiLabelSet.of((x, y), (x, y), (x, y))
    linear = nn.Linear(4, 4)
    with pytest.raises(
        InputError,
        match=r"the loss is (nan|inf) at step \d+, seed 0; .* a learning rate below 0.002 in the joint stage",
    ):
        ProbMCL(linear, 3, Config(**SMALL)).fit(data, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_model_that_is_not_trained_refuses_to_predict(scenes: MultiLabelSet, tmp_path: Path) -> None:
    for work in (lambda m: m.predict_proba(scenes.test), lambda m: m.save(tmp_path / "x"), lambda m: m.inference()):
        with pytest.raises(InputError, match="the model is not trained"):
            work(small())
    with pytest.raises(InputError, match="n_labels must be a whole number >= 1, got 0"):
        ProbMCL(n_labels=0)
    with pytest.raises(InputError, match="the data have 10 labels; expected: n_labels, 9"):
        ProbMCL("convnet", 9, Config(**SMALL)).fit(scenes)
    with pytest.raises(InputError, match="holds no model"):
        ProbMCL.load(tmp_path)
    model = small("bce").fit(scenes)
    with pytest.raises(InputError, match=r"inputs have shape \(2, 8, 8\); expected: \(rows, 1, 32, 32\)"):
        model.predict_proba(np.zeros((2, 8, 8)))


def test_bfloat16_trains_too(scenes: MultiLabelSet) -> None:
    model = small(precision="bfloat16").fit(scenes)
    assert bool(model.predict_proba(scenes.test).isfinite().all())
