"""The doors of all packages' commands: help that fits, short complaints, settings from a file."""

from __future__ import annotations

import importlib

import pytest
from sextet_common import cli

PACKAGES = (
    "attention_matching", "d2m_generator", "esac", "gmr_metric", "probmcl", "sextet_common", "subclass_kd",
)  # fmt: skip
COMMANDS = [(package, name) for package in PACKAGES for name in cli._summaries(f"{package}.commands")]


def run(package: str, *words: str) -> int:
    code: int = importlib.import_module(f"{package}.__main__").main(words)
    return code


@pytest.mark.parametrize(("package", "name"), COMMANDS)
def test_the_help_of_a_command_fits_its_terminal_and_names_readable_types(package, name, capsys, monkeypatch) -> None:
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        assert run(package, name, "--help") == 0
        page = capsys.readouterr().out
        assert max(map(len, page.splitlines())) <= width
        assert not any(noise in page for noise in ("None|", "{None}", "(default: None)", "typing.", "MISSING", "STR "))


@pytest.mark.parametrize(("package", "name"), COMMANDS)
def test_a_mistyped_option_is_one_short_line(package, name, capsys) -> None:
    assert run(package, name, "--hepl") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "--hepl is not an option of" in err and len(err) <= 160


@pytest.mark.parametrize(("package", "name"), COMMANDS)
def test_a_file_with_an_unknown_key_is_refused_by_name(package, name, capsys, tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("zzz = 1\n")
    assert run(package, name, "--config", str(file)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and f"{file}: zzz is not an option" in err
