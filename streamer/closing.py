"""What is closed when its `with` ends, however."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A context of itself."""

    @abstractmethod
    def close(self) -> None:
        """Ends what was started; does nothing the second time."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
