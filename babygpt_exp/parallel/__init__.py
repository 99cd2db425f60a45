"""A run of several processes: who they are, how they start, how a model is spread over them."""
