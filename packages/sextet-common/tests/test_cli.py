from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from sextet_common import checkpoint, cli
from sextet_common.__main__ import main
from sextet_common.errors import InputError
from sextet_common.runs import Run


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
