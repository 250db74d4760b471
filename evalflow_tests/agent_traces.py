"""Published agent conversations as native traces: tau-bench (one trace per user turn) and MINT (one per agent step).

The times are made up by a rule, since neither has any: session i begins on day i mod 28 from 1 June 2026, its turns a
minute apart. A session's reward becomes a thumb on its last trace. The data itself is never part of the project.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

FIRST = datetime(2026, 6, 1, 8, tzinfo=UTC)
DAYS = 28
CHARS_PER_TOKEN = 4

Row = dict[str, Any]


def tau_rows(sessions: Iterable[Row]) -> Iterator[Row]:
    """Traces and feedback of tau-bench's ``traj`` records; a user turn that nobody answered is none.

    A call failed when its result begins with "Error".
    """
    for number, session in enumerate(sessions):
        name = f"tau-{session['task_id']}-{session['trial']}"
        turns: list[Row] = []
        context = 0
        for message in session["traj"]:
            content = message.get("content") or ""
            if message["role"] == "user":
                turns.append({"input": content, "output": None, "tool_calls": [], "context_tokens": 0})
            elif message["role"] == "assistant" and turns:
                turns[-1]["output"] = content or turns[-1]["output"]
                for call in message.get("tool_calls") or []:
                    turns[-1]["tool_calls"].append({"name": call["function"]["name"], "arguments": {}, "error": None})
            elif message["role"] == "tool" and turns and content.startswith("Error"):
                turns[-1]["tool_calls"][-1]["error"] = content
            context += len(content)
            if turns:
                turns[-1]["context_tokens"] = context // CHARS_PER_TOKEN
        answered = [turn for turn in turns if turn["output"] is not None or turn["tool_calls"]]
        yield from _session(name, number, answered, session["reward"] == 1)


def tau_cases(few_shots: Iterable[Row], prefix: str) -> Iterator[Row]:
    """Golden cases of tau-bench's few-shot conversations: all before the last answered user turn, and that turn."""
    for number, shot in enumerate(few_shots):
        messages: list[Row] = []
        for line in shot["messages_display"].splitlines():
            role, _, text = line.partition(": ")
            if role in ("user", "assistant"):
                messages.append({"role": role, "content": text})
            elif messages and role != "tool":
                messages[-1]["content"] += f"\n{line}"
        while messages and messages[-1]["role"] == "user":
            messages.pop()
        asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
        if asked:
            yield {
                "case_id": f"{prefix}-{number}",
                "input": messages[asked[-1]]["content"],
                "created_at": "2026-05-20T09:00:00Z",
                "metadata": {"conversation": messages[: asked[-1]]},
            }


def mint_rows(records: Iterable[Row]) -> Iterator[Row]:
    """Traces and feedback of MINT's ``state`` records: what the agent read, what it did with it.

    A step failed when the environment did not understand it, raised an error, or called its answer wrong.
    """
    for number, record in enumerate(records):
        name = f"mint-{record['task']['task_name']}-{record['task']['task_id']}-{number}"
        yield from _session(name, number, mint_turns(record["state"]["history"]), bool(record["state"]["success"]))


def mint_turns(history: list[Row]) -> list[Row]:
    turns: list[Row] = []
    context = 0
    for i, message in enumerate(history):
        content = message["content"]
        context += len(content)
        if message["role"] != "assistant":
            continue
        read = history[i - 1]["content"].rpartition("Task:\n")[2].strip() if i else "(nothing)"
        seen = history[i + 1]["content"] if i + 1 < len(history) else ""
        failed = any(sign in seen for sign in ("Your answer is wrong", "I don't understand", "Traceback", "Error:"))
        names = [("python", "<execute>"), ("propose_solution", "<solution>")]
        calls = [{"name": name, "arguments": {}, "error": None} for name, mark in names if mark in content]
        if failed and calls:
            calls[-1]["error"] = "failed"
        turns.append(
            {
                "input": read or "(nothing)",
                "output": content,
                "tool_calls": calls,
                "context_tokens": context // CHARS_PER_TOKEN,
                "error": "not understood" if failed and not calls else None,
            }
        )
    return turns


def mint_cases(records: Iterable[Row], prefix: str) -> Iterator[Row]:
    """Golden cases of sessions: the steps before the last one as the conversation, and what the last one read."""
    for number, record in enumerate(records):
        turns = mint_turns(record["state"]["history"])
        if not turns:
            continue
        yield {
            "case_id": f"{prefix}-{number}",
            "input": turns[-1]["input"],
            "created_at": "2026-05-20T09:00:00Z",
            "metadata": {
                "conversation": [
                    message
                    for turn in turns[:-1]
                    for message in (
                        {"role": "user", "content": turn["input"]},
                        {"role": "assistant", "content": turn["output"], "tool_calls": turn["tool_calls"]},
                    )
                ]
            },
        }


def _session(name: str, number: int, turns: list[Row], is_success: bool) -> Iterator[Row]:
    begin = FIRST + timedelta(days=number % DAYS, minutes=20 * (number // DAYS))
    for i, turn in enumerate(turns):
        at = (begin + timedelta(minutes=i)).isoformat()
        yield {"trace_id": f"{name}-{i}", "session_id": name, "turn_index": i, "timestamp": at, **turn}
    if turns:
        at = (begin + timedelta(minutes=len(turns))).isoformat()
        value = "up" if is_success else "down"
        yield {"trace_id": f"{name}-{len(turns) - 1}", "timestamp": at, "name": "thumbs", "value": value}


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
