"""A language model over HTTP, in the chat-completions format of OpenAI that most servers speak."""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from saeflow.autointerp.answers import Answer
from saeflow.autointerp.judges import JudgeError, JudgeRefused, Status, Stopped
from saeflow.autointerp.language import LanguageJudge
from saeflow.autointerp.settings import Autointerp, Endpoint
from saeflow.autointerp.transport import opener

_LONGEST_PAUSE = 60.0
"""Seconds; also where a server asks for a longer one."""
_REFUSED = (401, 403, 404)
"""Wrong key, no permission, wrong address or model: no later request would fare better."""
_PASSING = (408, 429)
"""Besides 5xx, what another try may cure."""
_SHOWN = 200
_LONGEST_BODY = 2**24
"""Bytes of an answer, far beyond the longest one of any model."""
_MOST_TOKENS = 2**31
"""A count from here on is none."""
_KEY = re.compile(r"[!-~]+")
"""What a header can carry."""


def make(settings: Autointerp, folder: Path, root: Path, device: str) -> LanguageJudge:
    """Return the judge that asks the endpoint of the settings and keeps its answers in `folder`."""
    assert isinstance(settings.judge, Endpoint)
    return LanguageJudge(EndpointModel(settings.judge), folder, settings.examples_per_prompt)


class _Failed(Exception):
    """One try without an answer; `pause` is what the server asked for, in seconds."""

    def __init__(self, status: Status, message: str, *, passing: bool, pause: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.passing, self.pause = status, passing, pause


class EndpointModel:
    """The model of an endpoint. Raises JudgeRefused where the key's variable holds no key."""

    def __init__(self, settings: Endpoint) -> None:
        self.settings = settings
        self.name = f"endpoint:{settings.model}"
        self.place = f"behind an endpoint, temperature {settings.temperature:g}"
        self.url = settings.url.rstrip("/") + "/chat/completions"
        decides = settings.model_dump(include={"url", "model", "temperature", "max_tokens"})
        self.identity = json.dumps(decides, sort_keys=True)
        self.retries, self.concurrency = settings.retries, settings.concurrency
        self.longest, self.price = settings.max_tokens, settings.price_per_million
        self.key = _key(settings)
        self.opener = opener()
        self.stopping = threading.Event()

    def complete(self, prompt: str) -> Answer:
        """Return the endpoint's answer, after further tries where they may help.

        Raises JudgeError once they are used up, JudgeRefused for a wrong key, address or model, and
        Stopped where it was told to stop before another try.
        """
        pause = self.settings.backoff_seconds
        for left in range(self.retries, -1, -1):
            try:
                return self._once(prompt)
            except _Failed as failed:
                if not failed.passing or not left:
                    raise JudgeError(failed.status, str(failed)) from failed
                if self.stopping.wait(min(max(pause, failed.pause), _LONGEST_PAUSE)):
                    raise Stopped(str(failed)) from failed
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
                content = response.read(_LONGEST_BODY + 1)
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
            return self._masked(error.read(4 * _SHOWN))
        except (OSError, http.client.HTTPException):
            return "(its message broke off)"

    def _masked(self, content: bytes) -> str:
        """Return the beginning of what a server sent, without the key that it may repeat."""
        text = content[: 4 * _SHOWN].decode(errors="replace")
        return (text.replace(self.key, "***") if self.key else text)[:_SHOWN]

    def _read(self, content: bytes) -> Answer:
        """Return the answer that a body holds; raises _Failed for one that is nothing of the kind.

        A server may send anything: no JSON or too deep a one, half a character, other types.
        """
        if len(content) > _LONGEST_BODY:
            message = f"{self.url} answered with more than {_LONGEST_BODY:,} bytes"
            raise _Failed("nonsense", message, passing=True)
        try:
            found: Any = json.loads(content)
            text = found["choices"][0]["message"]["content"]
            # A model that says nothing has answered; what that is worth is for the reader to say.
            text = text if isinstance(text, str) else ""
            text.encode()
            usage = dict(found.get("usage") or {})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            message = f"{self.url} answered with no chat completion: {self._masked(content)!r}"
            raise _Failed("nonsense", message, passing=True) from error
        return Answer(text, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))


def _key(settings: Endpoint) -> str | None:
    """Return the key; a message about it never shows it, as that of an unfit header would."""
    name = settings.api_key_env
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise JudgeRefused(
            f"judge.api_key_env: the environment has no {name}; set it to the key of "
            f"{settings.url}, or api_key_env to null where none is needed"
        )
    if not _KEY.fullmatch(key):
        raise JudgeRefused(
            f"judge.api_key_env: {name} holds spaces, line ends or letters that no key has; set it "
            f"to the bare key of {settings.url}"
        )
    return key


def _count(usage: dict[str, Any], name: str) -> int | None:
    """Return a number of tokens, or null where the server tells none."""
    count = usage.get(name)
    return count if type(count) is int and 0 <= count < _MOST_TOKENS else None
