"""The data server of the platform and the protocol it speaks; knows nothing of models."""

__version__ = "2.0.0"
