"""Sweeps that learn: what to search, what to try next, and what was tried."""
