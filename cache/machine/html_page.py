"""Pages that need no network: a style sheet, a script, and data that cannot leave its element."""

import base64
import hashlib
import json
from html import escape
from typing import Any


def html_page(title: str, body: str, *, style: str, script: str) -> str:
    """A whole page, whose policy lets no other script run and nothing be fetched.

    Args:
        title: as text.
        body: as HTML.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n"
        f"<body>{body}\n<script>{script}</script></body></html>\n"
    )


def script_json(value: Any) -> str:
    """JSON that cannot end the script element around it, nor open a comment in it.

    All but ASCII is escaped: line separators, lone surrogates of broken completions.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
