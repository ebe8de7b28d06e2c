"""One run: training, checkpoints, logs, curves and the folder that it leaves."""
