"""A judge's endpoint on the loopback: a real HTTP server that speaks /v1/chat/completions, with faults to switch on.

It judges by a rule that a test gives it and remembers every request. Keep out: anything that answers without HTTP.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

Fault = Literal[
    "nonsense",
    "empty_choices",
    "cut_off",
    "refusal",
    "wrong_key",
    "unknown_model",
    "rate_limit",
    "server_error",
    "slow",
    "dropped",
    "no_response_format",
    "newer_model",
    "bad_content",
    "not_a_completion",
]
KEY = "sk-loopback-0123456789"
MODEL = "loopback-judge"
INPUT_TOKENS, OUTPUT_TOKENS = 100, 20
BAD_WORD = "wrong"
"""An answer with this word in it fails, any other passes."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def document(self) -> dict[str, str]:
        """What is to be graded, read from the last message."""
        return json.loads(self.body["messages"][-1]["content"])


def by_word(document: dict[str, str]) -> str:
    verdict = "fail" if BAD_WORD in document["answer"] else "pass"
    return json.dumps({"reasoning": f"it {verdict}s by its words", "verdict": verdict})


class JudgeServer:
    """The server; as a context manager it serves from entering to leaving.

    ``faults`` strike one request each, in order; ``always`` strikes every request after them; ``fault_of`` decides by
    what was asked. ``answer`` writes the content of a good answer from what is to be graded, ``say`` from the request.
    """

    def __init__(self, answer: Callable[[dict[str, str]], str] = by_word) -> None:
        self.answer = answer
        self.say: Callable[[Asked], str] = lambda asked: self.answer(asked.document)
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.fault_of: Callable[[Asked], Fault | None] = lambda asked: None
        self.has_usage = True
        self.asked: list[Asked] = []
        self.n_answered = 0
        self.most_at_once = self.at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.judge = self
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> "JudgeServer":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def next_fault(self, asked: Asked) -> Fault | None:
        with self.lock:
            self.asked.append(asked)
            if self.faults:
                return self.faults.pop(0)
        return self.fault_of(asked) or self.always


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for the handlers
    judge: JudgeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    wbufsize = -1  # headers and body in one packet
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        judge = self.server.judge
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        fault = judge.next_fault(asked)
        with judge.lock:
            judge.at_once += 1
            judge.most_at_once = max(judge.most_at_once, judge.at_once)
        try:
            self._answer(judge, asked, fault)
        finally:
            with judge.lock:
                judge.at_once -= 1

    def _answer(self, judge: JudgeServer, asked: Asked, fault: Fault | None) -> None:
        sent_key = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if fault == "slow":
            judge.closing.wait(5)
        elif fault == "dropped":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "5000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif fault == "wrong_key":
            self._send(
                401, {"error": {"message": f"Incorrect API key provided: {sent_key}", "code": "invalid_api_key"}}
            )
        elif fault == "unknown_model":
            self._send(
                404, {"error": {"message": f"The model does not exist; key {sent_key}", "code": "model_not_found"}}
            )
        elif fault == "rate_limit":
            self._send(429, {"error": {"message": f"Slow down, {sent_key}"}}, {"retry-after": "0.02"})
        elif fault == "server_error":
            self._send(500, {"error": {"message": f"Broken for {sent_key}"}})
        elif fault == "bad_content":
            self._send(400, {"error": {"message": f"This content is not accepted from {sent_key}"}})
        elif fault == "no_response_format" and "response_format" in asked.body:
            self._send(400, {"error": {"message": "unknown field: response_format"}})
        elif fault == "newer_model" and "max_tokens" in asked.body:
            self._send(
                400, {"error": {"message": "'max_tokens' is not supported; use 'max_completion_tokens' instead."}}
            )
        elif fault == "newer_model" and "temperature" in asked.body:
            self._send(400, {"error": {"message": "'temperature' does not support 0 with this model."}})
        elif fault == "not_a_completion":
            self._send(200, {"welcome": "to another service"})
        else:
            self._send(200, self._completion(judge, asked, fault))

    def _completion(self, judge: JudgeServer, asked: Asked, fault: Fault | None) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": judge.say(asked)}
        if fault == "nonsense":
            message["content"] = "Well, I would say that it is a pass."
        elif fault == "cut_off":
            message["content"] = '{"reasoning": "it goes on and'
        elif fault == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
        choice = {"index": 0, "message": message, "finish_reason": "length" if fault == "cut_off" else "stop"}
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": 120}
        with judge.lock:
            judge.n_answered += 1
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": asked.body["model"],
            "choices": [] if fault == "empty_choices" else [choice],
            **({"usage": usage} if judge.has_usage else {}),
        }

    def _send(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
