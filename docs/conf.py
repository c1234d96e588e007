"""The manual: Sphinx over Markdown; pages below reference/config and reference/messages.md are generated."""

from containerssh import __version__

project = "containerssh"
author = "the containerssh authors"
copyright = author
version = release = __version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# The headings of a page are link targets: [text](page.md#heading).
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_title = f"containerssh {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["manual.css"]
