"""The public names are loaded on first use."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import probmcl
import probmcl.data
import pytest


@pytest.mark.parametrize("module", [probmcl, probmcl.data])
def test_every_public_name_is_there_and_is_no_module(module: object) -> None:
    names = module.__all__
    assert set(names) <= set(dir(module))
    for name in names:
        assert hasattr(getattr(module, name), "__doc__") and type(getattr(module, name)).__name__ != "module"
    assert probmcl.data.load is probmcl.load
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018  # reading it is the test


def test_importing_the_package_and_printing_its_help_take_no_torch() -> None:
    code = (
        "import sys, probmcl; from probmcl.__main__ import main; assert main(['--help']) == 0;"
        "assert not {'torch', 'tyro', 'PIL', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("train", "evaluate", "predict", "map", "uncertain", "export"):
        assert f"  {command}" in done.stdout
    assert probmcl.__version__ == version("probmcl")
