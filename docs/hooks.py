"""What MkDocs calls while it builds the site: pages are written for a code host, and read well there as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import log

ROOT = Path(__file__).parent.parent

_OUTSIDE = re.compile(r'\[([^\[\]]*)\]\(\.\./([^)#\s]*)(#[^)\s]*)?(?: "([^"]*)")?\)')
_KIND = re.compile(r"^```python \w+$", re.MULTILINE)  # tells the tests how to run it
_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data):<code>~?([^<]*)</code>")


def on_page_markdown(markdown: str, *, page: Page, config: Any, files: Files) -> str:
    """Links to what is no page lead to the repository; while that has no URL, they only say where it is."""

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor, title = (part or "" for part in link.groups())
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not there", page.file.src_path, path)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{path}{anchor})"
        return f'<span title="{" ".join([path, title]).strip()}">{text}</span>'

    return _OUTSIDE.sub(replaced, _KIND.sub("```python", markdown))


def on_page_content(html: str, *, page: Page, config: Any, files: Files) -> str:
    """Docstrings are reStructuredText where they name things and show code."""
    return (
        _ROLE.sub(r"<code>\1</code>", html)
        .replace("::</p>\n<pre", ":</p>\n<pre")
        .replace("::</p>\n<div", ":</p>\n<div")
    )
