"""A teacher of random weights in a real configuration: time does not depend on the values.

python benchmarks/random_teacher.py --tokenizer bigcode/starcoder2-3b --out runs/random
"""

from pathlib import Path
from typing import Any

import click
import torch
from transformers import AutoModelForCausalLM, Starcoder2Config

from cache.machine.precision import default_device, resolve_dtype
from cache.teacher.load import load_tokenizer

TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


@click.command()
@click.option("--tokenizer", required=True, help="Hub id or folder.")
@click.option("--tiny", is_flag=True, help="Two layers of width 32, to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(tokenizer: str, tiny: bool, out: Path) -> None:
    """Write StarCoder2-3B's configuration (3.03 billion weights), filled from a normal law."""
    if (out / "config.json").is_file():
        return
    tokens = load_tokenizer(tokenizer)
    config = Starcoder2Config(
        vocab_size=len(tokens), bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id, sliding_window=4096, **(TINY if tiny else {}),
    )  # fmt: skip
    torch.manual_seed(0)
    with default_device():
        model = AutoModelForCausalLM.from_config(config, dtype=resolve_dtype("auto"))
    model.save_pretrained(out)
    tokens.save_pretrained(out)
    print(f"{model.num_parameters():,} weights in {out}")


if __name__ == "__main__":
    main()
