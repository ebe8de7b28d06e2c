"""The Python of the documents runs as it stands, on a small cache."""

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def blocks_in(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", ROOT / "docs" / "python.md")
    for number, block in enumerate(blocks_in(path))
]


@pytest.fixture
def folder(tmp_path, tiny_cache, tiny_teacher, monkeypatch):
    """A working directory with a cache, and a student of its vocabulary."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cache").symlink_to(tiny_cache)
    config = GPT2Config(vocab_size=384, n_embd=32, n_layer=1, n_head=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "my-student")
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(tmp_path / "my-student")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_of_a_document_runs(block, folder, capsys):
    exec(compile(block, "document", "exec"), {"__name__": "__main__"})
    assert "nan" not in capsys.readouterr().out


def test_the_documents_have_python_in_them():
    assert len(BLOCKS) >= 4
