"""Formulas as MathML: browsers draw it without a script, and a page needs no network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging
from sphinx.util.math import wrap_displaymath

logger = logging.getLogger(__name__)


def mathml(node: Any, text: str, display: str) -> str:
    """Return the MathML of a formula; a formula that cannot be converted is a warning."""
    try:
        return convert(text, display=display)
    except Exception as error:  # the converter has no error class of its own
        logger.warning("not a formula that latex2mathml reads: %s (%r)", text, error, location=node)
        return f"<code>{text}</code>"


def inline(visitor: Any, node: Any) -> None:
    """Write a formula of a sentence."""
    visitor.body.append(mathml(node, node.astext(), "inline"))
    raise nodes.SkipNode


def block(visitor: Any, node: Any) -> None:
    """Write a formula on lines of its own."""
    text = wrap_displaymath(node.astext(), None, False)
    text = text.replace(r"\begin{equation*}", "").replace(r"\end{equation*}", "").strip()
    visitor.body.append(f'<div class="formula">{mathml(node, text, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict:
    """Register the renderer of formulas."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
