"""Sweeps: their folder, and their jobs as processes."""
