"""The application: what is answered at which path, and to whom.

A connection carries one request. Who may read what a server on loopback says, where nobody has to
identify himself, is a matter of browsers too: a page of somebody else's must not ask on behalf of
whoever looks at it. So there the name in the address has to be one of this machine's own, however
it is resolved; bodies have to be declared as JSON, which no page may send elsewhere unasked; and
what a browser says comes from another site is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import hdrs, web

from babygpt_exp.serving.answers import Answer, TokenNames, error_event
from babygpt_exp.serving.completions import Asked, Served, read_completion
from babygpt_exp.serving.errors import Refused
from babygpt_exp.serving.metrics import Metrics
from babygpt_exp.serving.page import page
from babygpt_exp.serving.worker import Worker
from streamer.access import Tokens, host_name, is_loopback
from streamer.gate import Handler
from streamer.sockets import Sending

log = logging.getLogger(__name__)

SEND_SECONDS = 30.0
"""Time that a client has to read what it is sent; then it is cut off."""

DRAINED_BODIES = 4
"""Bodies of the largest size that are read and forgotten, so that a refusal is not lost."""

COMPLETIONS = "/v1/completions"
"""Where texts are asked for."""

PUBLIC_PATHS = ("/", "/health")
"""What may be asked without a token: the page holds nothing, and asks for one itself."""

STOPPING = "the server is stopping"
"""What clients are told in the end."""

DISCONNECTED = "499"
"""What is counted as the status of a request whose client has gone."""

EVENT_HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",
}
"""Those of a stream, which no proxy shall hold back."""

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Application:
    """The application over one model."""

    def __init__(
        self, served: Served, worker: Worker, metrics: Metrics, tokens: Tokens, *, is_local: bool
    ) -> None:
        self._served, self._worker, self._metrics = served, worker, metrics
        self._tokens, self._is_local = tokens, is_local
        self._names = TokenNames(served.trained.tokenizer)
        self._answers: set[Answer] = set()
        self._num_texts = 0
        self._created = int(served.trained.checkpoint.stat().st_mtime)
        self.stopping = False
        """Whether no new request is taken."""
        self.idle = asyncio.Event()
        """Set while nothing is being answered."""
        self.idle.set()
        self.web = web.Application(middlewares=[self._guard])
        self.web.router.add_post(COMPLETIONS, self._completions)
        self.web.router.add_get("/v1/models", self._models)
        self.web.router.add_get("/v1/models/{id}", self._model)
        self.web.router.add_get("/health", self._health)
        self.web.router.add_get("/metrics", self._prometheus)
        self.web.router.add_get("/", self._page)

    def end(self) -> None:
        """Tell everybody who still waits that the server stops."""
        for answer in self._answers:
            answer.fail(STOPPING, 503)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Next) -> web.StreamResponse:
        """Lets in whoever may ask; every error is told in OpenAI's form."""
        status = DISCONNECTED
        try:
            try:
                self._admit(request)
                response = await handler(request)
            except Refused as refused:
                await self._forget_body(request)
                response = refused.response()
            except web.HTTPException as error:
                await self._forget_body(request)
                message = f"{error.reason}: {request.method} {request.path[:100]}"
                if error.status == 404:
                    message += f"; completions are at {COMPLETIONS}"  # chat is asked for often
                response = Refused(error.status, message).response()
                response.headers.extend(_allowed(error))
            except ConnectionError:
                raise
            except Exception:
                log.exception("a request has failed")
                response = Refused(500, "a bug; the server's log has the traceback").response()
            status = str(response.status)
        finally:
            if request.path == COMPLETIONS:
                self._metrics.requests[status] += 1
            _handler(request).abort_later(SEND_SECONDS)
        response.force_close()
        return response

    def _admit(self, request: web.Request) -> None:
        """Refused for whoever may not ask."""
        if not self._tokens.admit(request) and request.path not in PUBLIC_PATHS:
            _handler(request).gate.refuse(_handler(request).address, "unauthorized")
            message = "a token is needed: Authorization: Bearer TOKEN"
            raise Refused(401, message, code="invalid_api_key")
        host = host_name(request.headers.get(hdrs.HOST, "localhost"))
        if self._is_local and not len(self._tokens) and not is_loopback(host):
            message = f"{host[:100]} is no name of this machine's own: ask for http://localhost"
            raise Refused(403, message, code="wrong_host")
        site = request.headers.get("Sec-Fetch-Site", "none")
        if request.path not in PUBLIC_PATHS and site not in ("same-origin", "none"):
            raise Refused(403, "pages of other sites may not ask", code="wrong_origin")

    async def _forget_body(self, request: web.Request) -> None:
        """Read what is still being sent: who is cut off while sending does not see the answer."""
        left = DRAINED_BODIES * self._served.limits.body_bytes
        try:
            while left > 0 and (data := await request.content.readany()):
                left -= len(data)
        except (web.HTTPException, ConnectionError, ValueError):
            return  # what is no body anyway

    async def _body(self, request: web.Request) -> bytes:
        """The body, within its limit; the gate sees to its coming in time."""
        if request.content_type != "application/json":
            raise Refused(415, "the body must be JSON: Content-Type: application/json")
        most, body = self._served.limits.body_bytes, bytearray()
        while data := await request.content.readany():
            body += data
            if len(body) > most:
                raise Refused(413, f"the body is longer than {most} bytes")
        return bytes(body)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        self._check_ready()
        body = await self._body(request)
        _handler(request).upgrade()  # the request is there: its time at the gate is over
        asked = await asyncio.to_thread(read_completion, body, self._served)
        self._check_ready()
        limits, num_texts = self._served.limits, len(asked.requests)
        if self._num_texts + num_texts > self._metrics.num_slots + limits.num_waiting:
            raise Refused(429, "too many texts are waiting; try again later", code="queue_full")
        answer = self._begin(asked)
        try:
            if asked.streams:
                return await self._stream(request, answer)
            return web.json_response(await answer.whole())
        finally:
            self._metrics.num_cancelled += len(answer.open_jobs)
            self._worker.cancel(answer.open_jobs.values())
            self._answers.discard(answer)
            self._num_texts -= num_texts
            if not self._answers:
                self.idle.set()

    def _check_ready(self) -> None:
        if self.stopping:
            raise Refused(503, STOPPING)
        if self._worker.broken:
            raise Refused(503, self._worker.broken)

    def _begin(self, asked: Asked) -> Answer:
        """Hand the texts to the worker; without a pause, so that limits are kept."""
        trained = self._served.trained
        answer = Answer(asked, self._served.name, self._names, trained.tokenizer)
        if not self._worker.submit(answer.jobs):
            raise Refused(503, self._worker.broken)
        self._answers.add(answer)
        self._num_texts += len(answer.jobs)
        self._metrics.num_prompt_tokens += asked.prompt_tokens
        self.idle.clear()
        return answer

    async def _stream(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        """Send events as they come; an error before the first is an ordinary answer."""
        response = web.StreamResponse(headers=EVENT_HEADERS)
        handler = _handler(request)
        try:
            async for events in answer.events():
                async with Sending(handler.abort, SEND_SECONDS):
                    if not response.prepared:
                        response.force_close()
                        await response.prepare(request)
                    await response.write(events)
        except Refused as refused:
            if not response.prepared:
                raise
            async with Sending(handler.abort, SEND_SECONDS):
                await response.write(error_event(refused))
        async with Sending(handler.abort, SEND_SECONDS):
            await response.write_eof()
        return response

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._about_model()]})

    async def _model(self, request: web.Request) -> web.Response:
        if request.match_info["id"] != self._served.name:
            message = f"there is one model here: {self._served.name!r}"
            raise Refused(404, message, "model", "model_not_found")
        return web.json_response(self._about_model())

    def _about_model(self) -> dict[str, Any]:
        """The model as OpenAI has it, and what else there is to say of it."""
        trained, limits = self._served.trained, self._served.limits
        sampling = trained.config.sampling
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        return {
            "id": self._served.name,
            "object": "model",
            "created": self._created,
            "owned_by": "babygpt",
            "parameters": sum(p.numel() for p in trained.model.parameters()),
            "context": trained.model.context,
            "checkpoint": trained.checkpoint.name,
            "step": trained.step,
            "byte_level": self._names.are_bytes,
            "template": None if trained.template is None else trained.template.pieces,
            "max_tokens": limits.max_tokens,
            "max_prompt_tokens": limits.max_prompt_tokens,
            "sampling": {name: getattr(sampling, name) for name in names},
        }

    async def _health(self, request: web.Request) -> web.Response:
        worker, metrics = self._worker, self._metrics
        problem = worker.broken or (STOPPING if self.stopping else "")
        found = {
            "status": problem or "ok",
            "model": self._served.name,
            "slots": metrics.num_slots,
            "slots_busy": worker.num_active,
            "queue": worker.num_waiting,
            "uptime_seconds": round(metrics.uptime_seconds, 1),
        }
        return web.json_response(found, status=503 if problem else 200)

    async def _prometheus(self, request: web.Request) -> web.Response:
        text = self._metrics.prometheus(self._worker.num_active, self._worker.num_waiting)
        headers = {hdrs.CONTENT_TYPE: "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=text.encode(), headers=headers)

    async def _page(self, request: web.Request) -> web.Response:
        text, headers = page()
        return web.Response(text=text, content_type="text/html", headers=headers)


def _handler(request: web.Request) -> Handler:
    return cast(Handler, request.protocol)


def _allowed(error: web.HTTPException) -> dict[str, str]:
    """Methods that a path has, for who used another."""
    return {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}
