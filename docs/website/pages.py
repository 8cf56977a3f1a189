"""Write the pages that come from the code, and add the navigation to the first page."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from website.names import docstring_of, pages

ROOT = Path(__file__).resolve().parents[2]

NAVIGATION = {
    "docs/index": {
        "Start": ("start", "concepts", "choosing", "command_line", "coming_from", "interop", "faq"),
        "How-tos": ("/examples/README",),
        "Models": ("cells", "methods", "layers", "models", "training", "data"),
        "Applications": (
            "applications", "/notebooks/text", "/notebooks/sentiment", "/notebooks/translation", "/notebooks/speech",
            "/notebooks/forecasting", "/notebooks/captioning", "/notebooks/digits", "/notebooks/state_tracking",
        ),
        "Gradients": (
            "instruments", "probes", "closed_forms", "gradient_report", "compare", "/notebooks/tour_of_gradients",
            "/notebooks/pretrained",
        ),
        "Reference": ("api/index",),
        "Project": ("promises", "design", "/benchmarks/results/README", "/CONTRIBUTING", "/CHANGELOG", "citing"),
    },
    "examples/README": {"": ("/docs/howto/*",)},
    "docs/data": {"": ("/seqjax/datasets/README",)},
    "docs/gradient_report": {"": ("report/README",)},
    "docs/applications": {"": ("/benchmarks/results/applications/README",)},
    "benchmarks/results/README": {"": ("*", "h200/*")},
}  # fmt: skip
"""The sidebar: a page, captions, and the pages below it, relative to the page. Missing pages are left out."""


def write(path: Path, text: str) -> None:
    """Write a page if it changed, so that Sphinx reads only what is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def entry(name: str, value: Any) -> str:
    """Return the directive that documents one name."""
    if inspect.isclass(value):
        return f".. autoclass:: seqjax.{name}\n   :members:\n"
    if inspect.isroutine(value):
        return f".. autofunction:: seqjax.{name}\n"
    package, _, constant = name.rpartition(".")
    return f".. py:data:: seqjax.{name}\n\n   {docstring_of(package, constant)}\n"


def reference(package: str, names: dict[str, Any]) -> str:
    """Return the page of one package: what it is for, a table of its names, and every name in full."""
    title = f"seqjax.{package}"
    listed = "\n".join(f"   ~seqjax.{name}" for name in names if not name.endswith(("Params", "Carry")))
    entries = "\n".join(entry(name, value) for name, value in names.items())
    table = f".. autosummary::\n   :nosignatures:\n\n{listed}\n"
    about = f".. automodule:: {title}\n   :no-members:\n\n.. currentmodule:: None\n"
    return f"{title}\n{'=' * len(title)}\n\n{about}\n{table}\n{entries}"


def write_howtos() -> None:
    """Write one page per program of `examples/`: its docstring is the text, and the program follows."""
    for program in sorted((ROOT / "examples").glob("[!_]*.py")):
        source = program.read_text()
        tree = ast.parse(source)
        title, _, text = (ast.get_docstring(tree) or "").partition("\n")
        code = "\n".join(source.splitlines()[tree.body[0].end_lineno :]).strip()
        name = f"examples/{program.name}"
        page = f"# {title.rstrip('.')}\n{text}\n\nThe program is [{name}](../../{name}); a test runs it.\n"
        write(ROOT / f"docs/howto/{program.stem}.md", f"{page}\n```python\n{code}\n```\n")


def write_reference() -> None:
    """Write one page per package, and their index."""
    title = "Every public name"
    found = pages()
    listed = "\n".join(f"   {package}" for package in found)
    text = "``import seqjax as sj`` offers all names. A name without a package is written ``sj.lstm``."
    write(
        ROOT / "docs/api/index.rst",
        f"{title}\n{'=' * len(title)}\n\n{text}\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n",
    )
    for package, names in found.items():
        write(ROOT / f"docs/api/{package}.rst", reference(package, names))


def write_pages(app: Any) -> None:
    """Write everything that is made from the code."""
    write_reference()
    write_howtos()


def exists(folder: Path, name: str) -> bool:
    """Return whether there is a page of a name or pattern."""
    return any((ROOT if name.startswith("/") else folder).glob(f"{name.lstrip('/')}.*"))


def navigation(page: str) -> str:
    """Return the tables of contents of a page, one per caption."""
    parts = []
    for caption, names in NAVIGATION[page].items():
        folder = ROOT / page.rpartition("/")[0]
        there = [name for name in names if exists(folder, name)]
        options = [":hidden:", ":glob:", *([f":caption: {caption}"] if caption else [])]
        parts += ["", "```{toctree}", *options, "", *there, "```"]
    return "\n".join(parts) + "\n"


def add_navigation(app: Any, page: str, content: list[str]) -> None:
    """Add its table of contents to a page, which is plain Markdown in the repository."""
    if page in NAVIGATION:
        content[0] += "\n" + navigation(page)
    if page == "examples/README":
        content[0] = re.sub(r"\]\((\w+)\.py\)", r"](../docs/howto/\1.md)", content[0])


def add_first_page(app: Any, error: Exception | None) -> None:
    """Lead from the root of the site to its first page."""
    if error is None and app.builder.format == "html":
        first = f"{app.config.root_doc}.html"
        head = (
            f'<meta charset="utf-8"><title>seqjax</title><meta http-equiv="refresh" content="0; url={first}">'
        )
        (Path(app.outdir) / "index.html").write_text(f'<!doctype html>{head}<a href="{first}">seqjax</a>\n')


def setup(app: Any) -> dict:
    """Write the pages before Sphinx looks for them."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_first_page)
    return {"parallel_read_safe": True}
