"""Pages in a headless browser: what is on them after their scripts ran, also on a phone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium, which is not installed")
# A window cannot be as narrow as a phone, a frame can; what is seen in it is told to this page.
PHONE = """<!doctype html><html><body><iframe src="probed.html" width="360" height="900"></iframe>
<script>
  addEventListener("message", ({ data }) => { document.documentElement.dataset.seen = data; });
</script></body></html>"""


def browse(path: Path, hash: str = "", *, profile: Path) -> tuple[str, list[str]]:
    """The page's document after its scripts have run, and what the browser's console said."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", "--window-size=1000,900", "--hide-scrollbars",
        "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom",
        f"file://{path}{hash}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def in_a_phone(page: Path, probe: str, *, profile: Path) -> dict[str, Any]:
    """What a script at the end of a page posts to its parent, in a frame as wide as a phone.

    The page's policy is lifted for the probe. It ends with
    `parent.postMessage(JSON.stringify(seen), "*")`.
    """
    lifted = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    page.with_name("probed.html").write_text(lifted.replace("</body>", probe))
    phone = page.with_name("phone.html")
    phone.write_text(PHONE)
    document, console = browse(phone, profile=profile)
    assert console == []
    return json.loads(attribute(document, "seen") or "{}")


def attribute(document: str, name: str) -> str | None:
    """The value of data-NAME of the html element."""
    found = re.search(f'<html[^>]* data-{name}="([^"]*)"', document)
    return unescape(found[1]) if found else None


def contrast(one: str, other: str) -> float:
    """Contrast of two colours. Source: WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` or `color(srgb r g b)`. Source: WCAG 2.2."""
    largest = 1 if colour.startswith("color(srgb") else 255
    channels = [float(part) / largest for part in re.findall(r"\d[\d.]*(?:e-?\d+)?", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
