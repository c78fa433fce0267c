"""tools/forks.py: a fork runs a program or a command as a new interpreter would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forks
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and looks into /proc")

PROGRAMS = {
    "fine": "print('done')",
    "an error": "print('before')\n1 / 0",
    "a warning": "import warnings\nwarnings.warn('old', DeprecationWarning)",
    "an exit code": "import sys\nsys.exit(7)",
    "an exit message": "import sys\nsys.exit('no')",
    "a signal": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "its place": "import os, sys\nprint(os.getcwd(), sys.argv, __name__, os.path.exists('here.txt'))",
    "a function at the end": "import atexit\natexit.register(print, 'the end')",
    "a thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "a class in a pickle": "import pickle\nclass A: ...\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "a process": "import sys, subprocess\nprint(subprocess.check_output([sys.executable, '-c', 'print(1)']))",
}


@pytest.fixture(scope="module")
def server() -> Iterator[forks.Forks]:
    made = forks.Forks(preload=())
    yield made
    made.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_ends_as_in_a_new_interpreter(name: str, server: forks.Forks, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "here.txt").touch()
    code, output = server.run(folder, program=PROGRAMS[name])
    command = [sys.executable, "-W", "error", "-c", PROGRAMS[name]]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert code == done.returncode
    last = (output.splitlines() or [""])[-1], (done.stdout.splitlines() or [""])[-1]
    assert last[0] == last[1]


def test_a_command_gets_its_arguments_and_its_exit_code_is_returned(server: forks.Forks, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert server.run(folder, module="sextet_common.__main__", words=["machine"])[0] == 0
    code, output = server.run(folder, module="sextet_common.__main__", words=["no-such-thing"])
    assert code == 2 and "no-such-thing" in output


def test_programs_do_not_see_one_another(server: forks.Forks, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    server.run(folder, program="import sys, os\nsys.modules['json'].left = 1\nos.environ['LEFT'] = '1'\nx = 1")
    text = "import json, os\nassert not hasattr(json, 'left') and 'LEFT' not in os.environ and 'x' not in globals()"
    assert server.run(folder, program=text) == (0, "")
