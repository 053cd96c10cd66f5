"""Hooks of MkDocs. The pages are written for a code host; the hooks adapt them to the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import log

ROOT = Path(__file__).parent.parent

_OUTSIDE = re.compile(r'\[([^\[\]]*)\]\(\.\./([^)#\s]*)(#[^)\s]*)?(?: "([^"]*)")?\)')
_KIND = re.compile(r"^```python \w+$", re.MULTILINE)  # the word after `python` is for the tests
_ROLE = re.compile(r":(?:class|meth|func|mod|attr|data):<code>~?([^<]*)</code>")


def on_page_markdown(markdown: str, *, page: Page, config: Any, files: Files) -> str:
    """Turn links to other files into links to the repository, or into plain text if it has no URL."""

    def replaced(link: re.Match[str]) -> str:
        text, path, anchor, title = (part or "" for part in link.groups())
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_path, path)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{path}{anchor})"
        return f'<span title="{" ".join([path, title]).strip()}">{text}</span>'

    return _OUTSIDE.sub(replaced, _KIND.sub("```python", markdown))


def on_page_content(html: str, *, page: Page, config: Any, files: Files) -> str:
    """Translate the roles and literal blocks of docstrings from reStructuredText."""
    return (
        _ROLE.sub(r"<code>\1</code>", html)
        .replace("::</p>\n<pre", ":</p>\n<pre")
        .replace("::</p>\n<div", ":</p>\n<div")
    )
