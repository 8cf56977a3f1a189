"""The documentation site: ``sphinx-build -c docs . build/site``, or ``make docs``.

The source folder is the root of the repository, so a relative link of a Markdown page leads to the same page on the
site and on a repository host. The pages hold no directives; what the site adds to them is in `docs/website/`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import seqjax  # noqa: E402

project = "seqjax"
author = "the authors of seqjax"
release = version = seqjax.__version__
html_title = f"seqjax {release}"

root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/report/*.md",
    "docs/api/*.rst",
    "docs/howto/*.md",
    "examples/README.md",
    "notebooks/*.ipynb",
    "benchmarks/results/**.md",
    "seqjax/datasets/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = [".*", "build", "dist", "report", "tests", "**/__pycache__"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "myst_nb",
    "website.pages",
    "website.docstrings",
    "website.links",
    "website.mathml",
]

# Markdown: the heading anchors of repository hosts, formulas between dollars. Notebooks keep their stored outputs.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True

# Docstrings have Google's sections. Single backticks name an object wherever there is one of this name.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["website/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "tango"
pygments_dark_style = "monokai"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
