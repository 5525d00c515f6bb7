"""How Sphinx builds the guide; `make docs` runs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import vineyard_arrow

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "vineyard_arrow"
version = release = vineyard_arrow.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_line",
    "docstrings",
]
exclude_patterns = ["examples", "extensions", "static"]
nitpicky = True
default_role = "py:obj"
smartquotes_action = "D"  # dashes alone

# Pages are read where the code is kept, too: links are those of plain Markdown, to files, not to
# folders. One to a file that is no page (../deploy/compose.yaml, say) becomes a download.
myst_heading_anchors = 3
highlight_language = "text"  # of what names none: pictures, output, shells

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
_OPTIONAL = ("airflow", "dagster", "dask", "kedro", "pydantic", "ray", "torch")
autodoc_mock_imports = [name for name in _OPTIONAL if find_spec(name) is None]
strip_signature_backslash = True  # or get(as_=) loses its underscore
maximum_signature_line_length = 80
napoleon_google_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "vineyard_arrow"
html_static_path = ["static"]
html_css_files = ["guide.css"]
html_copy_source = False
html_show_copyright = False
