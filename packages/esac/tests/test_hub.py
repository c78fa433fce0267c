"""A policy for the Hugging Face Hub comes back bit-identically, with its environment."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from esac import NumpyPolicy, PolicyShape, export_hub
from esac.__main__ import main
from esac.results.hub_folder import read_hub
from sextet_common import runs
from sextet_common.errors import InputError


def build(action: str = "tanh") -> NumpyPolicy:
    shape = PolicyShape(3, 1, (8, 8))
    vector = shape.initial(np.random.default_rng(0))
    return NumpyPolicy(shape, np.array([-2.0]), np.array([2.0]), vector, action)  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["tanh", "clip"])
def test_an_exported_policy_comes_back_and_acts_bit_identically(tmp_path: Path, action: str) -> None:
    policy = build(action)
    export_hub(policy, tmp_path / "out", "Pendulum-v1", {"g": 9.81})
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "config.json", "policy.safetensors"]
    again = NumpyPolicy.from_pretrained(tmp_path / "out")
    assert again.action == action and again.shape == policy.shape
    np.testing.assert_array_equal(again.vector, policy.vector)
    observations = np.random.default_rng(1).normal(size=(20, 3))
    np.testing.assert_array_equal(again.batch(observations), policy.batch(observations))
    assert read_hub(tmp_path / "out")[1:] == ("Pendulum-v1", {"g": 9.81})


def test_the_card_is_a_model_card_with_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export_hub(build(), tmp_path / "out", "Pendulum-v1", returns=[-100.0, -200.0], license="mit")
    data = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("mit", "esac", "reinforcement-learning")
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "Pendulum-v1",
        "mean_reward",
        "-150.00 +/- 50.00",
    )


def test_a_folder_whose_environment_would_import_a_module_is_refused(tmp_path: Path) -> None:
    export_hub(build(), tmp_path / "out", "Pendulum-v1")
    (tmp_path / "out" / "config.json").write_text(json.dumps({"env": "os:Pendulum-v1", "options": {}}))
    with pytest.raises(InputError, match="names the environment 'os:Pendulum-v1'"):
        read_hub(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        read_hub(tmp_path / "out")


def test_a_foreign_safetensors_file_is_one_line(tmp_path: Path) -> None:
    from sextet_common import checkpoint

    checkpoint.save(tmp_path / "policy.safetensors", {"vector": np.zeros(3)})
    with pytest.raises(InputError, match="cannot be read"):
        NumpyPolicy.from_pretrained(tmp_path)


def test_the_commands_export_a_run_and_evaluate_its_folder_or_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    record = {"env": "Pendulum-v1", "options": {"max_episode_steps": 20}, "seed": 0, "config": {}}
    with runs.Run.open("run", "esac train", record) as run:
        build().save(run.path / "best.npz")
        (run.path / "eval.json").write_text(json.dumps({"best": {"returns": [-10.0, -20.0]}}))
    assert main(["export", "run", "--to", "out"]) == 0 and main(["export", "run", "--to", "out"]) == 2
    assert "out exists" in capsys.readouterr().err
    assert "-15.00 +/- 5.00" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: "out", raising=False)
    reports = []
    for name in ("run", "out", "owner/name"):
        assert main(["evaluate", name, "--episodes", "2"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["returns"] == reports[1]["returns"] == reports[2]["returns"]
    assert reports[1]["lengths"] == [20, 20]
