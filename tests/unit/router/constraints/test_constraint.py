"""Grammars hold an answer to what was asked: tried with llguidance's own matcher, over the demo's tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from common.pb import language_pb2
from router.api.chat import ChatRequest, parse_chat_request
from router.constraints.constraint import chat_grammar, content_grammar, is_constrained
from router.problems import Problem
from router.prompt.thinking import Thinking
from router.syntax import CALL, CALL_END, THINK, THINK_END
from tests.integration.router.peers import EOS, MODEL_DIR

TOKENIZER_JSON = (MODEL_DIR / "tokenizer.json").read_text()


class Vocabulary:
    """A tokenizer as the router and as llguidance see it."""

    def __init__(self, description: str) -> None:
        self.tokenizer = Tokenizer.from_str(description)
        self.engine = LLTokenizer(description, n_vocab=1252, eos_token=[EOS])
        added = json.loads(description)["added_tokens"]
        self.marks = {token["content"]: token["id"] for token in added if token["content"].startswith("<")}

    def check(self, grammar: language_pb2.Grammar, text: str) -> bool:
        """Whether `text` is a whole answer."""
        matcher = LLMatcher(self.engine, grammar.source, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())


def without(description: str, *tokens: str) -> str:
    """The tokenizer of a vocabulary that spells these tokens out."""
    content = json.loads(description)
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in tokens]
    return json.dumps(content)


DEMO = Vocabulary(TOKENIZER_JSON)
PLAIN = Vocabulary(without(TOKENIZER_JSON, CALL, CALL_END))

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any = CITY, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


def request(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    parsed = parse_chat_request(body, max_choices=4)
    assert parsed.ignored == ()
    return parsed.request


def call(name: str = "weather", arguments: Any = None) -> str:
    written = json.dumps({"city": "Bonn"} if arguments is None else arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {written}}}\n</tool_call>'


def holds(text: str, *, vocabulary: Vocabulary = DEMO, thinking: Thinking = Thinking.NONE, **fields: Any) -> bool:
    wanted = request(**fields)
    assert is_constrained(wanted)
    return vocabulary.check(chat_grammar(wanted, vocabulary.marks, thinking), text)


@pytest.mark.parametrize("vocabulary", [DEMO, PLAIN])
def test_required(vocabulary: Vocabulary) -> None:
    def good(text: str, **fields: Any) -> bool:
        tools = [tool("weather"), tool("time", None)]
        return holds(text, vocabulary=vocabulary, tools=tools, tool_choice="required", **fields)

    assert good(call())
    assert good(call(arguments={"city": 'é"\n🌋', "days": 3}))
    assert good(call("time", {}))
    assert good(call("time", {"zone": [1, None]}))
    assert good(call() + "\n" + call("time", {}) + call())
    assert not good("")
    assert not good("I look. " + call())
    assert not good(call("snow", {}))
    assert not good(call(arguments={}))
    assert not good(call(arguments={"city": 3}))
    assert not good(call(arguments={"city": "x", "more": 1}))
    assert not good(call()[:-1] if vocabulary is PLAIN else call().removesuffix(CALL_END))
    assert not good(call() + "\n" + call(), parallel_tool_calls=False)
    assert good(call(), parallel_tool_calls=False)


@pytest.mark.parametrize("vocabulary", [DEMO, PLAIN])
def test_named(vocabulary: Vocabulary) -> None:
    def good(text: str) -> bool:
        choice = {"type": "function", "function": {"name": "weather"}}
        tools = [tool("time", {}), tool("weather")]
        return holds(text, vocabulary=vocabulary, tools=tools, tool_choice=choice)

    assert good(call())
    assert not good(call("time", {}))
    assert not good(call() + "\n" + call())
    assert not good("")


@pytest.mark.parametrize("vocabulary", [DEMO, PLAIN])
def test_strict_tools_bind_once_they_are_called(vocabulary: Vocabulary) -> None:
    def good(text: str, **fields: Any) -> bool:
        tools = [tool("weather", strict=True), tool("time", {"required": ["zone"]})]
        return holds(text, vocabulary=vocabulary, tools=tools, **fields)

    assert good("")
    assert good('It is {"fine"} <tool')
    assert good(call())
    assert good("I look.\n" + call() + "\n" + call("time", {"a": 1}) + "\nand more")
    assert not good(call(arguments={"city": 3}))
    assert not good("I look.\n" + call(arguments={}))
    assert not good(call("snow", {}))
    assert good("I look.\n" + call(), parallel_tool_calls=False)
    assert good("I don't.", parallel_tool_calls=False)
    for more in (call(), "\n" + call(), " then"):  # spelled out, a second one can't be told from text
        assert not good(call() + more, parallel_tool_calls=False)


def test_nothing_is_constrained_without_need() -> None:
    assert not is_constrained(request())
    assert not is_constrained(request(tools=[tool("weather")]))
    assert not is_constrained(request(tools=[tool("weather", strict=True)], tool_choice="none"))
    assert not is_constrained(request(response_format={"type": "text"}, structured_outputs=None))


def test_a_tool_that_is_not_strict_is_held_as_well_as_it_can_be() -> None:
    odd = {**CITY, "properties": {"city": {"type": "string", "format": "town"}}}
    worse = {**CITY, "properties": {"city": {"type": "string", "pattern": "(?=x)"}}}
    assert not holds(call(arguments={"city": 3}), tools=[tool("weather", odd)], tool_choice="required")
    assert holds(call(arguments={"city": 3}), tools=[tool("weather", worse)], tool_choice="required")
    for parameters in (odd, worse):
        with pytest.raises(Problem) as caught:
            holds("", tools=[tool("time", {}), tool("weather", parameters, strict=True)])
        assert caught.value.param == "tools[1].function.parameters"


def json_schema(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"response_format": {"type": "json_object"}}, ['{"a": [1]}', "{}"], ["[]", "x", '{"a": 1} x', ""]),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True}}},
            ['{"a": [1]}', "{}"],
            ["[]", "x"],
        ),
        ({"response_format": json_schema(CITY)}, ['{"city": "x"}', '{"city":"x","days":1}'], ['{"days": 1}', "{}"]),
        ({"guided_json": CITY}, ['{"city": "x"}'], ["{}"]),
        ({"guided_json": json.dumps(CITY)}, ['{"city": "x"}'], ["{}"]),
        ({"structured_outputs": {"json": CITY}}, ['{"city": "x"}'], ["{}"]),
        ({"structured_outputs": {"json_object": True}}, ["{}"], ["[]"]),
        ({"guided_json": CITY, "guided_whitespace_pattern": ""}, ['{"city":"x"}'], ['{"city": "x"}']),
        (
            {"structured_outputs": {"json": CITY, "whitespace_pattern": " "}},
            ['{ "city" : "x" }'],
            ['{\n"city": "x"}'],
        ),
        ({"guided_regex": r"\d{2}/[ab]+"}, ["12/ab"], ["1/a", "12/ab!", "x12/a"]),
        ({"structured_outputs": {"regex": "a|bc"}}, ["a", "bc"], ["ac", "abc"]),
        ({"guided_choice": ['"yes"', "no\n", "<think>"]}, ['"yes"', "no\n", "<think>"], ["yes", "no", "maybe"]),
        ({"structured_outputs": {"choice": ["é🌋"]}}, ["é🌋"], ["é"]),
        ({"guided_grammar": 'start: "a" b+\nb: /[0-9]/'}, ["a12"], ["a", "12"]),
        ({"guided_grammar": 'root ::= "a" b+\nb ::= [0-9]'}, ["a12"], ["a", "12"]),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, ["a"], ["b"]),
        (
            {"response_format": json_schema({"oneOf": [{"type": "object"}, {"type": "null"}]}, strict=True)},
            ["{}", "null"],
            ["1"],
        ),
    ],
)
def test_formats(fields: dict[str, Any], good: list[str], bad: list[str]) -> None:
    for text in good:
        assert holds(text, **fields), text
    for text in bad:
        assert not holds(text, **fields), text
    wanted = request(**fields).content_format()
    assert wanted is not None
    plain = content_grammar(wanted, DEMO.marks)
    assert all(DEMO.check(plain, text) for text in good)
    assert not any(DEMO.check(plain, text) for text in bad)


FUNCTION = {
    "triggers": ["<f="],
    "structures": [
        {"begin": "<f=add>", "schema": CITY, "end": "</f>"},
        {"begin": "<f=sub>", "schema": {"type": "integer"}, "end": "</f>"},
    ],
}
TAGS = [
    {"begin": "<a>", "content": {"type": "regex", "pattern": "[0-9]+"}, "end": "</a>"},
    {"begin": "<b>", "content": {"type": "any_text"}, "end": "</b>"},
]


@pytest.mark.parametrize(
    ("tags", "good", "bad"),
    [
        (
            FUNCTION,
            ["", "hello", 'so <f=add>{"city": "x"}</f> and <f=sub>3</f>'],
            ["<f=add>{}</f>", "<f=mul>3</f>", "<f=sub>3", "<f="],
        ),
        ({"format": {"type": "const_string", "value": "a<tool_call>b"}}, ["a<tool_call>b"], ["ab", ""]),
        ({"format": {"type": "any_text"}}, ["", "x\ny"], ["<tool_call>"]),
        ({"format": {"type": "json_schema", "json_schema": CITY}}, ['{"city": "x"}'], ["{}"]),
        ({"format": {"type": "grammar", "grammar": 'start: "q"'}}, ["q"], ["p"]),
        (
            {
                "format": {
                    "type": "sequence",
                    "elements": [{"type": "const_string", "value": "x"}, {"type": "any_text"}],
                }
            },
            ["x", "xyz"],
            ["y"],
        ),
        (
            {"format": {"type": "or", "elements": [{"type": "tag", **tag} for tag in TAGS]}},
            ["<a>1</a>", "<b>q</b>"],
            ["<a>q</a>"],
        ),
        (
            {"format": {"type": "triggered_tags", "triggers": ["<a>", "<b"], "tags": TAGS}},
            ["", "x<a>1</a>y<b>any <c></b>", "<a>1</a><a>2</a>"],
            ["<a>x</a>", "<b>x", "<bc>"],
        ),
        (
            {"format": {"type": "triggered_tags", "triggers": ["<a>", "<b"], "tags": TAGS, "at_least_one": True}},
            ["x<a>1</a>y"],
            ["", "x"],
        ),
        (
            {"format": {"type": "triggered_tags", "triggers": ["<a>", "<b"], "tags": TAGS, "stop_after_first": True}},
            ["", "x", "x<a>1</a>", "x<b>y</b>"],
            ["x<a>x</a>", "<a>1</a><a>1</a>", "<a>1</a>x"],
        ),
        (
            {"format": {"type": "tags_with_separator", "tags": TAGS, "separator": "; "}},
            ["", "<a>1</a>", "<a>1</a>; <b>x</b>"],
            ["<a>1</a><b>x</b>", "x", "<a>1</a>; "],
        ),
        (
            {"format": {"type": "tags_with_separator", "tags": TAGS, "separator": ";", "at_least_one": True}},
            ["<a>1</a>"],
            [""],
        ),
        (
            {
                "format": {
                    "type": "triggered_tags",
                    "triggers": ["<tool_call>"],
                    "tags": [
                        {
                            "begin": "<tool_call>\n",
                            "content": {"type": "any_text"},
                            "end": "\n</tool_call>",
                        }
                    ],
                }
            },
            ["", "a <tool_call>\nfoo\n</tool_call> b"],
            ["<tool_call>foo\n</tool_call>", "<tool_call>\nfoo</tool_call>", "<tool_call>\nfoo"],
        ),
    ],
)
def test_structural_tags(tags: dict[str, Any], good: list[str], bad: list[str]) -> None:
    spelled = [
        {"response_format": {"type": "structural_tag", **tags}},
        {"structured_outputs": {"structural_tag": {"type": "structural_tag", **tags}}},
        {"structured_outputs": {"structural_tag": json.dumps({"type": "structural_tag", **tags})}},
    ]
    for fields in spelled:
        for text in good:
            assert holds(text, **fields), text
        for text in bad:
            assert not holds(text, **fields), text


def test_a_format_leaves_the_calls_open() -> None:
    fields = {"tools": [tool("weather")], "response_format": {"type": "json_object"}}
    assert holds('{"a": 1}', **fields)
    assert holds(call(), **fields)
    assert not holds(call(arguments={}), **fields)
    assert not holds("text", **fields)
    assert not holds(call(), **fields, tool_choice="none")
    assert holds("{}", **fields, tool_choice="none")
    assert not holds("{}", **fields, tool_choice="required")


def test_reasoning_is_free() -> None:
    fields = {"response_format": {"type": "json_object"}}
    wanted = request(**fields)
    begun = chat_grammar(wanted, DEMO.marks, Thinking.BEGUN)
    assert begun.after_token_id == DEMO.marks[THINK_END]
    assert DEMO.check(begun, "\n\n{}")
    assert DEMO.check(begun, "{}")
    assert not DEMO.check(begun, "\n\n\n{}")
    assert not chat_grammar(wanted, DEMO.marks, Thinking.NONE).HasField("after_token_id")
    possible = chat_grammar(wanted, DEMO.marks, Thinking.POSSIBLE)
    assert not possible.HasField("after_token_id")
    assert DEMO.check(possible, f"{THINK}\nshould it be [1]?\n{THINK_END}\n\n{{}}")
    assert DEMO.check(possible, "{}")
    assert not DEMO.check(possible, f"{THINK}{{}}")
    assert not DEMO.check(possible, f"{THINK}x{THINK_END}x")
    calls = chat_grammar(request(tools=[tool("weather")], tool_choice="required"), DEMO.marks, Thinking.POSSIBLE)
    assert DEMO.check(calls, f"{THINK}x{THINK_END}\n\n{call()}")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "["}, "guided_regex"),
        ({"guided_regex": "(?=a)"}, "guided_regex"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"guided_grammar": "start: x"}, "guided_grammar"),
        ({"guided_grammar": "start: @r0"}, "guided_grammar"),
        ({"guided_grammar": 'root ::= "a" ('}, "guided_grammar"),
        ({"guided_grammar": ""}, "guided_grammar"),
        ({"guided_grammar": "(" * 100_000}, "guided_grammar"),
        ({"guided_json": {"type": "foo"}}, "guided_json"),
        ({"guided_json": {"$ref": "#/nowhere"}}, "guided_json"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json"),
        ({"guided_json": {"enum": ["x" * (1 << 19)]}}, "guided_json"),
        ({"guided_json": {"type": "object"}, "guided_whitespace_pattern": "["}, "guided_json"),
        ({"guided_choice": ["x" * 1000 + str(i) for i in range(2000)]}, "guided_choice"),
        (
            {"tools": [tool(f"f{i}", {"properties": {"a": {"enum": ["x" * 100_000]}}}, strict=True) for i in range(6)]},
            "tools[2].function.parameters",
        ),
        ({"response_format": json_schema({"not": {}}, strict=True)}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "regex", "pattern": "["}}},
            "response_format",
        ),
        (
            {
                "response_format": {
                    "type": "structural_tag",
                    "format": {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "any_text"}]},
                }
            },
            "response_format",
        ),
    ],
)
def test_what_can_not_be_enforced_is_named(fields: dict[str, Any], param: str) -> None:
    wanted = request(**fields)
    with pytest.raises(Problem) as caught:
        chat_grammar(wanted, DEMO.marks, Thinking.NONE)
    assert caught.value.status == 400
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")
    assert len(caught.value.message) < 1200


def test_many_tools_are_refused_before_they_cost_much() -> None:
    wanted = request(tools=[tool(f"f{i}") for i in range(9_999)], tool_choice="required")
    with pytest.raises(Problem, match=r"^tools\[\d+\].function.parameters: .* may have"):
        chat_grammar(wanted, DEMO.marks, Thinking.NONE)
