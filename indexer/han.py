"""The characters that Chinese words are written in."""

from __future__ import annotations

import re

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"
"""What stands between the brackets of a regular expression's class: Unicode's CJK ideographs with all extensions."""
_HAN = re.compile(f"[{HAN}]")


def has_han(text: str) -> bool:
    return bool(_HAN.search(text))
