"""The mathematics of soft targets: formats, tail mass, codes, bases, tails, rows, fidelity."""
