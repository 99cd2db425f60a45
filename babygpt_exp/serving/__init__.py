"""A trained model over HTTP: OpenAI's completions, and a page to try it."""
