"""Tools as text: the schemas that a system turn offers, and the calls that an answer makes.

Both read as a Qwen or Hermes template prints them; the corpus keeps text, not schemas, so that a
row looks the same whatever model is trained on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ytrainer_core.data.fields import as_json
from ytrainer_core.data.rows import UNKNOWN_SHAPE, Fields, RowFault

_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def tools_text(tools: object) -> str:
    """The system text that offers tools, one function schema a line; empty where there are none.

    tools: a list of schemas, or that list as JSON.
    """
    if isinstance(tools, str):
        if not tools.strip():
            return ""
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RowFault(UNKNOWN_SHAPE, f"'tools' is not JSON ({error}). Mend it") from error
    if not tools:
        return ""
    if not isinstance(tools, list):
        raise RowFault(UNKNOWN_SHAPE, "'tools' is not a list of function schemas")
    return _TOOLS_HEAD + "".join(f"\n{_schema_line(tool)}" for tool in tools) + _TOOLS_TAIL


def _schema_line(tool: object) -> str:
    whole = isinstance(tool, Mapping) and "type" in tool and "function" in tool
    return as_json(tool if whole else {"type": "function", "function": tool})


def call_text(call: str) -> str:
    """One call (an object as JSON) as an answer holds it."""
    return f"<tool_call>\n{call}\n</tool_call>"


def calls_text(message: Fields, where: str) -> list[str]:
    """The `tool_calls` of a message, as an answer holds them. where: the message, for faults."""
    return [call_text(_called(call, where)) for call in _calls(message, where)]


def _calls(message: Fields, where: str) -> Sequence[object]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise RowFault(UNKNOWN_SHAPE, f"{where} has 'tool_calls' that is not a list")
    return calls


def _called(call: object, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowFault(UNKNOWN_SHAPE, f"{where} has a tool call without a function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise RowFault(
                UNKNOWN_SHAPE,
                f"{where} has a tool call whose arguments are not JSON ({error}). Mend them",
            ) from error
    return as_json({"name": function["name"], "arguments": arguments})
