"""Links that pages and docstrings do not spell out: a name in code font leads to its entry in the reference."""

from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

NO_LINKS = (nodes.title, nodes.reference, pending_xref)
"""Nodes inside which a name stays as it is."""


KINDS = ("class", "function", "data", "exception")


def entries(env: Any) -> dict[str, Any]:
    """Return the documented names, each as users write it: ``seqjax.x``, ``sj.x``, ``x``, and the last part alone.

    A last part that two names share stands for neither.
    """
    found: dict[str, Any] = {}
    last: dict[str, set[str]] = {}
    objects = {name: each for name, each in env.domains["py"].objects.items() if each.objtype in KINDS}
    for name in objects:
        last.setdefault(name.rpartition(".")[2], set()).add(name)
    for name, each in objects.items():
        short = name.removeprefix("seqjax.")
        alone = short.rpartition(".")[2]
        for written in (name, f"sj.{short}", short, *([alone] if last[alone] == {name} else [])):
            found[written] = (name, each)
    return found


class LinkNames(SphinxPostTransform):
    """Turn code that is exactly one public name into a link, outside of links and headings."""

    default_priority = 200

    def run(self, **kwargs: Any) -> None:
        known = entries(self.env)
        for node in list(self.document.findall(nodes.literal)):
            text = node.astext()
            written = text.partition("(")[0]
            if written not in known or "code" in node["classes"] and node.get("language"):
                continue
            if any(isinstance(parent, NO_LINKS) for parent in parents(node)):
                continue
            name, each = known[written]
            here, code = self.env.docname, node.deepcopy()
            node.replace_self(make_refnode(self.app.builder, here, each.docname, each.node_id, code, name))


def parents(node: Any) -> Any:
    """Yield the nodes around a node."""
    while node.parent is not None:
        node = node.parent
        yield node


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Find the object that a docstring names by its last part."""
    if node.get("refdomain") != "py" or node["reftarget"] not in (known := entries(env)):
        return None
    name, each = known[node["reftarget"]]
    return make_refnode(app.builder, node["refdoc"], each.docname, each.node_id, content, name)


def setup(app: Any) -> dict:
    """Register the transform and the search by last part."""
    app.add_post_transform(LinkNames)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
