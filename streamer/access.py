"""Who may connect, and how they know whom they talk to: tokens and TLS.

A token is a secret that clients send before anything else is done for them, as `Authorization:
Bearer TOKEN` or, where headers cannot be set, as `?token=TOKEN`. Neither is ever logged.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import secrets
import ssl
import stat
from pathlib import Path

from aiohttp import hdrs, web

from streamer.logs import event

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "BABYGPT_STREAM_TOKEN"
"""Environment variable with the token that a client sends where it is given none."""
SERVER_TOKEN_VARIABLE = "BABYGPT_STREAM_SERVER_TOKEN"
"""Environment variable with a token that a server asks for: its parent's, see embedded.py."""
MIN_TOKEN_CHARACTERS = 16
MAX_TOKEN_CHARACTERS = 512
MAX_TOKENS = 10_000
CHALLENGE = {hdrs.WWW_AUTHENTICATE: "Bearer"}


class AccessError(Exception):
    """A token file or certificate that cannot be used; the message is one line without secrets."""


def new_token() -> str:
    """A random token."""
    return secrets.token_urlsafe(32)


class Tokens:
    """The tokens that are let in; all are, where there is neither a file nor a token of our own."""

    def __init__(self, path: Path | None = None, own: str | None = None) -> None:
        """Raises AccessError for a file that cannot be used."""
        self._path = path
        self._own = [_digest(own)] if own else []
        self._digests: list[bytes] = []
        self.reload()

    def reload(self) -> None:
        """Reads the file anew; raises AccessError and keeps what was known."""
        found = read_tokens(self._path) if self._path is not None else []
        if self._path is not None and self._path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            problem = "others can read it"
            event(log, logging.WARNING, "token_file", problem=problem, advice="chmod 600")
        self._digests = self._own + [_digest(token) for token in found]

    def __len__(self) -> int:
        return len(self._digests)

    def admit(self, request: web.BaseRequest) -> bool:
        """Whether a request comes from somebody who may ask."""
        if self._path is None and not self._own:
            return True
        scheme, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer":
            return self.match(bearer.strip())
        return self.match(request.query.get("token", ""))

    def match(self, token: str) -> bool:
        """Whether a token is known, found out in a time that does not tell how near it comes."""
        candidate, is_known = _digest(token), False
        for digest in self._digests:
            is_known |= hmac.compare_digest(digest, candidate)
        return is_known


def read_tokens(path: Path, option: str = "--token-file") -> list[str]:
    """The tokens of a file: one a line, blank lines and lines with # left out.

    A server lets in whoever has any of them; a client sends the first. `option` is what the user
    named the file by. Raises AccessError.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise AccessError(f"{option} {path} cannot be read: {reason}") from error
    found = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not MIN_TOKEN_CHARACTERS <= len(token) <= MAX_TOKEN_CHARACTERS or not is_plain(token):
            raise AccessError(
                f"{option} {path} line {number}: a token has {MIN_TOKEN_CHARACTERS} to "
                f"{MAX_TOKEN_CHARACTERS} printable ASCII characters and no blanks, such as the "
                "output of `openssl rand -hex 24`"
            )
        found.append(token)
    if not 1 <= len(found) <= MAX_TOKENS:
        raise AccessError(f"{option} {path} holds {len(found)} tokens, not 1 to {MAX_TOKENS}")
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def client_token(token: str | None) -> str:
    """What a client sends: `token`, or BABYGPT_STREAM_TOKEN of the environment where it is None.

    Raises AccessError for one that cannot be sent.
    """
    token = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
    if not is_plain(token):
        raise AccessError("a token has no blanks and is ASCII")
    return token


def is_plain(token: str) -> bool:
    """Whether a token has printable ASCII characters only, and no blank."""
    return all("!" <= character <= "~" for character in token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The server's side of TLS; raises AccessError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Lets `context` show a certificate from now on; raises AccessError and leaves it as it was."""
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise AccessError(f"{option} {path} cannot be read: {error.strerror}") from error
    try:
        for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            target.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = "they do not belong together"
        else:
            reason = f"both must be PEM files ({error.reason or 'no PEM block found'})"
        raise AccessError(f"--tls-cert {certificate} --tls-key {key}: {reason}") from error


def _no_password() -> str:
    raise AccessError("--tls-key is encrypted; give a key without password")


def client_context(ca_file: Path | str | None) -> ssl.SSLContext:
    """The client's side of TLS: verifies, against the system's authorities or those of a file.

    Raises AccessError.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:  # an SSLError is one too
        reason = (
            "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
        )
        raise AccessError(f"ca_file {ca_file} cannot be used: {reason}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def without_secrets(url: str) -> str:
    """An address as it may be shown: without user, password, query and fragment."""
    shown = url.partition("?")[0].partition("#")[0]
    scheme, separator, rest = shown.partition("://")
    if not separator:
        return shown
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
