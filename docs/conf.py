"""Configuration of the site; CONTRIBUTING.md says how it is built."""

import inspect
import os
import re
from pathlib import Path
from pydoc import locate
from typing import Any

import fastmlp

project = "fastmlp"
author = "the fastmlp developers"
copyright = author
version = release = fastmlp.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["gallery/*.ipynb", "gallery/*.py", "gallery/*.md5"]
suppress_warnings = ["config.cache"]  # functions and classes in sphinx_gallery_conf

# Links. A link to a name that is not documented is a warning. Inventories of other
# projects are read only on request, so that the build does not need a network; without
# them, the names of other projects remain plain text.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|matplotlib|numpy|np|pathlib|sklearn|torch)\..*"),
]
intersphinx_mapping = {}
if os.environ.get("FASTMLP_DOCS_LINKS"):
    intersphinx_mapping = {
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "sklearn": ("https://scikit-learn.org/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

# Pages.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
highlight_language = "none"  # of blocks that do not name one
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "fastmlp"
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 5,
    "show_toc_level": 2,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
}
_alone = ("index", "getting_started", "same_bits", "speed", "numerics", "reliability")
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {name: [] for name in (*_alone, "cpp", "architecture", "changelog")}

# The reference.
default_role = "py:obj"
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"
autosummary_generate = True
# Files whose names differ only in case would be one file on some systems.
autosummary_filename_map = {
    "fastmlp.reference.dropout": "fastmlp.reference.dropout_function"
}
numpydoc_show_class_members = False


def skip(
    app: Any, kind: str, name: str, member: Any, skipped: bool, options: Any
) -> bool | None:
    """Leave out members that are not part of the public interface."""
    if kind in {"module", "exception"}:
        return None
    return not is_public(name, member)


def is_public(name: str, member: object) -> bool:
    """Tell whether a member of a public class has an entry in the reference.

    Methods and properties that the package defines have one; the text of the class
    describes its other attributes. The methods of layers serve other modules of the
    package, and `fastmlp._validate.hints` has attributes that only raise an error.
    """
    inside = member.fget if isinstance(member, property) else member
    home = getattr(inside, "__module__", None) or ""
    return (
        (name == "__call__" or not name.startswith("_"))
        and inspect.isroutine(inside)
        and home.partition(".")[0] == "fastmlp"
        and home not in {"fastmlp.layers", "fastmlp._validate.hints"}
    )


def link(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Link a name that docstrings write without its module or class, if it exists.

    Attributes that only the text of a class describes are links to the class. Outside
    of classes, the names of methods are those of `fastmlp.MLP`.
    """
    if node["refdomain"] != "py":
        return None
    name, python = node["reftarget"], env.domains["py"]
    module, owner = node.get("py:module"), node.get("py:class")
    for full in (
        name,
        f"fastmlp.{name}",
        f"{module}.{owner}.{name}",
        f"fastmlp.MLP.{name}",
    ):
        parent, _, attribute = full.rpartition(".")
        target = full if full in python.objects else parent
        if target == full or (
            target in python.objects and attribute in described(target)
        ):
            return python.resolve_xref(
                env, node["refdoc"], app.builder, "obj", target, node, text
            )
    return None


def described(name: str) -> list[str]:
    """Return the attributes that the docstring of a public class describes."""
    lines = re.findall(r"^ *([\w, ]+) :", inspect.getdoc(locate(name)) or "", re.M)
    return [each for line in lines for each in line.split(", ")]


# The gallery. Examples stand in the order in which the gallery's first page lists them.
examples = Path(__file__).parents[1] / "examples"
order = re.findall(
    r"^``(\w+\.py)``$", (examples / "README.rst").read_text("utf-8"), re.M
)

sphinx_gallery_conf = {
    "examples_dirs": str(examples),
    "gallery_dirs": "gallery",
    "filename_pattern": r"/[^_/]\w*\.py$",
    "ignore_pattern": r"(^|/)_\w*\.py$",
    "within_subsection_order": order.index,
    "backreferences_dir": "gallery/names",
    "doc_module": ("fastmlp",),
    "reference_url": {"fastmlp": None},
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
}


def setup(app: Any) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", link)
