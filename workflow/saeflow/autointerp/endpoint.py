"""A language model over HTTP, in the chat-completions format of OpenAI that most servers speak."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO, Any

from saeflow.autointerp.answers import Answer
from saeflow.autointerp.judges import JudgeError, JudgeRefused, Status
from saeflow.autointerp.settings import Endpoint

_LONGEST_PAUSE = 60.0
"""Seconds; also where a server asks for a longer one."""
_REFUSED = (401, 403, 404)
"""Wrong key, no permission, wrong address or model: no later request would fare better."""
_PASSING = (408, 429)
"""Besides 5xx, what another try may cure."""
_SHOWN = 200


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an error: the key is meant for the configured host alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message,
        newurl: str,
    ) -> None:  # fmt: skip
        return None


class _Failed(Exception):
    """One try without an answer; `pause` is what the server asked for, in seconds."""

    def __init__(self, status: Status, message: str, *, passing: bool, pause: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.passing, self.pause = status, passing, pause


class EndpointModel:
    """The model of an endpoint. Raises JudgeRefused where the key's variable is not set."""

    def __init__(self, settings: Endpoint) -> None:
        self.settings = settings
        self.name = f"endpoint:{settings.model}"
        self.url = settings.url.rstrip("/") + "/chat/completions"
        decides = settings.model_dump(include={"url", "model", "temperature", "max_tokens"})
        self.identity = json.dumps(decides, sort_keys=True)
        self.retries, self.concurrency = settings.retries, settings.concurrency
        self.longest, self.price = settings.max_tokens, settings.price_per_million
        self.key = os.environ.get(settings.api_key_env) if settings.api_key_env else None
        if settings.api_key_env and not self.key:
            raise JudgeRefused(
                f"judge.api_key_env: the environment has no {settings.api_key_env}; set it to the "
                f"key of {settings.url}, or to null where none is needed"
            )
        self.opener = urllib.request.build_opener(_NoRedirect)

    def complete(self, prompt: str) -> Answer:
        """Return the endpoint's answer, after further tries where they may help.

        Raises JudgeError once they are used up, and JudgeRefused for a wrong key, address or model.
        """
        pause = self.settings.backoff_seconds
        for left in range(self.retries, -1, -1):
            try:
                return self._once(prompt)
            except _Failed as failed:
                if not failed.passing or not left:
                    raise JudgeError(failed.status, str(failed)) from failed
                time.sleep(min(max(pause, failed.pause), _LONGEST_PAUSE))
            pause *= 2
        raise AssertionError("the last try returns or raises")

    def _once(self, prompt: str) -> Answer:
        """Return the answer of one try; raises _Failed."""
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with self.opener.open(request, timeout=self.settings.timeout_seconds) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            raise self._rejected(error) from error
        except TimeoutError as error:
            raise self._timeout() from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._timeout() from error
            message = f"{self.url} cannot be reached: {error.reason}"
            raise _Failed("error", message, passing=True) from error
        except (OSError, http.client.HTTPException) as error:
            message = f"{self.url} broke off its answer: {error}"
            raise _Failed("error", message, passing=True) from error
        return self._read(content)

    def _timeout(self) -> _Failed:
        seconds = self.settings.timeout_seconds
        return _Failed("timeout", f"{self.url} gave no answer in {seconds:g} s", passing=True)

    def _rejected(self, error: urllib.error.HTTPError) -> _Failed:
        """Return what a status other than 200 means; raises JudgeRefused for a hopeless one."""
        message = f"{self.url} answered with status {error.code}: {self._shown(error)}"
        if error.code in _REFUSED:
            raise JudgeRefused(f"{message}; check url, model and api_key_env of the judge")
        asked = error.headers.get("Retry-After", "")
        pause = float(asked) if asked.isdecimal() else 0.0
        passing = error.code in _PASSING or error.code >= 500
        return _Failed("error", message, passing=passing, pause=pause)

    def _shown(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read(4 * _SHOWN).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            return "(its message broke off)"
        return (text.replace(self.key, "***") if self.key else text)[:_SHOWN]

    def _read(self, content: bytes) -> Answer:
        try:
            found: Any = json.loads(content)
            text = found["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            message = f"{self.url} answered with no chat completion: {content[:_SHOWN]!r}"
            raise _Failed("error", message, passing=True) from error
        usage = found.get("usage") or {}
        counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        in_, out = (count if type(count) is int else None for count in counts)
        # A model that says nothing has answered; what that is worth is for the reader to say.
        return Answer(text if isinstance(text, str) else "", in_, out)
