"""Mutation testing: change one operator or number of a module at a time and see whether a test fails.

``python tools/mutants.py packages/esac/src/esac/evolution.py [--most N] [--seed S] [--lines A-B] [pytest words]``
prints every change that no test notices (a survivor) as a diff, and the share of changes that were killed. Tests are
the package's own and the module's doctests; words that name files or folders replace them, others go to pytest.

Why not an existing tool. mutmut 3 leaves out decorated functions (``@torch.no_grad()``, ``@numba.njit``,
``@property``), module constants and the defaults of dataclass fields, where many of our formulas and rates stand, and
its most frequent changes are to strings and to None. cosmic-ray edits the source tree itself and starts, and imports
torch, anew for each change. This driver changes a copy in a temporary folder, never the tree. It imports the libraries
once and forks for each change; the child imports the package from the copy and runs, of the tests, those that executed
the changed line (all of them where no test did within the process, as for a constant).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import gc
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tokenize
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ARITHMETIC = {
    "+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "//", "**": "*", "@": "*", "&": "|", "|": "&", "^": "&",
    "<<": ">>", ">>": "<<",
}  # fmt: skip
COMPARISONS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==",
    "is": "is not", "is not": "is", "in": "not in", "not in": "in",
}  # fmt: skip
PAIRS = [
    ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"), ("sum", "mean"),
    ("sin", "cos"), ("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("softmax", "log_softmax"),
    ("logical_and", "logical_or"), ("add", "sub"), ("add_", "sub_"), ("mul_", "div_"),
]  # fmt: skip
SWAPS = dict(PAIRS) | {right: left for left, right in PAIRS}
# Calls that a change replaces by their argument.
DROPPED = {"sqrt", "abs", "exp", "log", "log1p", "expm1", "square", "tanh", "clip", "clamp", "relu", "detach", "sorted"}
LIBRARIES = {"math", "np", "numpy", "torch", "F", "functional", "linalg", "special"}
# Keywords whose value is no part of a result: checks that never fire, and how memory is used.
KEPT_KEYWORDS = {"strict", "exist_ok", "parents", "copy", "non_blocking", "stacklevel", "cache", "missing_ok", "cls"}
KEPT_CALLS = {"InputError", "warn", "print", "TypeVar", "NewType"}


@dataclass(frozen=True)
class Mutant:
    """One change: characters ``start`` to ``end`` of a source become ``text``."""

    line: int
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """Return the changed source."""
        return source[: self.start] + self.text + source[self.end :]

    def diff(self, source: str, name: str) -> str:
        """Return the place of the change and the lines before and after it."""
        lines = difflib.unified_diff(source.splitlines(), self.apply(source).splitlines(), n=0, lineterm="")
        return "\n".join([f"{name}:{self.line}", *list(lines)[3:]])


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a module, as text replacements at the positions of its nodes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        # Operators and words, without what may stand between an operand and its operator.
        self.tokens = [
            (self.starts[t.start[0] - 1] + t.start[1], self.starts[t.end[0] - 1] + t.end[1], t.string)
            for t in tokens
            if t.type in (tokenize.OP, tokenize.NAME) and t.string not in "()"
        ]
        self.mutants: list[Mutant] = []

    def span(self, node: Any) -> tuple[int, int]:
        """Return a node's first and last position; ast counts bytes of UTF-8, we count characters."""
        ends = ((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset))
        first, last = (self.starts[n - 1] + len(self.lines[n - 1].encode()[:col].decode()) for n, col in ends)
        return first, last

    def text(self, node: Any) -> str:
        """Return a node's source."""
        start, end = self.span(node)
        return self.source[start:end]

    def add(self, start: int, end: int, text: str) -> None:
        """Note a change, unless it is none or not Python."""
        mutant = Mutant(self.source.count("\n", 0, start) + 1, start, end, text)
        with contextlib.suppress(SyntaxError), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            if ast.dump(ast.parse(mutant.apply(self.source))) != ast.dump(ast.parse(self.source)):
                self.mutants.append(mutant)

    def replace(self, node: Any, text: str) -> None:
        """Note that a node becomes another text."""
        self.add(*self.span(node), text)

    def between(self, left: Any, right: Any, table: dict[str, str]) -> None:
        """Change the operator between two nodes."""
        low, high = self.span(left)[1], self.span(right)[0]
        tokens = [token for token in self.tokens if low <= token[0] and token[1] <= high]
        operator = " ".join(text for _, _, text in tokens)
        if operator in table:
            self.add(tokens[0][0], tokens[-1][1], table[operator])

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.between(node.left, node.right, ARITHMETIC)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.between(node.target, node.value, {f"{old}=": f"{new}=" for old, new in ARITHMETIC.items()})
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right in pairwise(operands):
            self.between(left, right, COMPARISONS)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self.between(left, right, {"and": "or", "or": "and"})
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.replace(node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, int):
            self.replace(node, str(value + 1))
        elif isinstance(value, float):
            # A tolerance that is doubled is as good a tolerance.
            self.replace(node, repr(value * (2 if abs(value) > 1e-4 else 1000) if value else 1.0))

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in KEPT_CALLS:
            return
        if name in SWAPS:
            end = self.span(function)[1]
            self.add(end - len(name), end, SWAPS[name])
        if name.rstrip("_") in DROPPED:
            of_library = isinstance(function, ast.Name) or (
                isinstance(function, ast.Attribute) and self.text(function.value).rpartition(".")[2] in LIBRARIES
            )
            argument = next(iter(node.args), None) if of_library else getattr(function, "value", None)
            if argument is not None:
                self.replace(node, f"({self.text(argument)})")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in KEPT_KEYWORDS:
            self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not self.text(node).startswith("super()"):
            self.replace(node, "pass")
        self.generic_visit(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.replace(node, "break")

    def condition(self, node: Any) -> None:
        """Negate a condition that has no operator of its own to change."""
        if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            self.replace(node.test, f"(not {self.text(node.test)})")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in self.text(node.test) and "__name__" not in self.text(node.test):
            self.condition(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.condition(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]:
            self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def ignore(self, node: ast.AST) -> None:
        """Leave a node as it is: messages, checks for the type checker, and f-strings, which have no positions."""

    visit_Raise = visit_Assert = visit_JoinedStr = visit_Import = visit_ImportFrom = ignore


def find(source: str) -> list[Mutant]:
    """Return the mutants of a module, in the order of its lines.

    >>> [mutant.apply("a = b + 2") for mutant in find("a = b + 2")]
    ['a = b - 2', 'a = b + 3']
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(set(finder.mutants), key=lambda mutant: (mutant.start, mutant.end, mutant.text))


@dataclass
class Baseline:
    """A run of the unchanged package: seconds per test, the tests that execute each line, libraries imported."""

    passed: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)

    def chosen(self, line: int) -> list[str]:
        """Return the tests to run for a line: those that execute it, else all."""
        return [name for name in self.lines.get(str(line), []) if name] or list(self.seconds)


class _Recorder:
    """A pytest plugin that fills a `Baseline`."""

    def __init__(self, coverage: Any) -> None:
        self.coverage, self.baseline = coverage, Baseline()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        seconds = self.baseline.seconds
        seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration


class _Chooser:
    """A pytest plugin that keeps the named tests."""

    def __init__(self, names: list[str]) -> None:
        self.names = set(names)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid in self.names]
        items[:] = kept or items


class Workplace:
    """A copy of one package beside links to the rest of the repository, and the processes that test in it."""

    def __init__(self, module: Path, words: list[str], folder: Path) -> None:
        module = module.resolve()
        src = next((parent for parent in module.parents if parent.name == "src"), None)
        if src is None or not module.is_file():
            raise SystemExit(f"{module} is not a module below packages/PACKAGE/src")
        package, root = src.parent, src.parents[2]
        self.folder, self.original = folder, module
        self.package = folder / package.relative_to(root)
        self.module = folder / module.relative_to(root)
        self.name = ".".join(module.relative_to(src).with_suffix("").parts)
        kept_out = shutil.ignore_patterns("__pycache__", "benchmarks", "runs")
        shutil.copytree(package, self.package, ignore=kept_out)
        for level, copied in ((root, package.parent), (package.parent, package)):
            for entry in level.iterdir():
                if entry != copied and not entry.name.startswith("."):
                    (folder / entry.relative_to(root)).symlink_to(entry)
        self.root = root
        self.source = self.module.read_text(encoding="utf-8")
        self.targets = [word for word in words if (root / word.partition("::")[0]).exists()]
        # Plugins that this process imported before pytest are as good as others.
        self.options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
        self.options += ["--doctest-modules", *(word for word in words if word not in self.targets)]
        self.targets = self.targets or [str(self.package / "tests"), str(self.module)]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(self.package / "src"), os.environ.get("PYTHONPATH", "")])
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        sys.dont_write_bytecode = True
        here = str(Path(__file__).resolve().parent)  # on the path of a script, but not on that of the tests
        sys.path[:] = [str(self.package / "src"), *(entry for entry in sys.path if entry != here)]

    def log(self) -> str:
        """Return the end of what the last process printed."""
        return (self.folder / ".log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def fork(self, job: Callable[[], int], limit: float) -> int | None:
        """Run a job in a forked process in the copy; return its exit status, None when it took too long."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 70
            try:
                os.setsid()
                os.chdir(self.folder)
                with (self.folder / ".log").open("wb") as stream:
                    os.dup2(stream.fileno(), 1)
                    os.dup2(stream.fileno(), 2)
                status = job()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        end = time.monotonic() + limit
        try:
            while time.monotonic() < end:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.05)
            return None
        finally:  # whatever the tests started ends with them
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    def measure(self) -> Baseline:
        """Run the tests on the unchanged package and import, in this process, the libraries that they need."""
        out = self.folder / ".baseline.json"

        def job() -> int:
            import coverage
            import pytest

            tracer = coverage.Coverage(data_file=None, include=[str(self.module)], config_file=False)
            recorder = _Recorder(tracer)
            tracer.start()
            status = int(pytest.main([*self.options, *self.targets], plugins=[recorder]))
            tracer.stop()
            found = recorder.baseline
            found.passed = status == 0
            found.lines = {str(k): v for k, v in tracer.get_data().contexts_by_lineno(str(self.module)).items()}
            ours = (str(self.folder), str(self.root))
            found.modules = [
                name
                for name, module in list(sys.modules.items())
                if (file := getattr(module, "__file__", None)) and not file.startswith(ours)
            ]
            out.write_text(json.dumps(vars(found)), encoding="utf-8")
            return status

        status = self.fork(job, 3600)
        if status != 0 or not out.exists():
            raise SystemExit(f"{self.log()}\nthe tests fail without any change")
        baseline = Baseline(**json.loads(out.read_text(encoding="utf-8")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in baseline.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
        gc.freeze()  # what all processes share is no garbage of theirs
        return baseline

    def survives(self, mutant: Mutant, baseline: Baseline) -> bool:
        """Return whether all tests pass with a change. One that takes far longer than usual is killed."""
        names = baseline.chosen(mutant.line)
        files = dict.fromkeys(name.partition("::")[0] for name in names)
        usual = sum(baseline.seconds[name] for name in names)
        self.module.write_text(mutant.apply(self.source), encoding="utf-8")

        def job() -> int:
            import pytest

            return int(pytest.main([*self.options, *files], plugins=[_Chooser(names)]))

        try:
            return self.fork(job, 20 + 5 * usual) == 0
        finally:
            self.module.write_text(self.source, encoding="utf-8")


def survivors(place: Workplace, mutants: list[Mutant]) -> Iterator[tuple[Mutant, bool]]:
    """Yield each mutant and whether it survives."""
    baseline = place.measure()
    if not place.survives(Mutant(0, 0, 0, ""), baseline):
        raise SystemExit(f"{place.log()}\nthe tests pass once, but not in a second process")
    for mutant in mutants:
        yield mutant, place.survives(mutant, baseline)


def main(arguments: list[str] | None = None) -> int:
    """Print a module's survivors and the share of killed mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path, metavar="PATH", help="packages/PACKAGE/src/…/MODULE.py")
    parser.add_argument("--most", type=int, metavar="N", help="a random sample of at most N mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--lines", metavar="A-B", help="only mutants of these lines")
    options, words = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(options.module, words, Path(folder).resolve())
        mutants = find(place.source)
        if options.lines:
            first, _, last = options.lines.partition("-")
            mutants = [m for m in mutants if int(first) <= m.line <= int(last or first)]
        total = len(mutants)
        if options.most is not None and options.most < total:
            chosen = random.Random(options.seed).sample(mutants, options.most)
            mutants = sorted(chosen, key=lambda mutant: mutant.start)
        print(f"{place.name}: {len(mutants)} of {total} mutants", flush=True)
        tried = alive = 0
        try:
            for mutant, survived in survivors(place, mutants):
                tried += 1
                alive += survived
                if survived:
                    print(mutant.diff(place.source, options.module.name), flush=True)
        except KeyboardInterrupt:
            print("interrupted")
    share = f" ({(tried - alive) / tried:.1%})" if tried else ""
    print(f"{place.name}: killed {tried - alive} of {tried}{share}, survived {alive}")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # libraries imported only for the forks may complain when they are unloaded
