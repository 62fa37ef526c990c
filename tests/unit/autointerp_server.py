"""A server of chat completions over HTTP, in a process of its own, that can misbehave as told.

`python autointerp_server.py CONFIG` serves on a free port of 127.0.0.1 and prints the port. CONFIG
is JSON: `model` (folder of a Hugging Face causal model that answers; without it answers follow a
rule that is right on planted words), `faults` (what the first requests get, in order; with
`forever` all later ones get the last), `seconds` (how long a slow answer takes) and `pause` (how
long every answer takes). GET /log returns what was asked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class State:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.lock = threading.Lock()
        self.faults = list(config.get("faults", []))
        self.log: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.answer = answer_of_model(config["model"]) if "model" in config else answer_by_rule

    def next_fault(self) -> str | None:
        with self.lock:
            if not self.faults:
                return None
            forever = self.config.get("forever") and len(self.faults) == 1
            return self.faults[0] if forever else self.faults.pop(0)


def answer_of_model(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def answer(prompt: str, most: int) -> tuple[str, int, int]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"][:, -64:]
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=min(most, 16), pad_token_id=0,
            )  # fmt: skip
        new = output[0, ids.shape[1] :]
        return tokenizer.decode(new), ids.shape[1], len(new)

    return answer


def answer_by_rule(prompt: str, most: int) -> tuple[str, int, int]:
    """Explain by the most frequent marked word, and predict by its presence."""
    if "EXPLANATION:" in prompt:
        words = Counter(re.findall(r"<<\s*(\w+)\s*>>", prompt))
        text = f"Some words are marked.\nEXPLANATION: the word {words.most_common(1)[0][0]}"
    elif "JSON list" in prompt:
        word = re.search(r"the word (\w+)", prompt)
        numbered = re.findall(r"^\d+: (.*)$", prompt, re.MULTILINE)
        found = [int(word is not None and word.group(1) in line.split()) for line in numbered]
        text = f"```json\n{json.dumps(found)}\n```"
    else:
        text = json.dumps({"score": 37, "justification": "It is one word in many places."})
    return text, len(prompt) // 4, len(text) // 4


class Handler(BaseHTTPRequestHandler):
    state: State

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        state = self.state
        self.send(200, json.dumps({"requests": state.log, "at_once": state.most_at_once}))

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
            state.log.append(
                {
                    "path": self.path,
                    "authorization": self.headers.get("Authorization"),
                    "body": body,
                    "time": time.monotonic(),
                }
            )
        fault = state.next_fault()
        time.sleep(
            state.config.get("pause", 0) + (state.config["seconds"] if fault == "slow" else 0)
        )
        with state.lock:
            state.at_once -= 1  # before the answer, on which the same client may ask again
        with suppress(BrokenPipeError, ConnectionResetError):  # the client gave up waiting
            self.reply(body, fault)

    def reply(self, body: dict[str, Any], fault: str | None) -> None:
        if fault and fault.isdecimal():
            headers = {"Location": "/elsewhere"} if fault == "302" else {}
            key = self.headers.get("Authorization", "")
            return self.send(int(fault), json.dumps({"error": f"no: {key}"}), headers)
        if fault == "nonsense":
            text, asked, answered = "As a model of language I like turtles.", 5, 5
        else:
            text, asked, answered = self.state.answer(
                body["messages"][-1]["content"], body["max_tokens"]
            )
        if fault == "half a character":
            text += "\ud800"
        usage: Any = {"prompt_tokens": asked, "completion_tokens": answered}
        if fault == "odd usage":
            usage = [asked, answered]
        elif fault == "odd counts":
            usage = {"prompt_tokens": 10**30, "completion_tokens": -1}
        content = json.dumps(
            {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}
        )
        if fault == "key":
            content = json.dumps({"error": f"no: {self.headers['Authorization']}"})
        if fault == "deep":
            content = '{"choices": ' + "[" * 100_000 + "]" * 100_000 + "}"
        if fault == "large":
            content = " " * 2**24 + content
        if fault in ("slow head", "slow body"):
            return self.trickle(content, head=fault == "slow head")
        self.send(200, content[: len(content) // 2] if fault == "truncated" else content)

    def trickle(self, content: str, *, head: bool) -> None:
        """Send a little every now and then, `seconds` in all."""
        if not head:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
        else:
            self.wfile.write(b"HTTP/1.1 200 ")
        pause = 0.05
        for _ in range(round(self.state.config["seconds"] / pause)):
            time.sleep(pause)
            self.wfile.write(b" ")
        if not head:
            self.wfile.write(content.encode())

    def send(self, status: int, content: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())


class Served:
    """A running server, from the outside."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"

    def log(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/log", timeout=10) as response:
            return json.load(response)

    def requests(self) -> list[dict[str, Any]]:
        return self.log()["requests"]


@contextmanager
def serving(**config: Any) -> Iterator[Served]:
    """Run the server in a process until the block ends."""
    command = [sys.executable, __file__, json.dumps(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Served(int(process.stdout.readline()))
        finally:
            process.terminate()


if __name__ == "__main__":
    Handler.state = State(json.loads(sys.argv[1]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
