#!/usr/bin/env python3
"""Entry point for all checks: `python3 tools/dev.py demo`, `python3 tools/dev.py test`.

Needs only python >= 3.11 with pip. The first call creates `.venv` with the nox and uv versions of
tools/requirements.txt; every call then runs nox. The syntax of this file works in old interpreters, even in
Python 2, so that they print an error message instead of a syntax error.
"""

from __future__ import print_function

import ast
import difflib
import errno
import os
import shutil
import subprocess
import sys
import tempfile

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PINS = os.path.join(ROOT, "tools", "requirements.txt")
STAMP = os.path.join(VENV, "sextet-stamp")
CACHES = os.path.join(ROOT, ".cache")  # for a home folder that cannot be written
FREE_BYTES_TO_START = 8 * 1024**3  # torch with CUDA, stored once; further environments use hard links
FREE_BYTES_FULL = 64 * 1024**2

# Names of pip's variables in uv. A uv variable that is already set takes precedence.
PIP_TO_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_NO_INDEX": "UV_OFFLINE",  # uv has no variable for its --no-index
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_PROXY": "ALL_PROXY",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
    "PIP_DEFAULT_TIMEOUT": "UV_HTTP_TIMEOUT",
    "PIP_CONSTRAINT": "UV_CONSTRAINT",
}


class Problem(Exception):
    """An error that the user can fix, as one line."""


def python_of(venv):
    """Return the path of an environment's interpreter."""
    return os.path.join(venv, "Scripts", "python.exe") if os.name == "nt" else os.path.join(venv, "bin", "python")


def check_interpreter():
    """Refuse an interpreter that is too old; suggest a newer one if there is one."""
    if sys.version_info >= OLDEST:
        return
    folders = os.environ.get("PATH", "").split(os.pathsep)
    newer = [n for n in ("python3.14", "python3.13", "python3.12", "python3.11")
             if any(os.access(os.path.join(folder, n), os.X_OK) for folder in folders)]  # fmt: skip
    hint = "run it with %s" % newer[0] if newer else "install a newer python first"
    raise Problem(
        "python %s is too old: Sextet needs python >= %d.%d (%s)"
        % (".".join(map(str, sys.version_info[:3])), OLDEST[0], OLDEST[1], hint)
    )


def environment_for_uv(environ):
    """Return the environment with pip's settings translated to uv's variables.

    >>> environment_for_uv({"PIP_INDEX_URL": "https://mirror/simple"})["UV_DEFAULT_INDEX"]
    'https://mirror/simple'
    """
    result = dict(environ)
    for pip_name, uv_name in PIP_TO_UV.items():
        if result.get(pip_name) and uv_name not in result:  # pip ignores empty variables, uv does not
            separator = "," if uv_name == "UV_FIND_LINKS" else " "
            result[uv_name] = separator.join(result[pip_name].split())
    if "UV_INDEX" in result and "UV_INDEX_STRATEGY" not in result:
        result["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's behaviour with an extra index
    return result


def with_caches(environ):
    """Return the environment with all caches in the project if the home folder cannot be written.

    >>> os.path.relpath(with_caches({"HOME": os.devnull})["UV_CACHE_DIR"], ROOT)
    '.cache/uv'
    """
    usual = environ.get("XDG_CACHE_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".cache")
    try:
        os.makedirs(usual, exist_ok=True)
        with tempfile.TemporaryFile(dir=usual):
            return dict(environ)
    except OSError:
        places = {"UV_CACHE_DIR": "uv", "MPLCONFIGDIR": "matplotlib", "TRITON_CACHE_DIR": "triton",
                  "HF_HOME": "huggingface", "TORCH_HOME": "torch"}  # fmt: skip
        ours = {name: os.path.join(CACHES, folder) for name, folder in places.items()}
        return dict(dict(ours, **environ), XDG_CACHE_HOME=CACHES)


def reason_in(output):
    """Return the cause of a failed installation from pip's output, as one line.

    >>> reason_in("... Temporary failure in name resolution ...").split(":")[0]
    'the package index cannot be reached'
    """
    unreachable = (
        "NewConnectionError", "name resolution", "ConnectTimeout", "ProxyError", "Network is unreachable",
        "Connection refused", "Max retries exceeded", "Could not fetch URL", "Connection to",
    )  # fmt: skip
    if "No space left on device" in output:
        return "the disk is full: free about %d GB and run this again" % (FREE_BYTES_TO_START // 1024**3)
    if "No module named pip" in output:
        return "this python has no pip: install it (Debian: apt install python3-pip) and run this again"
    if any(sign in output for sign in unreachable):
        return "the package index cannot be reached: check the network, or set PIP_INDEX_URL or HTTPS_PROXY"
    errors = [line.strip() for line in output.splitlines() if line.strip().upper().startswith("ERROR")]
    return (errors or [line.strip() for line in output.splitlines() if line.strip()] or ["pip said nothing"])[-1]


def wanted_stamp():
    """Return the stamp of an up-to-date .venv: the pinned versions and the interpreter."""
    with open(PINS, encoding="utf-8") as pins:
        return "%s\npython %s\n" % (pins.read().strip(), sys.version.split()[0])


def is_ready():
    """Return whether .venv exists and is up to date."""
    try:
        with open(STAMP, encoding="utf-8") as stamp:
            return stamp.read() == wanted_stamp() and os.path.exists(python_of(VENV))
    except FileNotFoundError:
        return False


def make_environment():
    """Create .venv with the pinned nox and uv; remove it again on failure."""
    import venv

    free = shutil.disk_usage(ROOT).free
    if free < FREE_BYTES_TO_START:
        raise Problem(
            "the disk is nearly full: %.1f GB are free here, the packages' environments need about %d GB"
            % (free / 1024**3, FREE_BYTES_TO_START // 1024**3)
        )
    print("making .venv with nox and uv ...", file=sys.stderr, flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        # pip installs from outside the environment, so that a python without ensurepip works as well.
        venv.create(VENV, with_pip=False)
        command = [sys.executable, "-m", "pip", "--python", python_of(VENV), "install", "--quiet", "--retries", "2"]
        done = subprocess.run(command + ["-r", PINS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise Problem(reason_in(done.stdout))
        with open(STAMP, "w", encoding="utf-8") as stamp:
            stamp.write(wanted_stamp())
    except BaseException:
        shutil.rmtree(VENV, ignore_errors=True)
        raise


def ensure_environment():
    """Create .venv if it is missing or out of date, and return its interpreter."""
    check_interpreter()
    if not is_ready():
        make_environment()
    return python_of(VENV)


def sessions(takes_package=False):
    """Return the noxfile's sessions and the first line of their docstrings, or whether they take a package."""
    with open(os.path.join(ROOT, "noxfile.py"), encoding="utf-8") as noxfile:
        tree = ast.parse(noxfile.read())
    return {
        node.name: any(getattr(d, "id", "") == "each" for d in node.decorator_list)
        if takes_package
        else (ast.get_docstring(node) or "").splitlines()[0]
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("session" in ast.dump(d) for d in node.decorator_list)
    }


def packages():
    """Return the names of the packages, which some sessions take in parentheses."""
    folder = os.path.join(ROOT, "packages")
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [name for name in found if os.path.exists(os.path.join(folder, name, "pyproject.toml"))]


def closest(word, names):
    """Return the name that a word abbreviates or resembles, or an empty string.

    >>> closest("gmr", ["esac", "gmr-metric"]), closest("eesac", ["esac", "gmr-metric"]), closest("x", ["esac"])
    ('gmr-metric', 'esac', '')
    """
    likely = [name for name in names if word and name.startswith(word)] or difflib.get_close_matches(word, names, 1)
    return likely[0] if likely else ""


def check_session(word):
    """Refuse a session that does not exist, and suggest the one that was meant."""
    takes_package = sessions(True)
    known = ["demo", "test"] + list(takes_package)
    name, bracket, package = word.partition("(")
    if word in known or (takes_package.get(name) and word in ["%s(%s)" % (name, p) for p in packages()]):
        return
    session = closest(name, [n for n in known if takes_package.get(n)] if bracket else known)
    meant, reason = session, "one of %s" % ", ".join(known)
    if bracket:
        of = closest(package.rstrip(")"), packages())
        meant = "%s(%s)" % (session, of) if session and of else ""
    if takes_package.get(name):
        reason = "%s takes one of %s" % (name, ", ".join(packages()))
    elif name in takes_package:
        meant, reason = name, "it takes no package"
    raise Problem("there is no session %r: %s%s" % (word, reason, "; did you mean %r?" % meant if meant else ""))


def usage():
    """Return the help text."""
    lines = [
        "usage: python3 tools/dev.py SESSION [ARGUMENTS]",
        "",
        "  %-12s %s" % ("demo", "run the main jobs on real data and write demo/index.html"),
        "  %-12s %s" % ("test", "run the checks: what `nox` without arguments runs"),
        "",
        "or any one session; 'tests(gmr-metric)' is one package's:",
        "",
    ]
    lines += ["  %-12s %s" % (name, about) for name, about in sessions().items() if name != "demo"]
    lines += ["", "ARGUMENTS go to the session: python3 tools/dev.py 'tests(gmr-metric)' -k merge"]
    return "\n".join(lines)


def nox_arguments(words):
    """Translate the command's arguments to nox's.

    >>> nox_arguments(["test"])
    []
    >>> nox_arguments(["demo", "--only", "gmr-metric"])
    ['--session', 'demo', '--', '--only', 'gmr-metric']
    """
    session, rest = words[0], words[1:]
    if rest[:1] == ["--"]:
        rest = rest[1:]
    chosen = [] if session == "test" else ["--session", session]
    return chosen + (["--"] + rest if rest else [])


def main(words):
    """Run one command and return its exit code."""
    try:
        check_interpreter()
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return 0 if words else 2
        check_session(words[0])
        python = ensure_environment()
        environ = with_caches(environment_for_uv(os.environ))
        environ["PATH"] = os.path.dirname(python) + os.pathsep + environ.get("PATH", "")
        nox = [python, "-m", "nox", "--noxfile", os.path.join(ROOT, "noxfile.py")]
        code = subprocess.call(nox + nox_arguments(words), env=environ, cwd=ROOT)
        if code and shutil.disk_usage(ROOT).free < FREE_BYTES_FULL:
            raise Problem("the disk is full: free some space and run this again")
        return code
    except Problem as problem:
        print("dev.py: %s" % problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("dev.py: the disk is full: free some space and run this again", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
