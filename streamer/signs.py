"""Signs of life: what somebody is told who waits for something slow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def while_waiting(
    work: Awaitable[T], tell: Callable[[], Awaitable[None]], seconds: float
) -> T:
    """The result of `work`; `tell` is called each time that `seconds` went by without it.

    The work is given up where `tell` fails, and where the waiting is.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=seconds))[0]:
            await tell()
        return await task
    finally:
        task.cancel()
