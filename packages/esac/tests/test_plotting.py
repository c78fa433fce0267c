from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from esac.results import plotting, records, summaries
from matplotlib.axes import Axes
from PIL import Image
from scipy import stats
from sextet_common.errors import InputError

ORIGINS = ("mean", "crossed", "sac")


def made(
    folder: Path,
    *,
    env: str = "Walk-v1",
    mode: str = "esac",
    seed: int = 0,
    steps: Iterable[float] = (100, 220, 300),
    results: Any = ((1.0, 3.0), (4.0, 6.0), (7.0, 9.0)),
    rows: Iterable[dict[str, Any]] = (),
    **more: Any,
) -> Path:
    """Write a run folder as `esac train` does."""
    folder.mkdir(parents=True)
    config = {"env": env, "options": {}, "seed": seed, "config": {"mode": mode}}
    (folder / "config.json").write_text(json.dumps({"job": "esac train", "config": config}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    at = np.array(list(steps))
    if len(at):
        arrays = {"timesteps": at, "results": np.array(results), "ep_lengths": np.ones(np.shape(results), dtype=int)}
        np.savez(folder / "evaluations.npz", **(arrays | {"seconds": at / 10, "cpu_seconds": at / 20} | more))
    return folder


def sb3(folder: Path, **more: Any) -> Path:
    """Write what Stable-Baselines3's EvalCallback leaves."""
    folder.mkdir(parents=True)
    arrays = {"timesteps": np.array([100, 200]), "results": np.array([[1.0, 3.0], [4.0, 4.0]])}
    np.savez(folder / "evaluations.npz", **(arrays | more))
    return folder


def generations(count: int, seed: int = 0, mode: str = "esac") -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    steps, made_updates, rows = 0, 0, []
    for number in range(count):
        steps += int(random.integers(50, 150))
        row: dict[str, Any] = {"step": number + 1, "time/env_steps": float(steps), "time/seconds": steps / 10}
        if mode != "sac":
            row["es/sigma"] = 0.02 + 0.001 * number
            counts = random.multinomial(4, [0.2, 0.3, 0.5])
            row |= {f"pop/winner_origin/{o}": float(n) for o, n in zip(ORIGINS, counts, strict=True)}
        if mode != "es":
            if mode == "esac" and number % 5 == 4:
                row["sac/p"] = math.exp(-number / 50)
            made_updates += 10 * (number % 5 == 4)
            row["sac/updates"] = float(made_updates)
        rows.append(row)
    return rows


def line(axis: Axes, label: str) -> np.ndarray:
    [found] = [each for each in axis.lines if each.get_label() == label]
    return np.asarray(found.get_xydata())


def shown(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        return picture.size


def test_a_learning_curve_is_the_mean_over_seeds_where_all_have_been_evaluated(tmp_path: Path) -> None:
    folders = [
        made(tmp_path / "a", seed=0, steps=(100, 200, 300), results=((0, 2), (2, 4), (6, 8))),
        made(tmp_path / "b", seed=1, steps=(150, 250, 400), results=((10, 10), (20, 20), (30, 30))),
    ]
    figure = plotting.learning_curves(folders, tmp_path / "curves.png")
    [axis] = figure.axes
    # at 150 the runs' last evaluations were 1 and 10, at 200 3 and 10, at 250 3 and 20, at 300 7 and 20
    np.testing.assert_allclose(line(axis, "esac"), [[150, 5.5], [200, 6.5], [250, 11.5], [300, 13.5]])
    ends = np.array([part.vertices for part in axis.collections[0].get_paths()])[0]
    assert ends[:, 1].min() == 1 and ends[:, 1].max() == 20  # of two seeds, resamples of one alone are the ends
    assert shown(tmp_path / "curves.png")[0] > 500
    assert not list(tmp_path.glob(".*"))


def test_each_environment_has_a_panel_and_each_label_one_colour(tmp_path: Path) -> None:
    folders = [
        made(tmp_path / f"{env}{mode}{seed}", env=env, mode=mode, seed=seed)
        for env in ("Walk-v1", "Run-v1")
        for mode in ("esac", "sac")
        for seed in (0, 1)
    ]
    figure = plotting.learning_curves(folders, tmp_path / "curves.png", "cpu_seconds")
    assert [axis.get_title("left") for axis in figure.axes] == ["Walk-v1", "Run-v1"]
    colours = [{each.get_label(): each.get_color() for each in axis.lines} for axis in figure.axes]
    assert colours[0] == colours[1] and len(set(colours[0].values())) == 2
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["esac", "sac"]
    np.testing.assert_allclose(line(figure.axes[1], "sac")[:, 0], [5, 11, 15])
    assert figure.axes[0].get_xlabel() == "processor seconds"


def test_a_label_comes_from_a_table_or_a_function(tmp_path: Path) -> None:
    folders = [made(tmp_path / "a"), made(tmp_path / "b")]
    named = records.read(folders, {str(tmp_path / "b"): "without crossover"})
    assert [record.label for record in named] == ["esac", "without crossover"]
    called = records.read(folders, lambda folder: folder.name.upper())
    assert [record.label for record in called] == ["A", "B"]


def test_names_are_not_read_as_mathematics(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", env=r"$\frac$-v0", rows=generations(6))
    figure = plotting.learning_curves([folder], tmp_path / "curves.png", label=lambda _: r"$\nothing$")
    assert shown(tmp_path / "curves.png") and figure.axes[0].get_title("left") == r"\$\frac\$-v0"
    plotting.sigma(folder, tmp_path / "sigma.png")


def test_long_runs_are_drawn_at_a_bounded_number_of_points(tmp_path: Path) -> None:
    steps = np.arange(1, 1001)
    folder = made(tmp_path / "a", steps=steps, results=np.stack([steps, steps], axis=1))
    curve = line(plotting.learning_curves([folder], tmp_path / "curves.png").axes[0], "esac")
    assert len(curve) == 200
    np.testing.assert_array_equal(curve[:, 1], np.floor(curve[:, 0]))


def test_what_stable_baselines3_wrote_is_drawn_over_steps_alone(tmp_path: Path) -> None:
    theirs, ours = sb3(tmp_path / "SB3 SAC"), made(tmp_path / "a")
    [axis] = plotting.learning_curves([theirs], tmp_path / "one.png").axes
    assert axis.get_title("left") == "environment not recorded"
    np.testing.assert_array_equal(line(axis, "SB3 SAC"), [[100, 2], [200, 4]])
    [axis] = plotting.learning_curves([ours, theirs], tmp_path / "both.png").axes
    assert axis.get_title("left") == "Walk-v1" and len(axis.lines) == 2
    with pytest.raises(InputError, match="SB3 SAC has no evaluations by seconds"):
        plotting.learning_curves([ours, theirs], tmp_path / "none.png", "seconds")
    assert not (tmp_path / "none.png").exists()


def test_an_evaluation_that_is_not_finite_leaves_a_gap(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", results=((1, 3), (-np.inf, 2), (np.nan, np.inf)))
    curve = line(plotting.learning_curves([folder], tmp_path / "curves.png").axes[0], "esac")
    np.testing.assert_array_equal(curve[:, 1], [2, np.nan, np.nan])


def test_runs_that_do_not_overlap_are_no_curve(tmp_path: Path) -> None:
    folders = [made(tmp_path / "a"), made(tmp_path / "b", seed=1, steps=(400, 500, 600))]
    with pytest.raises(InputError, match="have no steps in common"):
        plotting.learning_curves(folders, tmp_path / "curves.png")


def test_winners_shares_are_those_that_were_counted(tmp_path: Path) -> None:
    rows = generations(20)
    [axis] = plotting.winners(made(tmp_path / "a", rows=rows), tmp_path / "winners.png").axes
    assert [part.get_label() for part in axis.collections] == list(ORIGINS)
    bottom = 0.0
    for origin, part in zip(ORIGINS, axis.collections, strict=True):
        top = bottom + rows[7][f"pop/winner_origin/{origin}"] / 4
        middle = (rows[6]["time/env_steps"] + rows[7]["time/env_steps"]) / 2
        inside = [
            part.get_paths()[0].contains_point((middle, bottom + share * (top - bottom))) for share in (0.01, 0.99)
        ]
        outside = part.get_paths()[0].contains_point((middle, top + 0.01))
        assert all(inside) == (top > bottom) and not outside
        bottom = top
    assert bottom == 1
    assert axis.get_ylim() == (0, 1)


def test_many_generations_are_pooled(tmp_path: Path) -> None:
    rows = generations(600)
    [axis] = plotting.winners(made(tmp_path / "a", rows=rows), tmp_path / "winners.png").axes
    corners = axis.collections[0].get_paths()[0].vertices
    assert len(np.unique(corners[:, 0])) == 61  # 60 bins of ten generations
    first = sum(row["pop/winner_origin/mean"] for row in rows[:10]) / 40
    assert np.isclose(corners[:, 1], first).any()
    assert corners[:, 0].max() == rows[-1]["time/env_steps"]


def test_generations_without_winners_are_drawn_as_nothing(tmp_path: Path) -> None:
    rows = [{"step": 1, "time/env_steps": 0.0, "pop/winner_origin/mean": 0.0}]
    plotting.winners(made(tmp_path / "a", rows=rows), tmp_path / "winners.png")
    assert shown(tmp_path / "winners.png")


def test_the_mutation_and_the_schedule_are_drawn_over_environment_steps(tmp_path: Path) -> None:
    rows = generations(23)
    folder = made(tmp_path / "a", rows=[*rows, {"step": 24}])  # a row that tells no steps
    [axis] = plotting.sigma(folder, tmp_path / "sigma.png").axes
    expected = [(row["time/env_steps"], row["es/sigma"]) for row in rows]
    np.testing.assert_array_equal(axis.lines[0].get_xydata(), expected)
    left, right = plotting.schedule(folder, tmp_path / "schedule.png").axes
    chances = [(row["time/env_steps"], row["sac/p"]) for row in rows if "sac/p" in row]
    np.testing.assert_array_equal(left.lines[0].get_xydata(), chances)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [row["sac/updates"] for row in rows])
    adaptive = [{("sac/share" if k == "sac/p" else k): v for k, v in row.items()} for row in rows]
    left, _ = plotting.schedule(made(tmp_path / "b", rows=adaptive), tmp_path / "schedule.png").axes
    np.testing.assert_array_equal(left.lines[0].get_xydata(), chances)
    assert "share" in left.get_ylabel()


def test_scaling_draws_predictions_and_measurements(tmp_path: Path) -> None:
    table = {"workers": [1, 2, 4], "predicted": [4.0, 2.0, 1.0], "measured": {"10": 3.0, "2": 2.5}, "here": {"2": 2.1}}
    [axis] = plotting.scaling(table, tmp_path / "scaling.png").axes
    np.testing.assert_array_equal(line(axis, "predicted, one core per worker"), [[1, 4], [2, 2], [4, 1]])
    np.testing.assert_array_equal(line(axis, "measured, this machine"), [[2, 2.5], [10, 3]])
    np.testing.assert_array_equal(line(axis, "predicted, this machine"), [[2, 2.1]])
    assert axis.get_xscale() == axis.get_yscale() == "log"


@pytest.mark.parametrize(
    "change",
    [
        {"workers": []},
        {"workers": [1, 2]},
        {"predicted": [1.0, 0.0, 1.0]},
        {"predicted": [1.0, math.nan, 1.0]},
        {"predicted": ["a", "b", "c"]},
        {"workers": [[1], [2], [3]], "predicted": [[1], [2], [3]]},
        {"measured": [1.0]},
        {"measured": {"one": 1.0}},
        {"measured": {"1": 10**400}},
        {"measured": {"0": 1.0}},
    ],
)
def test_a_scaling_table_of_another_form_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    table = {"workers": [1, 2, 4], "predicted": [4.0, 2.0, 1.0], "measured": {"1": 4.0}}
    with pytest.raises(InputError, match="the scaling table cannot be read"):
        plotting.scaling(table | change, tmp_path / "scaling.png")
    assert not list(tmp_path.iterdir())


def test_updates_are_bars_of_means_over_seeds(tmp_path: Path) -> None:
    folders = [
        made(tmp_path / "a", rows=generations(25)),
        made(tmp_path / "b", rows=generations(35), seed=1),
        made(tmp_path / "c", rows=generations(50, mode="sac"), mode="sac"),
        made(tmp_path / "d", rows=generations(50, mode="es"), mode="es"),
    ]
    [axis] = plotting.updates(folders, tmp_path / "updates.png").axes
    assert [bar.get_height() for bar in axis.patches] == [60, 100, 0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["esac", "sac", "es"]
    assert [text.get_text() for text in axis.texts] == ["60", "100", "0"]
    with pytest.raises(InputError, match="has no metrics"):
        plotting.updates([sb3(tmp_path / "e")], tmp_path / "updates.png")


def test_all_pictures_are_drawn_and_named(tmp_path: Path) -> None:
    folders = [made(tmp_path / f"{seed}", seed=seed, rows=generations(12, seed)) for seed in range(4)]
    out = tmp_path / "plots"
    drawn = plotting.draw_all([*folders, sb3(tmp_path / "theirs")], out)
    assert [path.name for path in drawn] == [
        "curves-steps.png", "curves-seconds.png", "updates.png", "winners.png", "sigma.png", "schedule.png",
    ]  # fmt: skip
    assert sorted(drawn) == sorted(out.iterdir())
    assert all(shown(path) for path in drawn)
    # a panel a run, three in a row
    assert shown(out / "winners.png")[0] > 2 * shown(out / "curves-steps.png")[0] - 100


def test_pictures_that_the_runs_lack_are_left_out(tmp_path: Path) -> None:
    def names(folder: Path) -> list[str]:
        return [path.stem for path in plotting.draw_all([folder], tmp_path / "plots")]

    assert names(sb3(tmp_path / "theirs")) == ["curves-steps"]
    gradients = made(tmp_path / "sac", mode="sac", rows=generations(6, mode="sac"))
    assert names(gradients) == ["curves-steps", "curves-seconds", "updates"]
    unevaluated = made(tmp_path / "early", mode="es", steps=(), rows=generations(3, mode="es"))
    assert names(unevaluated) == ["winners", "sigma"]
    assert names(made(tmp_path / "nothing", steps=())) == []
    for draw in (plotting.winners, plotting.sigma, plotting.schedule):
        with pytest.raises(InputError, match="sac has no "):
            draw(gradients, tmp_path / "none.png")


def test_improvements_are_between_every_two_labels_of_an_environment(tmp_path: Path) -> None:
    results = np.random.default_rng(1).normal(size=(7, 3, 4))
    folders = [made(tmp_path / f"{k}", mode=("es", "sac")[k % 2], seed=k, results=results[k]) for k in range(7)]
    folders.append(made(tmp_path / "other", env="Run-v1"))
    [found] = summaries.improvements(folders)
    last = results[:, -1].mean(axis=1)
    wanted = stats.mannwhitneyu(last[::2], last[1::2]).statistic / 12
    assert (found.env, found.label, found.other) == ("Walk-v1", "es", "sac")
    assert found.probability.value == pytest.approx(wanted, abs=1e-12)
    assert 0 <= found.probability.low <= wanted <= found.probability.high <= 1
    assert f"es ends above sac with probability {wanted:.2f}" in str(found)


def test_a_summary_is_of_last_evaluations(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    results = random.normal(size=(6, 3, 4))
    results[5, -1, 2] = -np.inf
    folders = [made(tmp_path / f"{seed}", seed=seed, results=results[seed]) for seed in range(6)]
    folders += [made(tmp_path / "other", env="Run-v1"), made(tmp_path / "none", env="Run-v1", mode="es", steps=())]
    first, second = summaries.summary(folders)
    finals = results[:5, -1].mean(axis=1)
    assert (first.env, first.label, first.seeds, first.failed) == ("Walk-v1", "esac", 6, 1)
    assert first.final == pytest.approx(finals.mean(), rel=1e-12)
    assert first.iqm.value == pytest.approx(stats.trim_mean(finals, 0.25), rel=1e-12)
    assert finals.min() <= first.iqm.low < first.iqm.value < first.iqm.high <= finals.max()
    assert "6 seeds, 1 failed: mean" in str(first)
    assert str(second) == "Run-v1, esac, 1 seed: mean 8.0, IQM 8.0 (95 % interval 8.0 to 8.0)"
    [failed] = summaries.summary([made(tmp_path / "nan", results=np.full((3, 2), np.nan))])
    assert failed.failed == 1 and math.isnan(failed.final) and math.isnan(failed.iqm.value)


def test_seeds_are_counted_once(tmp_path: Path) -> None:
    first, second = made(tmp_path / "a"), made(tmp_path / "b")
    with pytest.raises(InputError, match="is given twice"):
        records.read([first, tmp_path / "b" / ".." / "a"])
    with pytest.raises(InputError, match="are both esac with seed 0 on Walk-v1"):
        plotting.draw_all([first, second], tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
    assert len(records.read([first, second], {second: "another"})) == 2


def archive(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **({"timesteps": np.array([1, 2]), "results": np.ones((2, 3))} | arrays))
    return content.getvalue()


def pickled() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Path("x"), None]), allow_pickle=True)
    return content.getvalue()


def zipped(content: bytes) -> bytes:
    """Put raw bytes where the array seconds is looked for."""
    whole = io.BytesIO(archive())
    with zipfile.ZipFile(whole, "a") as file:
        file.writestr("seconds.npy", content)
    return whole.getvalue()


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        pickled(),
        archive()[:-30],
        archive(results=np.array([[None, 1.0]] * 2)),
        archive(results=np.array([["a"], ["b"]])),
        archive(results=np.ones(2)),
        archive(results=np.ones((3, 3))),
        archive(results=np.ones((2, 0))),
        archive(results=np.full((2, 2), 1e200)),
        archive(results=np.ones((2, 2), dtype=complex)),
        archive(results=np.zeros((2, 2), dtype=[("a", float)])),
        archive(timesteps=np.array([2, 1])),
        archive(timesteps=np.array([-1, 1])),
        archive(timesteps=np.array([1.0, np.nan])),
        archive(timesteps=np.array(5)),
        archive(timesteps=np.ones((2, 1))),
        archive(seconds=np.array([1.0])),
        archive(seconds=np.array([1.0, np.inf])),
        zipped(header("(" * 5000)),
        zipped(header("(99999999999,)")),
        zipped(header("(9" + "9" * 40 + ",)")),
        zipped(header("('a',)")),
        zipped(b"\x93NUMPY\x09\x00"),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_a_damaged_or_hostile_evaluations_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = made(tmp_path / "a")
    (folder / "evaluations.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"evaluations\.npz cannot be read"):
        plotting.learning_curves([folder], tmp_path / "curves.png")


def test_an_archive_that_unpacks_to_very_much_is_refused_before_it_does(tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    with (
        zipfile.ZipFile(folder / "evaluations.npz", "a", zipfile.ZIP_DEFLATED) as file,
        file.open("large.npy", "w") as member,
    ):
        for _ in range(272):
            member.write(bytes(1 << 20))
    assert (folder / "evaluations.npz").stat().st_size < 1 << 20
    with pytest.raises(InputError, match="unpacks to"):
        records.read([folder])


def test_flipped_bytes_never_bring_about_another_error(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", rows=generations(3))
    random = np.random.default_rng(0)
    for name in ("evaluations.npz", "config.json", "metrics.jsonl"):
        whole = (folder / name).read_bytes()
        noticed = 0
        for _ in range(100):
            damaged = np.frombuffer(whole, dtype=np.uint8).copy()
            damaged[random.integers(len(whole), size=3)] = random.integers(256, size=3)
            (folder / name).write_bytes(damaged.tobytes())
            try:
                [record] = records.read([folder])
                record.steps()
                noticed += len(record.rows) < 3  # a damaged line of metrics is left out
            except InputError:
                noticed += 1
        assert noticed > 20, name
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "{}", "config.json cannot be read"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("config.json", '{"job": "esac train", "config": {"env": "a"}}', "config.json cannot be read"),
        ("config.json", '{"job": "x", "config": {"env": "a", "seed": 0, "config": 3}}', "config.json cannot be read"),
        ("config.json", '{"job": "x", "config": {"env": "a", "seed": [0], "config": {"mode": "es"}}}', "has seed"),
        ("config.json", '{"job": "x", "config": {"env": 3, "seed": 0, "config": {"mode": "es"}}}', "is named 3"),
        ("config.json", '{"job": "x", "config": {"env": "\\ud800", "seed": 0, "config": {"mode": "es"}}}', "is named"),
        ("metrics.jsonl", "[1]", "has no es/sigma in its metrics.jsonl"),
        ("metrics.jsonl", "[" * 100_000, "metrics.jsonl cannot be read"),
        ("metrics.jsonl", '{"step": 1, "es/sigma": 1, "time/env_steps": "many"}', "time/env_steps is 'many'"),
        ("metrics.jsonl", '{"step": 1, "es/sigma": null, "time/env_steps": 1}', "es/sigma is None"),
        ("metrics.jsonl", '{"step": 1, "es/sigma": 1, "time/env_steps": 1' + "0" * 400 + "}", "time/env_steps is 1000"),
        ("metrics.jsonl", '{"step": 1, "es/sigma": 1}', "time/env_steps is missing or decreases"),
        ("metrics.jsonl", '{"step": 1, "es/sigma": 1, "time/env_steps": -1}', "time/env_steps is missing or decreases"),
    ],
)
def test_a_damaged_run_folder_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    folder = made(tmp_path / "a")
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=words):
        plotting.sigma(folder, tmp_path / "sigma.png")
    assert not (tmp_path / "sigma.png").exists()


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: records.read([]), "no run folder"),
        (lambda: records.read([tmp_path / "nowhere"]), "nowhere holds no run"),
        (lambda: plotting.learning_curves([], "x.png", "hours"), "axis 'hours'"),  # type: ignore[arg-type] # what is wrong
        (lambda: records.read([made(tmp_path / "a")], lambda _: ""), "is named ''"),
    ]
    for call, words in calls:
        with pytest.raises(InputError, match=words):
            call()
    (tmp_path / "b" / "evaluations.npz").mkdir(parents=True)
    with pytest.raises(InputError, match="is not a file"):
        records.read([tmp_path / "b"])


def test_the_modules_import_without_torch_and_matplotlib() -> None:
    code = "import sys, esac.plotting; assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
