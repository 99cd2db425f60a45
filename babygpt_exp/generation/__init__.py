"""Writing text with a trained model: many texts at once, each as if it were alone.

`Engine` (engine.py) has a fixed number of slots. A `Request` (request.py) gets a slot, every step
adds a token to each text, and a slot is free again when its text has ended or is cancelled. Which
token comes is decided by `Sampler` (sampler.py) from the filters of filters.py, and text.py makes
text of tokens as they come. `generate` (texts.py) writes a list of requests to the end.
"""
