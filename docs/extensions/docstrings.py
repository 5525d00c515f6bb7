"""What docstrings and pages are written with, for whoever reads them as they stand, as links.

Docstrings have names in single backticks, and pages as docs/name.md.

A name links to what the reference has under it, be it in another module (`Client.get`); one that
it has not is shown as code. A full name of this package that leads nowhere is a warning. Classes
that are "made by" something else, or tell their attributes, are shown without what their
constructor takes, unless they tell of that.

Pages have links such as [types.md](types.md), which are shown as the other page's title. Code in
their text such as `client.put(...)` or `StoreFullError` is a link to the reference; in tables it
may be that of others.
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

MADE = re.compile(r"\b[Mm]ade by `|Attributes\n")
REGISTRY = re.compile(r"<vineyard_arrow\.registry\.Registry object[^>]*>")
CODE = re.compile(
    r"((?:vineyard_arrow|[Cc]lient|Graph|ObjectMeta)\.[\w.]+|[A-Z][a-z]+[A-Z]\w+)(?:\(.*\))?"
)
PAGE = re.compile(r"(?<![\w/])docs/([\w-]+)\.md")


def stay_inside(app: Sphinx, page: str, text: list[str]) -> None:
    """Lead links to files beside docs/ that have a page to that."""
    up = "../" * page.count("/")
    for file, name in (("README.md", "index.md"), ("CHANGELOG.md", "changelog.md")):
        text[0] = text[0].replace(f"](../{up}{file}", f"]({up}{name}")


def link_pages(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make the names of pages links."""
    lines[:] = [PAGE.sub(r":doc:`/\1`", line) for line in lines]
    if what == "property":
        lines.insert(0, "\\")  # or napoleon takes what stands before a colon for its type


def shown_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """None for a class that its users do not call; else defaults that can be read."""
    text = obj.__doc__ or ""
    is_made = getattr(obj, "_is_protocol", False) or MADE.search(text)
    if what == "class" and is_made and "Parameters\n" not in text:
        return "", ""
    if not signature:
        return None
    return REGISTRY.sub("default_registry", signature).replace("<factory>", "..."), returns


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> Any:
    """No fields of named tuples: their docstrings are Python's."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else None


def mend_links(app: Sphinx, document: nodes.document) -> None:
    """Make titles of pages' names, and no names of attributes of words in parameters' types."""
    for node in document.findall(pending_xref):
        if node.get("reftype") == "class":
            node.attributes.pop("refspecific", None)
        elif node.get("refdomain") == "doc" and node.astext().endswith(".md"):
            node["refexplicit"] = False


def link_code(app: Sphinx, document: nodes.document) -> None:
    """Make links of code in text that is a name, where the reference has it."""
    for code in list(document.findall(nodes.literal)):
        name = CODE.fullmatch(code.astext())
        in_text = isinstance(code.parent, nodes.paragraph)
        if name and in_text and not isinstance(code.parent.parent, nodes.entry):
            target = name[1].replace("client.", "Client.")
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=target, guessed=True)
            link["refdoc"] = app.env.docname
            code.replace_self(link)
            link += code


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
    is_sure = not is_type and "guessed" not in node
    return None if is_sure and target.startswith("vineyard_arrow.") else shown


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
    app.connect("autodoc-process-docstring", link_pages, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", shown_signature)
    app.connect("source-read", stay_inside)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", mend_links)
    app.connect("doctree-read", link_code)
    app.connect("missing-reference", find_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
