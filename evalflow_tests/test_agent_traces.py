"""The helper that turns published agent conversations into native traces: what is a turn, a failed call, an outcome."""

from typing import Any

from evalflow.core.records import GoldenCase, parse_golden_case
from evalflow_tests.agent_traces import mint_cases, mint_rows, tau_cases, tau_rows


def message(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


CALL = [{"function": {"name": "find_flight", "arguments": "{}"}}]


def test_a_tau_session_is_a_trace_per_answered_user_turn() -> None:
    trajectory = [
        message("system", "policy" * 4),
        message("user", "a flight, please"),
        message("assistant", None, tool_calls=CALL),
        message("tool", "Error: no flight"),
        message("assistant", "there is none"),
        message("user", "thanks ###STOP###"),
    ]
    first, thumb = tau_rows([{"task_id": 3, "trial": 1, "reward": 0.0, "traj": trajectory}])
    assert (first["session_id"], first["turn_index"], first["input"]) == ("tau-3-1", 0, "a flight, please")
    assert first["output"] == "there is none"
    assert first["tool_calls"] == [{"name": "find_flight", "arguments": {}, "error": "Error: no flight"}]
    assert first["context_tokens"] == (24 + 16 + 16 + 13) // 4
    assert (thumb["trace_id"], thumb["name"], thumb["value"]) == (first["trace_id"], "thumbs", "down")


def test_a_few_shot_is_a_case_with_its_conversation() -> None:
    shown = "user: hello\nassistant: who are you?\nuser: Mia,\nof Texas\nassistant: None\ntool: {}\nassistant: done\nuser: thanks"
    (case,) = tau_cases([{"messages_display": shown}], "shot")
    assert case["input"] == "Mia,\nof Texas"
    assert case["metadata"]["conversation"] == [message("user", "hello"), message("assistant", "who are you?")]
    assert isinstance(parse_golden_case(case, 10**6), GoldenCase)


HISTORY = [
    message("user", "instructions\nTask:\none and one?"),
    message("assistant", "<execute> 1 + 1 </execute>"),
    message("user", "Observation:\nTraceback: no"),
    message("assistant", "<solution> 2 </solution>"),
]


def test_a_mint_session_is_a_trace_per_step() -> None:
    record = {"task": {"task_name": "math", "task_id": 5}, "state": {"success": True, "history": HISTORY}}
    first, second, thumb = mint_rows([record])
    assert (first["input"], first["tool_calls"]) == (
        "one and one?",
        [{"name": "python", "arguments": {}, "error": "failed"}],
    )
    assert (second["input"], second["tool_calls"][0]["name"]) == ("Observation:\nTraceback: no", "propose_solution")
    assert (thumb["trace_id"], thumb["value"]) == (second["trace_id"], "up")
    (case,) = mint_cases([record], "gpt")
    assert case["input"] == second["input"]
    assert [said["role"] for said in case["metadata"]["conversation"]] == ["user", "assistant"]
    assert case["metadata"]["conversation"][1]["tool_calls"] == first["tool_calls"]
