"""MkDocs hook: a relative link that leaves docs/, such as ../../CONTRIBUTING.md, becomes a link to the repository.

So the pages of docs/ have the same links in a clone, on the repository's site and on the documentation's site.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s]+)(\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replaces such links in the text of one page."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if target.startswith("docs/"):
            return link[0]
        return f"{link[1]}{config.repo_url}/blob/main/{target}{link[3]}"

    return LINK.sub(outside, markdown)
