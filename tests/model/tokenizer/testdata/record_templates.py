"""Renders the cases of template_cases.json and the files of templates/ with Jinja2 as transformers sets it up, for jinja_test.cc.

    pip install transformers jinja2 && python record_templates.py

template_cases.json is read and written: "text" of each case is recorded anew, "raises" what raise_exception was given, "fails" any
other error. conversations.json is made from templates/*.jinja.
"""
import json
from pathlib import Path

import jinja2.exceptions
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = Path(__file__).parent
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather <now> & \"then\"",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "où"}, "n": {"type": "integer", "enum": [1, 2]},
        "o": {"type": "object", "properties": {"x": {"type": ["array", "null"], "items": {"type": "string"}}}, "required": ["x"]}}, "required": ["city"]},
    "return": {"type": "number"}}}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "n": 2, "b": [True, None, 1.5]}}}
CONVERSATIONS = [
    [],
    [{"role": "user", "content": "Hi there"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "What is 2+2?\n"},
     {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}, {"role": "user", "content": "thanks\n/nothink"}],
    [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
     {"role": "tool", "tool_call_id": "abcdefghi", "content": "{\"t\": 7}"}, {"role": "assistant", "content": "7 degrees"}, {"role": "user", "content": "ok"}],
    [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "both", "tool_calls": [CALL, CALL]},
     {"role": "tool", "tool_call_id": "abcdefghi", "content": "1"}, {"role": "tool", "tool_call_id": "abcdefghi", "content": "2"}],
    [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}]}, {"role": "assistant", "content": "nice"}],
    [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
]
OPTIONS = [{}, {"add_generation_prompt": True}, {"tools": TOOLS, "add_generation_prompt": True}, {"enable_thinking": False, "add_generation_prompt": True}]


def render(source, messages, variables):
    try:
        values = {"tools": None, "documents": None, "add_generation_prompt": False, **variables}
        return {"text": _compile_jinja_template(source).render(messages=messages, **values)}
    except jinja2.exceptions.TemplateError as error:
        return {"raises": str(error)} if type(error) is jinja2.exceptions.TemplateError else {"fails": True}
    except Exception:
        return {"fails": True}


def dump(path, head, key, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("{" + "".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)},\n" for k, v in head.items()) + f'"{key}": [\n{lines}\n]}}\n', encoding="utf-8")


def main():
    document = json.loads((HERE / "template_cases.json").read_text(encoding="utf-8"))
    cases = [{"template": c["template"], **render(c["template"], document["messages"], document["variables"])} for c in document["cases"]]
    dump(HERE / "template_cases.json", {"variables": document["variables"], "messages": document["messages"]}, "cases", cases)

    rows = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        for conversation, messages in enumerate(CONVERSATIONS):
            for option, options in enumerate(OPTIONS):
                variables = {"bos_token": "<s>", "eos_token": "</s>", **options}
                rows.append({"template": path.name, "conversation": conversation, "option": option, **render(path.read_text(encoding="utf-8"), messages, variables)})
    dump(HERE / "conversations.json", {"conversations": CONVERSATIONS, "options": OPTIONS}, "rendered", rows)


main()
