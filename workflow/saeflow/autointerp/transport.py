"""Requests over HTTP that end in time: a deadline for the whole answer, and no redirects.

The timeout of urllib is for each read alone, so a server that sends a byte now and then would hold
a request for ever.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from email.message import Message
from functools import partial
from typing import IO, Any


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an error: the key is meant for the configured host alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message,
        newurl: str,
    ) -> None:  # fmt: skip
        return None


class _Reader(io.RawIOBase):
    """What a socket receives until `deadline` (of time.monotonic); then raises TimeoutError."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self.raw, self.sock, self.deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self.sock.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Reads its head and its body until the deadline."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock, deadline))


def _limit(connection: http.client.HTTPConnection) -> None:
    """Let the timeout of a new connection, which makes one request, be that of the answer."""
    assert connection.timeout is not None, "a request has a timeout"
    deadline = time.monotonic() + connection.timeout
    connection.response_class = partial(_Response, deadline=deadline)  # type: ignore[assignment]


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _limit(self)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _limit(self)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)


def opener() -> urllib.request.OpenerDirector:
    """Return an opener whose `timeout`, which a request must have, is that of the whole answer."""
    return urllib.request.build_opener(_NoRedirect, _Http, _Https)
