"""The loss: its terms, the divergences, and output head and loss in one."""
