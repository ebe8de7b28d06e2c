"""A .gguf file as a folder that transformers opens in seconds, dequantised once and for all.

python examples/convert_gguf.py MODEL.gguf FOLDER
"""

import sys
from pathlib import Path

from cache.machine.durable import new_directory
from cache.teacher.load import load_causal_lm, load_tokenizer


def main(gguf: str, folder: Path) -> None:
    """Convert, unless the folder is there: it is written whole or not at all."""
    if folder.is_dir():
        return
    model, tokenizer = load_causal_lm(gguf), load_tokenizer(gguf)
    with new_directory(folder, OSError) as tmp:
        model.save_pretrained(tmp)
        tokenizer.save_pretrained(tmp)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
