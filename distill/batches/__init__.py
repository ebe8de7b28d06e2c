"""From cached documents to batches: the order of an epoch, packing, collating, reading ahead."""
