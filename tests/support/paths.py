"""Where the checkout and what comes with it are."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "problems.jsonl"
SHARED = ROOT.parent / "shared"
"""Real data and teachers, on machines that have them; tests that need them skip where not."""
