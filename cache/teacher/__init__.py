"""The teacher: loaded, and run over documents to hidden states and slices of logits."""
