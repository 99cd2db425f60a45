"""Trained models as folders that Hugging Face's transformers loads."""
