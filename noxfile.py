"""Every check of the workspace. `nox -l` lists the sessions; `nox` runs the same ones as `tools/dev.py test`.

A session with a package as parameter uses an environment with only what that package's pyproject.toml declares.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
import bench_changes  # noqa: E402
import benches  # noqa: E402
import quick as quickly  # noqa: E402
import workspace  # noqa: E402

nox.needs_version = ">=2026.8"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "docs", "tests", "together", "wheels"]

PACKAGES = workspace.discover()
each = nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
DEV_TOOLS = ["ruff>=0.17", "mypy>=2.4"]
# The networks in tests are small: one thread is fastest on a busy machine. Tests start many processes; bytecode is
# written so that they need not compile torch again.
FOR_TESTS = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", **workspace.quiet_memory()}
AT_ROOT = ["--override-ini=pythonpath=tools"]
XDIST = "pytest-xdist>=3.6"
FOR_ROOT = [
    *("-r", "tools/requirements.txt", "-r", "docs/requirements.txt", "import-linter>=2.6", "coverage>=7.6"),
    *("fonttools[woff]>=4.50", "pyyaml>=6", XDIST),
]
ELSEWHERE = [f"--ignore=tests/test_{name}.py" for name in ("compositions", "reliability")]  # other sessions run them
IN_PARALLEL = ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
FAST = ["-q", "-m", "not slow"]  # `slow` runs the others


def group(package: str, name: str) -> list[str]:
    """Return a dependency group of a package, empty if it has none."""
    groups = nox.project.load_toml(PACKAGES[package].pyproject).get("dependency-groups", {})
    return list(nox.project.dependency_groups({"dependency-groups": groups}, name)) if name in groups else []


def install(session: nox.Session, packages: Iterable[workspace.Package], *words: str) -> None:
    """Install, and take over the bytecode that the tests of packages have compiled."""
    session.install(*words)
    own = Path(session.virtualenv.location)
    workspace.share_bytecode(own, (own.parent / f"tests-{package.name}" for package in packages))


def install_everything(session: nox.Session, *words: str) -> None:
    """Install all packages, their extras and test dependencies, and what further words name."""
    packages = list(PACKAGES.values())
    needed = {line for name in PACKAGES for line in group(name, "test")}
    install(session, packages, *workspace.editables(packages, extras=True), *sorted(needed), *words)


def install_alone(session: nox.Session, package: str, *options: str) -> None:
    """Install exactly a package's declared dependencies, then import all its modules."""
    needed = workspace.closure(PACKAGES, package)
    install(session, needed[:-1], "--exact", *options, *workspace.editables(needed))
    session.run("python", "tools/probe.py", PACKAGES[package].module, silent=True, env=FOR_TESTS)


def run_tests(
    session: nox.Session, package: str, *options: str, warnings: str = "error", words: list[str] = FAST
) -> None:
    """Install a package's extras and test dependencies, then run its tests and doctests."""
    chosen = PACKAGES[package]
    if not (chosen.path / "tests").is_dir():
        session.log(f"{package} is not released yet: it has nothing to test")
        return
    *siblings, _ = workspace.closure(PACKAGES, package)
    in_tree = [*workspace.editables(siblings), *workspace.editables([chosen], extras=True)]
    install(session, siblings, *options, *in_tree, *group(package, "test"), XDIST)
    targets = [str(chosen.path / "tests"), str(chosen.path / "src")]
    words = [*IN_PARALLEL, "--doctest-modules", "-W", warnings, *(session.posargs or words)]
    session.run("pytest", *words, *targets, env=FOR_TESTS)


def check_style(session: nox.Session, *words: str) -> None:
    """Run ruff and import-linter; with arguments, ruff gets them and formats instead of checking the format."""
    session.run("ruff", "check", *(words or ["."]))
    session.run("ruff", "format", *([] if words else ["--check"]), ".")
    sources = os.pathsep.join(str(package.path / "src") for package in PACKAGES.values())
    session.run("lint-imports", env={"PYTHONPATH": sources}, silent=True)


@nox.session
@each
def tests(session: nox.Session, package: str) -> None:
    """One package alone: its declared dependencies, the import of every module, its tests but the slow ones."""
    install_alone(session, package)
    run_tests(session, package)


@nox.session
@each
def lowest(session: nox.Session, package: str) -> None:
    """One package alone with the oldest dependencies it accepts; all its tests."""
    oldest = ("--resolution", "lowest-direct")
    install_alone(session, package, *oldest)
    # Old releases use one another's deprecated functions, which we cannot fix.
    run_tests(session, package, *oldest, warnings="ignore::DeprecationWarning", words=["-q"])


@nox.session
def together(session: nox.Session) -> None:
    """All packages in one environment: dependencies between packages, pages, tools.

    `wheels` runs the compositions, `slow` the slow tests, `reliability` the ten kills of every job.
    """
    install_everything(session, *FOR_ROOT)
    words = [*IN_PARALLEL, "--doctest-modules", *AT_ROOT, *(session.posargs or FAST)]
    session.run("pytest", *words, *ELSEWHERE, "tests", "tools", env=FOR_TESTS)


@nox.session
def slow(session: nox.Session) -> None:
    """The slow tests of all packages and of the root: kills, several processes, examples, demos, a release."""
    install_everything(session, *FOR_ROOT)
    words = [*IN_PARALLEL, *AT_ROOT, "-W", "error", "-m", "slow", *(session.posargs or ["-q"])]
    folders = [str(package.path / "tests") for package in PACKAGES.values()]
    session.run("pytest", *words, *ELSEWHERE, "tests", *folders, env=FOR_TESTS)


@nox.session
def quick(session: nox.Session) -> None:
    """Style, types and fast tests of the packages that the working tree changes, or --since COMMIT: two minutes."""
    since = session.posargs[1] if session.posargs[:1] == ["--since"] and len(session.posargs) == 2 else "HEAD"
    if session.posargs and since == "HEAD":
        session.error("quick takes nothing, or --since COMMIT")
    try:
        files = quickly.changed_files(since=since)
    except RuntimeError as problem:
        session.error(str(problem))
    chosen = [PACKAGES[name] for name in quickly.changed_packages(files) if name in PACKAGES]
    install_everything(session, *DEV_TOOLS, "import-linter>=2.6", XDIST)
    check_style(session)
    if not chosen:
        session.log(f"no package differs from {since}: run tests(PACKAGE) for all its tests")
        return
    session.run("mypy", *(str(package.path / "src") for package in chosen))
    modules = [file for file in files if "/src/" in file and file.endswith(".py") and (ROOT / file).is_file()]
    targets = [*(str(package.path / "tests") for package in chosen), *modules]
    environment = {**FOR_TESTS, "PYTHONPATH": str(ROOT / "tools"), quickly.CHANGED: "\n".join(files)}
    words = [*IN_PARALLEL[:-1], "load", "--doctest-modules", "-W", "error", "-p", "quick", "-m", "not slow", "-q", "-x"]
    session.run("pytest", *words, *targets, env={**environment, quickly.SECONDS: "45"}, success_codes=[0, 5])
    session.log(f"checked {', '.join(package.name for package in chosen)}; `dev.py test` runs every test of all")


@nox.session
def fuzz(session: nox.Session) -> None:
    """All file readers on malicious files: 1000 new ones per test, or the number given first."""
    install_everything(session, XDIST)
    examples, *words = session.posargs or ["1000"]
    environment = {**FOR_TESTS, "SEXTET_FUZZ_EXAMPLES": examples}
    session.run("pytest", *IN_PARALLEL, *(words or ["-q"]), "tests/fuzz", env=environment)


@nox.session
def reliability(session: nox.Session) -> None:
    """Ten kills of every job; 1000 random combinations of kills, double starts, full disks and damaged files."""
    install_everything(session, XDIST)
    session.run("pytest", *IN_PARALLEL, *AT_ROOT, "-q", "tests/test_reliability.py", env=FOR_TESTS)
    session.run("python", "tools/reliability.py", *(session.posargs or ["--count", "1000"]), env=FOR_TESTS)


@nox.session
def mutants(session: nox.Session) -> None:
    """Mutation testing of one module. Arguments: PATH [--most N] [--lines A-B] [pytest arguments]."""
    if not session.posargs:
        session.error("name a module: nox -s mutants -- packages/esac/src/esac/es/evolution.py")
    install_everything(session, "coverage>=7.6")
    session.run("python", "tools/mutants.py", *session.posargs, env=FOR_TESTS)


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's rules and its format; the architecture: import-linter's contracts in pyproject.toml."""
    session.install(*DEV_TOOLS, "import-linter>=2.6")
    check_style(session, *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy strict on every package's src."""
    install_everything(session, *DEV_TOOLS)
    session.run("mypy", *session.posargs, *(str(p.path / "src") for p in PACKAGES.values()))


@nox.session
@each
def build(session: nox.Session, package: str) -> None:
    """Wheel and sdist of one package, checked; then the wheel alone in an empty environment."""
    session.install("--exact", "build[uv]", "twine>=7", "check-wheel-contents", "validate-pyproject")
    folder = Path(session.create_tmp()) / "dist"
    wheels = []
    for needed in workspace.closure(PACKAGES, package):
        out = folder / needed.name
        session.run("python", "-m", "build", "--installer", "uv", "--outdir", str(out), str(needed.path), silent=True)
        (wheel,) = out.glob(f"{needed.module}-{needed.version}-*.whl")
        wheels.append(str(wheel))
    chosen = PACKAGES[package]
    session.run("validate-pyproject", str(chosen.pyproject))
    session.run("twine", "check", "--strict", *map(str, (folder / package).iterdir()))
    session.run("check-wheel-contents", "--toplevel", chosen.module, wheels[-1])
    session.install("--exact", *wheels)
    session.chdir(folder)
    version = session.run("python", "-c", f"import {chosen.module} as m; print(m.__version__)", silent=True)
    if str(version).strip() != chosen.version:
        session.error(f"the wheel says it is {version}, pyproject.toml says {chosen.version}")
    if (chosen.path / "src" / chosen.module / "__main__.py").exists():
        session.run("python", "-m", chosen.module, "--version")


@nox.session
@each
def api(session: nox.Session, package: str) -> None:
    """Breaks of the public interface of one package against its last release, or against a COMMIT."""
    session.install("griffelib>=2.0")
    session.run("python", "tools/api.py", package, *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """All packages as wheels from a local folder, and the compositions outside the repository."""
    session.install("--exact", "build[uv]")
    with tempfile.TemporaryDirectory() as temporary:
        folder, outside = Path(temporary) / "wheels", Path(temporary) / "outside"
        for package in PACKAGES.values():
            command = ["python", "-m", "build", "--wheel", "--installer", "uv", "--outdir", str(folder)]
            session.run(*command, str(package.path), silent=True)
        session.install("--exact", "pytest>=8.3", XDIST)
        # First without an index, in order of dependency, so that no index supplies a package of the same name.
        pinned = [f"{package.name}=={package.version}" for package in PACKAGES.values()]
        for wheel in pinned:
            session.install("--no-index", "--no-deps", "--find-links", str(folder), wheel)
        install(session, PACKAGES.values(), "--find-links", str(folder), *pinned, "sextet-common[hub]")
        shutil.copytree(ROOT / "examples", outside / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        (outside / "tests").mkdir()
        shutil.copy2(ROOT / "tests" / "test_compositions.py", outside / "tests")
        session.chdir(outside)
        for package in PACKAGES.values():
            place = session.run("python", "-c", f"import {package.module} as m; print(m.__file__)", silent=True)
            if "site-packages" not in Path(str(place)).parts:
                session.error(f"{package.name} was imported from {place}, not from its wheel")
        marks = ["--override-ini", "markers=slow: takes about ten seconds or more", "-p", "no:cacheprovider"]
        words = [*IN_PARALLEL, *marks, "-W", "error", *(session.posargs or ["-q"])]
        session.run("pytest", *words, "tests", env=FOR_TESTS)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, built in strict mode into site/."""
    session.install(*workspace.editables(list(PACKAGES.values())), "-r", "docs/requirements.txt")
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
@each
def bench(session: nox.Session, package: str) -> None:
    """The benchmarks of one package against its peers, for two cores; or one script; or --compare [COMMIT]: changes."""
    if session.posargs[:1] == ["--compare"]:
        try:
            print(bench_changes.compared(package, *session.posargs[1:2]))
        except ValueError as problem:
            session.error(str(problem))
        return
    in_tree = workspace.editables(workspace.closure(PACKAGES, package), extras=True)
    session.install(*in_tree, *group(package, "bench"))
    session.chdir(PACKAGES[package].path)
    for command in [" ".join(session.posargs)] if session.posargs else benches.SCRIPTS[package]:
        settings, script, words = benches.parsed(command)
        session.run("python", f"benchmarks/{script}", *words, env=settings)


@nox.session
def demo(session: nox.Session) -> None:
    """The main jobs on real data, shown in demo/index.html."""
    shown = [p for p in PACKAGES.values() if (p.path / "examples" / "demo.py").exists()]
    needed = {q.name for p in shown for q in workspace.closure(PACKAGES, p.name)}
    more = sorted({line for p in shown for line in group(p.name, "demo")})
    session.install(*workspace.editables([p for p in PACKAGES.values() if p.name in needed]), *more)
    session.run("python", "tools/demo.py", *session.posargs)
