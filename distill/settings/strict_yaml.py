"""YAML in which a key stands once: a second one would replace the first without a word."""

from pathlib import Path
from typing import Any

import yaml

from distill.errors import DistillError


def load_yaml(path: Path) -> Any:
    """The one document of a YAML file, as plain values.

    Raises:
        DistillError: it is not YAML, or a mapping has a key twice; with the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DistillError(f"{path} is not valid YAML: {error}") from error


class _StrictLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written: what `<<` merges into it may be named again beside it."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise yaml.composer.ComposerError(
                    problem=f"line {line} has the key {key.value!r}, which line {lines[name]} has "
                    "already. Only the last would count: remove or rename one"
                )
            lines[name] = line
        return node
