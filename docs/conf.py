"""The site of the documents: `make docs` builds it into build/docs, and every warning is an error."""

import importlib.metadata
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sphinx.application import Sphinx

from cloud.cli import fleetlift
from cloud.config import OperatorContext, Settings
from device_agent.cli import main as fleetlift_agent
from docs.generating.api import api
from docs.generating.commands import commands
from docs.generating.metrics import metrics
from docs.generating.settings import settings

project = "Fleetlift"
version = release = importlib.metadata.version("fleetlift")
extensions = ["myst_parser"]
root_doc = "index"
exclude_patterns = ["generating"]
nitpicky = True
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Fleetlift"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
smartquotes = False
suppress_warnings: list[str] = []

GENERATED: Final[dict[str, Callable[[], str]]] = {
    "api": api,
    "fleetlift": lambda: commands(fleetlift, "fleetlift"),
    "fleetlift-agent": lambda: commands(fleetlift_agent, "fleetlift-agent"),
    "fleetlift.toml": lambda: settings(Settings),
    "context.toml": lambda: settings(OperatorContext),
    "metrics": metrics,
}
"""What `<!-- generated: NAME -->` in a page stands for."""
_PLACE: Final = re.compile(r"<!-- generated: (\S+) -->")
_OTHERS: Final = re.compile(r"^<others>$", re.MULTILINE)
_MERMAID: Final = re.compile(r"```mermaid\n.*?```", re.DOTALL)
_DIRECTORY: Final = re.compile(r"\]\((decisions)/?\)")
_LINK: Final = re.compile(r"\[((?:[^\[\]`]|`[^`]*`)+)\]\(((?:\.\./)+)([^)#\s]+)(#[^)\s]*)?\)")
_REPOSITORY: Final = Path(__file__).resolve().parents[1]
_SOURCES: Final = os.environ.get("FLEETLIFT_SOURCES_URL", "").rstrip("/")
"""Where the files of the repository can be read; without it the site names them and links to none."""


def prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Fill in what is generated, and turn links to files that are not of the site into their names."""
    here = (Path(app.srcdir) / name).parent
    text = _PLACE.sub(lambda place: GENERATED[place[1]](), source[0])
    text = _OTHERS.sub(lambda _: _others(Path(app.srcdir), source[0]), text).replace("```csv\n", "```text\n")
    text = _MERMAID.sub(f"![The machine of a device]({os.path.relpath(app.srcdir, here)}/machine.svg)", text)
    text = _DIRECTORY.sub(r"](\1/README.md)", text)
    source[0] = _LINK.sub(lambda link: _outside(app, here, link), text)


def _others(documents: Path, index: str) -> str:
    """Return the documents of which the index says nothing: whoever adds one need not know of it."""
    return "\n".join(
        sorted(
            path.stem
            for path in documents.glob("*.md")
            if path.stem != "index" and not re.search(rf"\b{path.stem}\b", index)
        )
    )


def _outside(app: Sphinx, here: Path, link: re.Match[str]) -> str:
    target = (here / link[2] / link[3]).resolve()
    if target.is_relative_to(app.srcdir):
        return link[0]
    path = target.relative_to(_REPOSITORY).as_posix()
    if _SOURCES:
        return f"[{link[1]}]({_SOURCES}/{path}{link[4] or ''})"
    return link[1] if link[1].strip("`").strip("/") == path else f"{link[1]} (`{path}`)"


def setup(app: Sphinx) -> dict[str, bool]:
    """Join the builder."""
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
