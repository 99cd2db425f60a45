"""What a client is told that asks for what it can not have, in OpenAI's form."""

from __future__ import annotations

from typing import Any

from aiohttp import hdrs, web

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
"""Kinds of errors by status; all others are `invalid_request_error`."""

RETRY_SECONDS = 2
"""When to come again to a server that is full, stops or has failed."""


class Refused(Exception):
    """A request that is refused.

    status: HTTP status.
    param: the field to blame, or None.
    code: a word for programs, or None.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def payload(self) -> dict[str, Any]:
        """The JSON object of it."""
        error = {
            "message": str(self).encode("utf-8", "replace").decode(),
            "type": TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> web.Response:
        """The answer."""
        headers = {}
        if self.status == 401:
            headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
        if self.status in (429, 503):
            headers[hdrs.RETRY_AFTER] = str(RETRY_SECONDS)
        return web.json_response(self.payload(), status=self.status, headers=headers)
