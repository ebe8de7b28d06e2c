"""The files beside these modules that go into what is written."""

from importlib import resources


def read_asset(name: str) -> str:
    """The text of a style sheet or script."""
    return (resources.files("evaluation.page") / name).read_text(encoding="utf-8")
