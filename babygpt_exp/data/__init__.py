"""From a streamer to batches: where the text comes from, and the Lightning DataModule."""
