"""The pages of this folder as a static site: `sphinx-build -W -b html docs <folder>`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from spamcaf import __version__
from spamcaf.parameters import RunSettings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "figures"))

project = "spamcaf"
author = copyright = "the spamcaf developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp"

default_role = "literal"  # single backticks of docstrings
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_title = f"spamcaf {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_theme_options = {
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "navbar_persistent": [],  # the search field is in the sidebar
    "footer_content_items": ["copyright"],
}
html_show_sourcelink = False

PARAMETERS = "<!-- all parameters -->"


def setup(app: Sphinx) -> None:
    """Draw the figures before the pages are read, and put the parameters into their page."""
    app.connect("builder-inited", draw_figures)
    app.connect("source-read", insert_parameters)


def draw_figures(app: Sphinx) -> None:
    """Draw the figure of the method into docs/_generated, which git ignores."""
    from method import draw_method

    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    draw_method().savefig(folder / "method.svg", metadata={"Date": None})


def insert_parameters(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the mark in a page by all settings, as they are typed."""
    source[0] = source[0].replace(PARAMETERS, describe_parameters())


def describe_parameters() -> str:
    """Return every setting in Markdown, by group: name, default, allowed values and meaning."""
    parts = [_describe(RunSettings, "", ["seed"])]
    for name, field in RunSettings.model_fields.items():
        if isinstance(field.default, BaseModel):
            group = type(field.default)
            parts += [f"## {name}", str(group.__doc__), _describe(group, f"{name}.", list(group.model_fields))]
    return "\n\n".join(parts)


def _describe(group: type[BaseModel], before: str, names: list[str]) -> str:
    properties = group.model_json_schema()["properties"]
    defaults = group().model_dump(mode="json")
    entries = []
    for name in names:
        default = json.dumps(defaults[name]).replace('"', "")
        entries.append(f"`{before}{name}` = `{default}`; {_allowed(properties[name])}")
        entries.append(f": {group.model_fields[name].description}\n")
    return "\n".join(entries)


def _allowed(schema: dict[str, Any]) -> str:
    """Return in words what a property of a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(_allowed(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kinds = {"integer": "whole number", "boolean": "true or false", "string": "text", "null": "none", "object": "table"}
    kind = kinds.get(schema.get("type", ""), schema.get("type", "table"))
    if kind == "array":
        return f"list of {schema['minItems']}" if schema.get("minItems") == schema.get("maxItems", -1) else "list"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return " ".join([kind, ", ".join(bounds)]).strip()
