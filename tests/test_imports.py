"""Test that every module of seqjax imports only from the layers below it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

# From the bottom to the top. A module imports from groups below its own; inside a group only what ALLOWED lists.
ORDER = (
    {
        "affine",
        "checks",
        "compat",
        "files",
        "heartbeat",
        "hints",
        "inputs",
        "install",
        "interrupts",
        "local_modules",
        "names",
        "products",
        "recurrences",
        "rows",
        "serialization",
        "sizes",
        "statistics",
        "values",
        "version",
    },
    {"calls", "jaxprs"},
    {"base", "fields"},
    {"ops"},
    {"cells", "methods"},
    {"layers"},
    {"combinators", "decode", "user_model"},
    {"blocks"},
    {"models"},
    {"gradients"},
    {"datasets"},
    {"tasks"},
    {"probes", "training"},
    {"testing", "calibration", "interop"},
    {"study"},
    {"report"},
    {"compare"},
    {"cli"},
    {"__main__"},
)
ALLOWED: set[tuple[str, str]] = {("affine", "products"), ("values", "checks"), ("values", "hints")}
LEVEL = {name: level for level, group in enumerate(ORDER) for name in group}
MAX_LINES = 400
MAX_FUNCTION = 80
REASON = "Long because"
ROOT = Path(__file__).parent.parent / "seqjax"


def test_imports_go_one_way():
    found = [line for path in modules(ROOT) for line in wrong_imports(ROOT, path)]
    assert not found, "\n" + "\n".join(found)


def test_no_two_files_import_each_other():
    """Neither directly nor by way of others."""
    assert not circles(ROOT)


@pytest.mark.parametrize(
    "line", ["from seqjax.ops import scan", "import seqjax.ops.scan", "from . import scan"]
)
def test_a_circle_between_files_of_one_folder_is_found(tmp_path, line):
    files = {"ops/scan.py": "from seqjax.ops.tree import x", "ops/tree.py": "from .loop import x"}
    root = tree(tmp_path, files | {"ops/loop.py": f"def f():\n    {line}"})
    assert circles(root) == {frozenset({"seqjax.ops.loop", "seqjax.ops.scan", "seqjax.ops.tree"})}
    (root / "ops/loop.py").write_text("from seqjax.ops import x")
    assert not circles(root)


def test_neither_seqjax_nor_its_commands_import_scipy_stats():
    """Its import takes half a second, for which every command would wait."""
    code = "import seqjax.cli.describe as d, sys; d.text(); sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_test_files_do_not_import_each_other():
    """What several of them use is in tests/helpers/."""
    for path in Path(__file__).parent.rglob("*.py"):
        names = re.findall(r"^\s*(?:from|import) ((?:tests\.)?test_\w+)", path.read_text(), re.MULTILINE)
        assert not names, f"{path.name} imports {', '.join(names)}: move what it takes from there to helpers/"


def test_no_private_jax():
    found = [line for path in modules(ROOT) for line in private_jax(path)]
    assert not found, "\n" + "\n".join(found)


def test_no_file_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in modules(ROOT)}
    found = [f"{path}: {n} lines, more than {MAX_LINES}" for path, n in lengths.items() if n > MAX_LINES]
    assert not found, "\n" + "\n".join(found)


def test_no_function_is_long():
    """A function may be long where its docstring says why, after the words of REASON."""
    found = [f"{path.relative_to(ROOT)}: {name}" for path in modules(ROOT) for name in long_functions(path)]
    assert not found, f"more than {MAX_FUNCTION} lines of code: {found}"


@pytest.mark.parametrize(
    ("lines", "docstring", "found"),
    [
        (MAX_FUNCTION, "Short.", []),
        (MAX_FUNCTION + 1, "Short.", ["f"]),
        (MAX_FUNCTION + 1, "Short.\n\n    Long because of a reason.\n", []),
    ],
)
def test_lines_of_code_are_counted_without_the_docstring(tmp_path, lines, docstring, found):
    path = tmp_path / "x.py"
    path.write_text(f'def f():\n    """{docstring}"""\n' + "    x = 1\n" * (lines - 1))
    assert long_functions(path) == found


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("ops/scan.py", "import seqjax.cells.lstm", "ops imports from cells: upward"),
        ("ops/scan.py", "from seqjax import cells", "ops imports from cells: upward"),
        ("ops/scan.py", "from ..cells import lstm", "ops imports from cells: upward"),
        ("ops/scan.py", "from seqjax.cells.lstm import lstm", "ops imports from cells: upward"),
        ("ops/scan.py", "def f():\n    from seqjax.cells import lstm", "ops imports from cells: upward"),
        ("methods.py", "from .cells import lstm", "methods imports from cells: sideways"),
        ("ops/scan.py", "import seqjax as sj", "ops imports the package itself"),
        ("ops/scan.py", "from seqjax import lstm", "ops imports the package itself"),
        ("ops/scan.py", "from seqjax.nowhere import x", "'nowhere' has no place in ORDER"),
        ("nowhere.py", "from seqjax.base import x", "'nowhere' has no place in ORDER"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, module, line, message):
    root = tree(tmp_path, {module: f"import os\n{line}\n"})
    found = [text for path in modules(root) for text in wrong_imports(root, path)]
    assert len(found) == 1 and message in found[0] and line.splitlines()[-1].strip() in found[0]
    number = 1 + len(line.splitlines())
    assert f"{Path('seqjax', module)}:{number}:" in found[0]


def test_a_right_import_passes(tmp_path):
    below = "from seqjax.ops import scan\nfrom seqjax.cells.lstm import x\nimport seqjax.base\nfrom . import lstm\n"
    root = tree(tmp_path, {"cells/gru.py": below, "__init__.py": "from seqjax.cells import *\n"})
    assert not [text for path in modules(root) for text in wrong_imports(root, path)]


@pytest.mark.parametrize(
    "line", ["import jax._src.core", "from jax._src import core", "from jax import _src", "f = jax._src.core"]
)
def test_private_jax_is_found(tmp_path, line):
    path = tmp_path / "x.py"
    path.write_text(f"import jax\n{line}\n")
    assert private_jax(path) == [f"{path}:2: {line}: jax._src changes without notice; use a public name."]


def modules(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def wrong_imports(root: Path, path: Path) -> list[str]:
    """``file:line: statement: why`` of each import in the file that the order forbids."""
    here = path.relative_to(root.parent)
    if here == Path(root.name, "__init__.py"):
        return []  # the public names come from everywhere
    name = here.with_suffix("").parts[1]
    source = path.read_text()
    found = []
    for node in ast.walk(ast.parse(source)):
        for target in imported(root, here, node):
            reason = why_wrong(name, target)
            if reason:
                found.append(f"{here}:{node.lineno}: {ast.get_source_segment(source, node)}: {reason}.")
    return found


def why_wrong(name: str, target: str) -> str | None:
    if not target:
        return f"{name} imports the package itself, which is at the top; name the module"
    for unknown in {name, target} - set(LEVEL):
        return f"'{unknown}' has no place in ORDER (tests/test_imports.py)"
    if name == target or LEVEL[target] < LEVEL[name] or (name, target) in ALLOWED:
        return None
    return f"{name} imports from {target}: {'sideways' if LEVEL[name] == LEVEL[target] else 'upward'}"


def imported(root: Path, here: Path, node: ast.AST) -> set[str]:
    """Top-level modules of the package that a statement imports; '' for the package itself."""
    targets = [name.split(".") for name in dotted(here, node) if name.split(".")[0] == root.name]
    # `from seqjax import name`: a module if there is such a file, otherwise a public name of the package.
    from_package = isinstance(node, ast.ImportFrom)
    return {
        "" if len(t) == 1 or (from_package and len(t) == 2 and not is_module(root / t[1])) else t[1]
        for t in targets
    }


def dotted(here: Path, node: ast.AST) -> list[str]:
    """The full names of what a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = (
        [*here.parts[: len(here.parts) - node.level], *filter(None, [node.module])]
        if node.level
        else [node.module]
    )
    return [".".join([*base, alias.name]) for alias in node.names]


def circles(root: Path) -> set[frozenset[str]]:
    """The groups of modules that import each other, directly or by way of others of the group."""
    files = {name_of(root, path): path for path in modules(root)}
    files.pop(root.name, None)  # the public names come from everywhere
    imports = {
        name: {
            target
            for node in ast.walk(ast.parse(path.read_text()))
            for each in dotted(path.relative_to(root.parent), node)
            if (target := longest_module(files, each)) and target != name
        }
        for name, path in files.items()
    }
    reached = {name: reachable(imports, name) for name in imports}
    return {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in imports
        if name in reached[name]
    }


def reachable(imports: dict[str, set[str]], start: str) -> set[str]:
    """The modules that a module imports, directly or by way of others."""
    found: set[str] = set()
    ahead = list(imports[start])
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += imports[name]
    return found


def long_functions(path: Path) -> list[str]:
    """The functions of a file with more lines than MAX_FUNCTION, docstrings aside, and without a reason for it."""
    functions = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef))
    return [f.name for f in functions if lines_of_code(f) > MAX_FUNCTION and REASON not in docstring_of(f)]


def lines_of_code(function: ast.FunctionDef) -> int:
    first, own = function.body[0], function.end_lineno - function.lineno + 1
    return own - (first.end_lineno - first.lineno + 1 if docstring_of(function) else 0)


def docstring_of(function: ast.FunctionDef) -> str:
    return ast.get_docstring(function) or ""


def name_of(root: Path, path: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def longest_module(files: dict[str, Path], name: str) -> str:
    """The module that an imported name belongs to; '' for none of the package."""
    while name and name not in files:
        name = name.rpartition(".")[0]
    return name


def is_module(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def private_jax(path: Path) -> list[str]:
    """Each mention of ``jax._src`` in the code of a file."""
    source = path.read_text()
    lines = {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Import) and any(a.name.startswith("jax._src") for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax._src"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "jax"
            and any(a.name == "_src" for a in node.names)
        )
        or (isinstance(node, ast.Attribute) and node.attr == "_src")
    }
    text = source.splitlines()
    return [
        f"{path}:{n}: {text[n - 1].strip()}: jax._src changes without notice; use a public name."
        for n in sorted(lines)
    ]


def tree(folder: Path, files: dict[str, str]) -> Path:
    """A package with the modules that the examples import, and the given files."""
    root = folder / "seqjax"
    for name in ("__init__.py", "base.py", "ops/__init__.py", "cells/__init__.py", "cells/lstm.py"):
        files.setdefault(name, "")
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
