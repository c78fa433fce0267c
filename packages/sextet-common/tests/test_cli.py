from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import tyro
from sextet_common import checkpoint, cli
from sextet_common.__main__ import main
from sextet_common.checks import Count, Growing, Positive, Running, Share, check_fields
from sextet_common.errors import InputError
from sextet_common.options import Advanced, Group
from sextet_common.runs import Run, to_json


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    steps: int = 3
    """How many steps."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}", "a whole number >= 1")


def work(out: Path, config: Config, kind: str = "plain") -> None:
    """Do the work."""
    if kind == "bad":
        raise InputError("kind is bad", "a good\nkind")
    if kind == "stop":
        raise KeyboardInterrupt
    if kind == "bug":
        raise ZeroDivisionError
    print(out, config.steps, kind)


def call(*words: str) -> int:
    return cli.run("sextet-common", {"work": work}, words)


def test_options_come_from_the_function_and_its_dataclass(capsys) -> None:
    assert call("work", "--out", "a/b", "--steps", "7") == 0
    assert capsys.readouterr() == ("a/b 7 plain\n", "")


def test_version_and_help_succeed(capsys) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"sextet-common {version('sextet-common')}\n"
    assert call() == call("--help") == call("work", "--help") == 0
    assert "How many steps." in capsys.readouterr().out


MODULE = '''
"""Commands."""
import sys
from json import dumps

LOADED = sys.stderr.write("imported ")

def map_(text: str = "a") -> None:
    """Draw a map.

    More words.
    """
    print(dumps(text))

def two_words() -> None:
    """Say two."""
    print(_helper())

def _helper() -> str:
    return "helped"
'''


def test_a_module_of_commands_is_imported_only_when_one_of_them_runs(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "some_commands.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.run("sextet-common", "some_commands", ["--help"]) == 0
    out, err = capsys.readouterr()
    assert "  map        Draw a map.\n  two-words  Say two.\n" in out and "helper" not in out and "dumps" not in out
    assert err == ""
    assert cli.run("sextet-common", "some_commands", ["mpa"]) == 2
    assert (
        capsys.readouterr().err
        == "sextet-common: 'mpa' is not a command; did you mean map? (see sextet-common --help)\n"
    )
    assert cli.run("sextet-common", "some_commands", ["map", "--text", "b"]) == 0
    assert capsys.readouterr() == ('"b"\n', "imported ")
    assert cli.run("sextet-common", "some_commands", ["two-words"]) == 0
    assert capsys.readouterr().out == "helped\n"


def test_a_command_may_be_made_for_its_options(capsys) -> None:
    @cli.from_options
    def greet(options):
        """Say hello."""

        def command(name: str = options[-1].upper()) -> None:
            print("hello", name)

        return command

    assert cli.run("sextet-common", {"greet": greet}, ["greet", "--name", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    assert cli.run("sextet-common", {"greet": greet}, ["--help"]) == 0
    assert "greet  Say hello." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["work", "--out", "a", "--kind", "bad"], "kind is bad; expected: a good kind"),
        (["work", "--out", "a", "--steps", "x"], "--steps"),
        (["work", "--out", "a", "--steps", "0"], "sextet-common: steps is 0; expected: a whole number >= 1"),
        (["work", "--out", "a", "--stepz", "1"], "--stepz"),
        (["work"], "--out"),
        (["play"], "play"),
    ],
)
def test_what_a_user_got_wrong_is_one_line_and_exit_code_2(capsys, words: list[str], message: str) -> None:
    assert call(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("sextet-common: ") and message in err


def test_our_own_faults_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        call("work", "--out", "a", "--kind", "bug")


def test_an_interrupt_exits_130(capsys) -> None:
    assert call("work", "--out", "a", "--kind", "stop") == 130
    assert capsys.readouterr().err == "sextet-common: stopped\n"


JOB = """
import sys, time
import numpy as np
from sextet_common import checkpoint, cli, runs

def job() -> None:
    '''Count.'''
    run = runs.Run.open(sys.argv[1], "count", {})
    with runs.interruptible() as stopping:
        for step in range(1, 10_000):
            if step == 1:
                print("started", flush=True)
            time.sleep(0.01)
            if stopping():
                checkpoint.save_step(run.checkpoints, step, {"x": np.ones(1)}, {"step": step})
                break

sys.exit(cli.run("sextet-common", {"job": job, "other": job}, ["job"]))
"""


def test_control_c_writes_a_checkpoint_and_exits_130(tmp_path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "started\n"
    time.sleep(0.05)
    os.kill(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "sextet-common: stopped\n")
    assert Run.read(tmp_path / "run").resume("numpy") is not None


def test_a_reader_that_leaves_is_no_error() -> None:
    program = "import sys; from sextet_common import cli; sys.exit(cli.run('sextet-common', {'a': a, 'b': a}, ['a']))"
    program = "def a() -> None:\n    '''Print much.'''\n    for _ in range(100000): print('x' * 50)\n" + program
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert (child.wait(timeout=60), err) == (0, b"")


def test_the_packages_own_commands_work(tmp_path, capsys) -> None:
    assert main(["machine"]) == 0
    assert "cores" in capsys.readouterr().out
    assert main(["data", "digits", "--picture", str(tmp_path / "digits.png")]) == 0
    assert "1437 training and 360 test images, 1x8x8" in capsys.readouterr().out
    assert (tmp_path / "digits.png").stat().st_size > 1000
    checkpoint.save(tmp_path / "c.safetensors", {"weights": np.ones((2, 3))}, {"step": 4})
    assert main(["verify", str(tmp_path / "c.safetensors")]) == 0
    assert "(2, 3)" in capsys.readouterr().out
    Run.open(tmp_path / "run", "demo", {}).log(1, loss=0.5)
    assert main(["tensorboard", str(tmp_path / "run")]) == 0
    assert list((tmp_path / "run" / "tensorboard").iterdir())


@dataclasses.dataclass(frozen=True)
class Views:
    """Views of an image."""

    count: Annotated[Count, tyro.conf.arg(name="views")] = 8
    """Views of every image."""
    seed: Annotated[int, tyro.conf.arg(name="views-seed")] = 0


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train."""

    steps: Growing[Count] = 1000
    """Steps."""
    lr: Positive | None = None
    method: Literal["dm", "datadam", "atom"] = "dm"
    seed: int = 0
    scales: Advanced[tuple[Share, ...]] = (0.5,)
    """Scales that few need."""
    size: Annotated[tuple[int, int], Group("pictures")] = (8, 8)
    workers: Running[int] = 2
    weights: Path | None = None
    name: str = "x"
    limit: Count | None = 7
    flip: Advanced[bool] = True
    views: Views = dataclasses.field(default_factory=Views)

    def __post_init__(self) -> None:
        check_fields(self)


received: list[tuple[Path, Training, bool]] = []


def train(out: Path, config: Training, quick: bool = False) -> None:
    """Train.

    Parameters
    ----------
    out
        The run folder.
    """
    received.append((out, config, quick))


def trained(*words: str) -> tuple[Path, Training, bool]:
    assert cli.run("sextet-common", {"train": train}, ["train", *words]) == 0
    return received.pop()


def refused(capsys, *words: str) -> str:
    assert cli.run("sextet-common", {"train": train}, ["train", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("sextet-common: ")
    return err.removeprefix("sextet-common: ").rstrip()


def test_the_help_lists_options_under_their_headings(capsys, monkeypatch) -> None:
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        assert cli.run("sextet-common", {"train": train}, ["train", "--help"]) == 0
        page = capsys.readouterr().out
        assert max(map(len, page.splitlines())) <= width and "None" not in page
        headings = ("options", "pictures options", "views options", "running options", "advanced options")
        options = ("--steps INT", "--size INT INT", "--views INT", "--workers INT", "--scales FLOAT ...")
        lines = [line for pair in zip(headings, options, strict=True) for line in pair]
        places = [page.index(f"\n{line}:\n" if line in headings else f"\n  {line}") for line in lines]
        assert places == sorted(places)
        assert "  --method {dm,datadam,atom}\n" in page and "  --flip, --no-flip" in page
        assert "Steps. (default: 1000)" in page and "Scales that few need. (default: 0.5)" in page
        assert "--out PATH" in page and "The run folder. (required)" in page and "--config FILE" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stps", "3"], "--stps is not an option of train; did you mean --steps?"),
        (["--no-flop"], "--no-flop is not an option of train; did you mean --no-flip or --flip?"),
        (["--" + "x" * 300], f"--{'x' * 18}…{'x' * 19} is not an option of train (see sextet-common train --help)"),
        (["--method", "dam"], "invalid choice 'dam' for argument '--method'. Expected one of ('dm', 'data"),
        (["--steps", "many"], "--steps must be INT, got 'many'"),
        (["--steps", "0"], "steps must be a whole number >= 1, got 0"),
        (["--steps"], "Missing value for argument '--steps'. Expected 1 values."),
        (["--size", "1"], "Missing value for argument '--size'. Expected 2 values."),
        (["--scales", "a", "b"], "--scales must be FLOAT ..., got ['a', 'b']"),
        (["left", "over"], "Unrecognized options: left, over (see sextet-common train --help)"),
    ],
)
def test_a_mistake_is_one_short_line_with_the_nearest_names(capsys, words: list[str], message: str) -> None:
    said = refused(capsys, "--out", "a", *words)
    assert said.startswith(message) and len(said) <= 160
    assert refused(capsys) == "train needs --out PATH (see sextet-common train --help)"


def test_options_come_from_toml_and_the_command_line_wins(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        'out = "runs/a"\nsteps = 5\nlr = 1\nquick = true\nmethod = "atom"\nscales = [0.25, 1]\nviews-seed = 4\n'
        'size = [2, 3]\nflip = false\n[config]\nweights = "w.npz"\n[views]\ncount = 2\n'
    )
    expected = Training(
        steps=5, lr=1.0, method="atom", scales=(0.25, 1.0), size=(2, 3), flip=False, weights=Path("w.npz"),
        views=Views(2, 4),
    )  # fmt: skip
    assert trained("--config", str(file)) == (Path("runs/a"), expected, True)
    over = trained(f"--config={file}", "--steps", "7", "--no-quick", "--flip", "--scales", "0.5", "--out", "b")
    assert over == (Path("b"), dataclasses.replace(expected, steps=7, flip=True, scales=(0.5,)), False)
    assert all(type(value) is float for value in over[1].scales) and type(over[1].lr) is float


def test_a_list_of_a_file_takes_no_positional_word_and_may_be_of_a_repeated_option(tmp_path, capsys) -> None:
    def show(
        name: str, /, options: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (), sizes: tuple[int, ...] = ()
    ) -> None:
        """Show."""
        print(name, options, sizes)

    file = tmp_path / "a.toml"
    file.write_text('sizes = [1, 2]\noptions = ["a=1", "b=--c"]\nname = "other"\n')
    for words in (["you"], ["you", "--sizes", "1", "2"], ["--options", "a=1", "--options=b=--c", "you"]):
        assert cli.run("sextet-common", {"show": show}, ["show", "--config", str(file), *words]) == 0
        assert capsys.readouterr().out == "you ('a=1', 'b=--c') (1, 2)\n"


def test_the_settings_of_an_earlier_run_come_back_from_its_config_json(tmp_path, capsys) -> None:
    config = Training(steps=5, method="atom", scales=(), weights=Path("w"), views=Views(3, 9), name="", limit=None)
    record = {**to_json(config), "data_sha256": "00", "network": "ResNet", "out": "old", "quick": True}
    Run.open(tmp_path / "run", "sextet-common train", record)
    for file in (tmp_path / "run", tmp_path / "run" / "config.json"):
        assert trained("--config", str(file), "--out", "new") == (Path("new"), config, True)
    assert "needs --out PATH" in refused(capsys, "--config", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stps = 3", "stps is not an option of train; did you mean --steps?"),
        ("[views]\ncuont = 3", "views.cuont is not an option of train"),
        ("steps = 0", "steps must be a whole number >= 1, got 0"),
        ('steps = "5"', "steps must be a whole number >= 1, got '5'"),
        ("method = 'x'", "method must be dm, datadam or atom, got 'x'"),
        ("flip = 1", "flip must be True or False, got 1"),
        ("scales = [2]", "scales[0] must be a number in [0, 1], got 2"),
        ("size = [1, 2, 3]", "size must be a tuple of 2, got [1, 2, 3]"),
        ("steps = ", "cannot be read: "),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_key(tmp_path, capsys, content: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(content)
    said = refused(capsys, "--config", str(file), "--out", "a")
    assert str(file) in said and message in said


def test_a_file_that_is_missing_or_of_another_form_is_said(tmp_path, capsys) -> None:
    assert "none.toml does not exist" in refused(capsys, "--config", str(tmp_path / "none.toml"))
    (tmp_path / "list.json").write_text(json.dumps([1]))
    assert "list.json cannot be read" in refused(capsys, "--config", str(tmp_path / "list.json"))
    assert "--config needs a file" in refused(capsys, "--config")


def test_a_command_made_for_its_options_sees_those_of_the_file(tmp_path, capsys) -> None:
    @cli.from_options
    def made(options):
        """Greet."""
        default = next((word.partition("=")[2] for word in options), "").upper()

        def greet(name: str = "", again: str = default) -> None:
            print(name, again)

        return greet

    (tmp_path / "a.toml").write_text('name = "you"')
    assert cli.run("sextet-common", {"greet": made}, ["greet", "--config", str(tmp_path / "a.toml")]) == 0
    assert capsys.readouterr().out == "you YOU\n"


def test_a_missing_extra_is_said_before_the_work_and_names_the_packages_own(capsys, monkeypatch) -> None:
    declared = {
        "mine": ["numpy>=2", "sextet-common[plots]>=0.1; extra == 'draw'", "absent>=1; extra == 'other'"],
        "sextet-common": ["numpy>=2", 'not-installed[x]>=1 ; extra == "plots"'],
    }
    monkeypatch.setattr(metadata, "requires", declared.get)

    @cli.needs("draw")
    def draw() -> None:
        """Draw."""
        raise AssertionError("the work has begun")

    assert cli.run("mine", {"draw": draw}, ["draw"]) == 2
    assert capsys.readouterr().err == "mine: not-installed is not installed; expected: pip install 'mine[draw]'\n"
    assert cli.run("mine", {"draw": draw}, ["draw", "--help"]) == 0
    declared["sextet-common"] = ["numpy>=2; extra == 'plots'"]
    with pytest.raises(AssertionError, match="begun"):
        cli.run("mine", {"draw": draw}, ["draw"])


WARNS = r"""
import sys, warnings
from sextet_common import cli

def job() -> None:
    '''Warn.'''
    for _ in range(2):
        warnings.warn("two\nlines \x1b[31m of a name")

sys.exit(cli.run("sextet-common", {"job": job}, ["job"]))
"""


def test_a_warning_is_one_line_without_source_code_and_said_once() -> None:
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "sextet-common: warning: two lines \\x1b[31m of a name\n")
    before = warnings.formatwarning
    call("work", "--out", "a")
    assert warnings.formatwarning is before


def test_what_a_command_prints_cannot_act_on_the_terminal(capsys) -> None:
    def show(name: str = "\x1b]0;x\x07\u202e\ud800") -> None:
        """Show."""
        print("a\tb", name, sep="\n")

    assert cli.run("sextet-common", {"show": show}, ["show"]) == 0
    assert capsys.readouterr().out == "a\tb\n\\x1b]0;x\\x07\\u202e\\ud800\n"


def test_a_locked_run_folder_is_refused_before_the_module_of_the_commands_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "slow_commands.py"
    source.write_text(
        'def train(out: str = "") -> None:\n    """Train."""\n    raise RuntimeError\nprint("imported")\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Run.open(tmp_path / "run", "demo", {}):
        assert cli.run("sextet-common", "slow_commands", ["train", "--out", str(tmp_path / "run")]) == 2
        shown, complaint = capsys.readouterr()
        assert not shown and "is in use by process" in complaint
        assert cli.run("sextet-common", "slow_commands", ["train", "--out", str(tmp_path / "run"), "--help"]) == 0
    with pytest.raises(RuntimeError):
        cli.run("sextet-common", "slow_commands", ["train", "--out", str(tmp_path / "run")])
