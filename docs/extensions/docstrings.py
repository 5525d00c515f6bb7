"""What docstrings are written with: names in single backticks, and pages as docs/name.md.

A name links to what the reference has under it, be it in another module (`Client.get`); one that
it has not is shown as code. A full name of this package that leads nowhere is a warning. Classes
that are "made by" something else are shown without what their constructor takes.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

MADE = re.compile(r"\b[Mm]ade by `")
PAGE = re.compile(r"(?<![\w/])docs/([\w-]+)\.md")


def link_pages(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make the names of pages links."""
    lines[:] = [PAGE.sub(r":doc:`/\1`", line) for line in lines]


def hide_constructor(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """No signature for a class that its users do not call."""
    is_made = what == "class" and MADE.search(obj.__doc__ or "")
    return ("", "") if is_made else None


def unloosen_types(app: Sphinx, document: nodes.document) -> None:
    """Words of a parameter's type are no names of attributes, as Sphinx would take them for."""
    for node in document.findall(pending_xref):
        if node.get("reftype") == "class":
            node.attributes.pop("refspecific", None)


def find_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Node | None:
    """The link of a name that was not found beside the docstring which it is in."""
    if node.get("refdomain") != "py":
        return None
    target, is_type = node["reftarget"], node["reftype"] == "class"
    objects = env.domains.python_domain.objects
    for name in _by_tail(tuple(objects)).get(target, ()):
        to = objects[name]
        if to.objtype in ("class", "exception") or not is_type:
            return make_refnode(app.builder, node["refdoc"], to.docname, to.node_id, shown, name)
    # Types of annotations may be internal; whatever else names this package is a link, or wrong.
    return None if target.startswith("vineyard_arrow.") and not is_type else shown


@cache
def _by_tail(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Names by what they may be called for short, those of the outermost modules first."""
    tails: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (name.count("."), name)):
        words = name.split(".")
        for start in range(1, len(words)):
            tails.setdefault(".".join(words[start:]), []).append(name)
    return tails


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", link_pages)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("doctree-read", unloosen_types)
    app.connect("missing-reference", find_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
