"""The command line says and writes what the functions return."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gmr_metric.__main__ import main
from gmr_metric.density.mixture import GaussianMixture
from gmr_metric.distances.metrics import distance
from gmr_metric.reduction.api import BUILT_IN, available_methods, reduce


@pytest.fixture
def folder(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(1, 10, 2).save("mixture.json")
    make(2, 3, 2).save("other.npz")
    return tmp_path


def command(words: str) -> int:
    return main(words.split())


def test_reduce_writes_the_mixture_the_trace_and_the_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("reduce mixture.json -k 4 --method runnalls --out reduced.json --trace trace.json --plot r.png") == 0
    original = GaussianMixture.load("mixture.json")
    expected = reduce(original, 4, "runnalls")
    found = GaussianMixture.load("reduced.json")
    np.testing.assert_array_equal(found.covariances, expected.mixture.covariances)
    trace = json.loads(Path("trace.json").read_text())
    assert trace["assignment"] == expected.assignment.tolist()
    assert [tuple(s["components"]) for s in trace["history"]] == [s.components for s in expected.history]
    assert Path("r.png").read_bytes()[1:4] == b"PNG"
    said = capsys.readouterr().out
    ise = distance(original, expected.mixture, "ise")
    assert said.startswith(f"10 components to 4: angle {expected.distance:.6g}, ISE {ise:.6g}, ")
    assert said.endswith("; reduced.json, trace.json, r.png\n") and said.count("\n") == 1


def test_what_reduce_prints_is_the_file_it_would_write(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("reduce mixture.json -k 3 --method runnalls") == 0
    printed = capsys.readouterr().out
    assert command("reduce mixture.json -k 3 --method runnalls --out r.json") == 0
    assert Path("r.json").read_text() == printed


def test_every_method_can_be_traced_and_is_named_in_the_help(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("reduce --help") == 0
    words = re.findall(r"[\w-]+", capsys.readouterr().out)
    for method in BUILT_IN:  # other tests may have registered more
        assert method in words
        assert command(f"reduce mixture.json -k 3 --method {method} --out r.json --trace {method}.json") == 0
        assert len(json.loads(Path(f"{method}.json").read_text())["assignment"]) == 10


def test_reduce_takes_a_distance_and_a_methods_own_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("reduce mixture.json --max-distance 0.2 --method williams --option reference=current") == 0
    Path("printed.json").write_text(capsys.readouterr().out)
    expected = reduce(GaussianMixture.load("mixture.json"), method="williams", max_distance=0.2, reference="current")
    np.testing.assert_array_equal(GaussianMixture.load("printed.json").means, expected.mixture.means)
    assert command("reduce mixture.json -k 3 --method threshold --option gate=0.5 --out r.npz") == 0
    assert len(GaussianMixture.load("r.npz")) <= 3


def test_a_repeated_option_adds_to_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("reduce mixture.json -k 3 --option refine=none --option reference=current --out r.json") == 0
    expected = reduce(GaussianMixture.load("mixture.json"), 3, refine="none", reference="current")
    np.testing.assert_array_equal(GaussianMixture.load("r.json").means, expected.mixture.means)
    assert command("reduce mixture.json -k 3 --option refine=bogus --option reference=current --out r.json") == 2
    assert "refine must be final, each or none, got 'bogus'" in capsys.readouterr().err


def test_distance_prints_one_or_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    f, g = GaussianMixture.load("mixture.json"), GaussianMixture.load("other.npz")
    assert command("distance mixture.json other.npz") == 0
    assert float(capsys.readouterr().out) == pytest.approx(distance(f, g), rel=1e-11)
    assert command("distance mixture.json other.npz --metric all") == 0
    lines = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert float(lines["mw2"]) == pytest.approx(distance(f, g, "mw2"), rel=1e-11)
    assert float(lines["kl"]) == pytest.approx(distance(f, g, "kl"), rel=1e-5)


def test_compare_shows_every_method_by_its_angle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("compare mixture.json -k 3 --json c.json --plot c.png --samples 500") == 0
    rows = json.loads(Path("c.json").read_text())
    assert {row["method"] for row in rows} == set(available_methods())
    angles = [row["angle"] for row in rows]
    assert angles == sorted(angles)
    oggmr = next(row for row in rows if row["method"] == "oggmr")
    assert oggmr["angle"] == pytest.approx(reduce(GaussianMixture.load("mixture.json"), 3).distance, rel=1e-9)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == [row["method"] for row in rows]
    assert Path("c.png").exists()


def test_compare_continues_if_a_method_fails(make, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(3, 14, 1).save("large.json")
    assert command("compare large.json -k 3 --samples 200") == 0
    assert "brute-force over 14 components" in capsys.readouterr().out
    assert command("compare large.json -k 3 --methods brute-force,runnalls --samples 200 --plot c.png") == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == ["runnalls", "brute-force"]
    assert command("compare large.json -k 3 --methods brute-force") == 2  # nothing is left to compare
    assert "at most 13 components" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["points.csv", "bare.csv", "points.npy"])
def test_kde_reads_tables_with_and_without_names_and_arrays(folder: Path, name: str) -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    np.savetxt("points.csv", points, delimiter=",", header="width,height", comments="")
    np.savetxt("bare.csv", points, delimiter=",")
    np.save("points.npy", points)
    assert main(["kde", name, "--bandwidth", "0.4", "--out", "kde.json"]) == 0
    expected = GaussianMixture.from_kde(points, 0.4)
    np.testing.assert_allclose(GaussianMixture.load("kde.json").covariances, expected.covariances, rtol=1e-12)


def test_bad_input_is_one_line_and_leaves_no_file(make, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.json").write_text('{"format": "gmr-metric mixture", ')
    Path("words.csv").write_text("a,b\n1,two\n")
    Path("half.csv").write_text("1,x\n2,3\n4,5\n6,1\n")
    Path("empty.csv").touch()
    make(4, 2, 3).save("space.json")
    np.save("complex.npy", np.ones((5, 2)) * 1j)
    for words, message in (
        ("reduce missing.json -k 3", "missing.json does not exist"),
        ("reduce broken.json -k 3", "broken.json cannot be read"),
        ("reduce mixture.json -k 11 --out r.json", "n_components must be a whole number in [1, 10]"),
        ("reduce mixture.json --out r.json", "neither n_components nor max_distance"),
        ("reduce mixture.json -k 2 --method best --out r.json", "method 'best' is unknown; expected: prune, threshold"),
        ("reduce mixture.json -k 2 --option reference --out r.json", "option 'reference'; expected: NAME=VALUE"),
        ("reduce mixture.json -k 2 --option gate=1 --out r.json", "oggmr has no option 'gate'"),
        (
            "reduce mixture.json -k 2 --method prune --option threshold=high --out r.json",
            "threshold must be a number in [0, 1], got 'high'",
        ),
        (
            "reduce mixture.json -k 2 --method threshold --option gate=[1] --out r.json",
            "gate must be a number > 0, got [1]",
        ),
        (
            "reduce mixture.json -k 2 --method ctd --option regularization=null --out r.json",
            "regularization must be a number >= 0, got None",
        ),
        ("reduce mixture.json -k 2 --method ctd --option cost=[1] --out r.json", "cost must be kl, w2 or cs, got [1]"),
        (
            "reduce mixture.json -k 2 --method gmrc --option refine=False --out r.json",
            "refine must be True or False, got 'False'",
        ),
        (
            "reduce mixture.json -k 2 --method west --option weighting=1 --out r.json",
            "weighting must be plain, trace or determinant, got 1",
        ),
        (
            "reduce mixture.json -k 2 --method salmond --option neighbours=-3 --out r.json",
            "neighbours must be a whole number >= 0",
        ),
        ("reduce mixture.json -k 2 --method runnalls --option neighbours=1.5 --out r.json", "a whole number >= 0"),
        (
            "reduce mixture.json -k 2 --method runnalls --option neighbours=few --out r.json",
            "neighbours must be a whole number >= 0",
        ),
        ("reduce mixture.json -k 2 --out r.txt", "unknown suffix"),
        ("reduce missing.json -k 2 --out r.txt", "unknown suffix"),  # before any work
        ("reduce mixture.json -k 2 --out r.json --plot r.pdf", "r.pdf has an unknown suffix; expected: .png"),
        ("reduce mixture.json -k 2 --out words.csv/r.json", "words.csv cannot be written"),
        ("distance mixture.json other.npz --metric far", "metric 'far' is unknown"),
        ("distance mixture.json space.json", "got 2 and 3 dimensions"),
        ("compare mixture.json -k 0", "n_components must be a whole number in [1, 10]"),
        ("compare mixture.json -k 2 --methods runnalls,best", "method 'best' is unknown; expected: prune, threshold"),
        ("compare mixture.json -k 2 --plot c.jpg", "c.jpg has an unknown suffix; expected: .png"),
        ("kde half.csv --out k.json", "half.csv cannot be read"),
        ("kde empty.csv --out k.json", "empty.csv cannot be read: it holds no numbers"),
        ("kde complex.npy --out k.json", "complex.npy cannot be read: its numbers are complex128"),
        ("kde words.csv --out k.json", "words.csv cannot be read"),
        ("kde none.npy --out k.json", "none.npy does not exist"),
        ("kde words.csv --bandwidth wide --out k.json", "bandwidth is 'wide'"),
    ):
        assert command(words) == 2, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not any(Path(name).exists() for name in ("r.json", "r.txt", "r.pdf", "c.jpg", "k.json"))


def test_the_module_runs_as_a_program(folder: Path) -> None:
    def program(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "gmr_metric", *words], capture_output=True, text=True, check=False)

    assert program("--version").stdout.startswith("gmr-metric ")
    assert program("distance", "mixture.json", "mixture.json").stdout == "0\n"
    failed = program("distance", "mixture.json", "missing.json")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1


def test_levels_write_one_file_each_from_one_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("reduce mixture.json --levels 2,7,4 --method runnalls --out r.npz") == 0
    assert capsys.readouterr().out.endswith("; r-7.npz, r-4.npz, r-2.npz\n")
    for count in (7, 4, 2):
        expected = reduce(GaussianMixture.load("mixture.json"), count, "runnalls").mixture
        np.testing.assert_array_equal(GaussianMixture.load(f"r-{count}.npz").covariances, expected.covariances)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("--levels 3,x --method runnalls --out r.npz", "levels are '3,x'"),
        ("--levels 3,0 --method runnalls --out r.npz", "levels are '3,0'"),
        ("--levels 3 --method runnalls", "levels without a file"),
        ("--levels 3 -k 2 --method runnalls --out r.npz", "levels without a file, or with another number"),
        ("--levels 3,11 --method runnalls --out r.npz", "level 11 of 10 components"),
        ("--levels 3,5 --out r.npz", "levels of oggmr"),
        ("--levels 3,5 --method cowa --out r.npz", "levels of cowa"),
    ],
)
def test_bad_levels_are_refused(words: str, error: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"reduce mixture.json {words}") != 0
    assert error in capsys.readouterr().err
    assert not list(folder.glob("r*"))


def test_a_stream_in_two_files_is_the_stream_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    points = np.random.default_rng(0).normal(size=(500, 2))
    np.savetxt("all.csv", points, delimiter=",", header="a,b", comments="")
    np.savetxt("first.csv", points[:321], delimiter=",")
    np.save("rest.npy", points[321:])
    settings = "-k 8 --forgetting 200 --bandwidth scott"
    assert command(f"stream all.csv --out all.npz {settings}") == 0
    assert capsys.readouterr().out == "500 samples, 8 components in 2 dimensions; all.npz\n"
    assert command(f"stream first.csv --out some.npz --state s.npz {settings}") == 0
    assert command("stream rest.npy --out parts.npz --state s.npz") == 0
    np.testing.assert_array_equal(GaussianMixture.load("parts.npz").means, GaussianMixture.load("all.npz").means)
    assert command("stream rest.npy --out parts.npz --state s.npz -k 9") == 2
    assert "n_components is 9, but 8 in s.npz" in capsys.readouterr().err
    assert command("stream rest.npy --out parts.npz --bandwidth best") == 2
    assert "predictive, scott, silverman or a number > 0" in capsys.readouterr().err


def test_a_stream_comes_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\n" + "\n".join(map(str, range(30)))))
    assert command(f"stream - --out {tmp_path}/m.json -k 4") == 0
    assert GaussianMixture.load(tmp_path / "m.json").mean()[0] == pytest.approx(14.5)


def test_convert_and_kde_write_other_types(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = GaussianMixture([1.0], [[0.0, 1.0]], [[1.0, 3.0]])
    mixture.save("diag.json")
    assert main(["convert", "diag.json", "--to", "full.npz", "--covariance-type", "full"]) == 0
    assert capsys.readouterr().out == "1 components in 2 dimensions, full; full.npz\n"
    assert GaussianMixture.load("full.npz") == mixture.convert("full")
    assert main(["convert", "full.npz", "--to", "one.json", "--covariance-type", "spherical"]) == 0
    assert GaussianMixture.load("one.json").covariances.tolist() == [2.0]
    assert main(["distance", "diag.json", "full.npz"]) == 2
    assert "of type diag and full; expected: one type: convert one with .convert('full')" in capsys.readouterr().err
    np.save("points.npy", np.random.default_rng(0).normal(size=(20, 2)))
    assert main(["kde", "points.npy", "--out", "kde.json", "--covariance-type", "diag"]) == 0
    assert GaussianMixture.load("kde.json").covariance_type == "diag"


def test_a_distance_below_its_rounding_error_is_printed_with_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = GaussianMixture([0.3, 0.7], [0.0, 1.0], [1.0, 2.0])
    whole.save("a.json")
    weights = [0.1, 0.2, 0.7]
    GaussianMixture(weights, [0.0, 1e-16, 1.0], [1.0, 1.0, 2.0]).save("b.json")
    assert main(["distance", "a.json", "b.json"]) == 0
    assert "(below its rounding error of " in capsys.readouterr().out
    assert main(["distance", "a.json", "a.json"]) == 0
    assert capsys.readouterr().out == "0\n"
