"""What options of several packages choose from. Imports nothing."""

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
"""`auto` is what a device does well: `cache.machine.precision`."""
WANDB_MODES = ("online", "offline", "disabled")
"""Of Weights & Biases."""
