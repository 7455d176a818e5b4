"""The node *Python Tools*, in Node.js: what a model sees of functions, and what it gets for a call."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .static_package import evaluate

PROPERTIES = {"pieces": {"type": "integer", "minimum": 1}, "tool": {"type": "string"}}

#: A node with these functions, and the tasks that it sends. `answer` gets a task's settings and number.
PROGRAM = """
    load('../node_modules/n8n-workflow').sleep = (milliseconds) => (
        milliseconds > 4000 ? new Promise(() => {}) : Promise.resolve()
    );
    const functions = %(functions)s;
    const parameters = { runner: 'sales', include: 'all', functions: [], options: {}, ...%(parameters)s };
    const abort = new AbortController();
    const sent = [];
    const output = [];
    const answer = %(answer)s;
    const context = {
        runExecutionData: { resultData: { runData: { Tools: %(runs)s } } },
        runIndex: 0,
        getInputData: () => %(items)s,
        getNode: () => ({ name: 'Tools' }),
        getNodeParameter: (name, itemIndex, fallback) => parameters[name] ?? fallback,
        continueOnFail: () => false,
        getExecutionCancelSignal: () => abort.signal,
        addInputData: () => ({ index: 7 }),
        addOutputData: (type, index, data) => output.push(data.message ?? data[0].map(({ json }) => json)),
        async startJob(taskType, settings) {
            if (taskType === 'n8nrunner:describe:sales') {
                return { ok: true, result: { runner: 'sales', functions } };
            }
            sent.push({ taskType, ...settings });
            return answer(settings, sent.length - 1, abort);
        },
    };
    const ok = (...items) => ({ ok: true, result: { items } });
    const { PythonTools } = load('dist/nodes/PythonTools/PythonTools.node.js');
    const node = new PythonTools();
    const supplied = () => node.supplyData.call(context, 0).then(({ response }) => response);
    const invoked = async (name, input) =>
        (await supplied()).tools.find((tool) => tool.name === name).invoke(input);
    const executed = () => node.execute.call(context).catch((error) => ({ error: error.message }));
    return await (async () => { %(program)s })();
"""


def function(name: str = "quote", **more: Any) -> dict[str, Any]:
    """Return a function as a runner describes it."""
    return {
        "name": name,
        "title": name.title(),
        "description": "Return a price",
        "taskType": "n8nrunner.sales",
        "signature": "old",
        "batchSize": 50,
        "parameters": [{"name": "pieces", "kind": "integer"}, {"name": "tool", "kind": "string"}],
        "schema": {
            "type": "object",
            "properties": PROPERTIES,
            "required": ["pieces"],
            "additionalProperties": False,
        },
        **more,
    }


def run(
    folder: Path,
    program: str,
    *functions: dict[str, Any],
    answer: str = "() => ok({ json: { price: 6 } })",
    items: Any = (),
    runs: Any = (),
    **parameters: Any,
) -> Any:
    """Return the value of a program about the node."""
    filled = {
        "functions": json.dumps(functions or [function()]),
        "parameters": json.dumps(parameters),
        "answer": answer,
        "items": json.dumps(items),
        "runs": json.dumps(runs),
        "program": program,
    }
    return evaluate(folder, PROGRAM % filled)


# --- names and schemas -------------------------------------------------------------------------------

NAMES = "return (await supplied()).tools.map(({ name }) => name);"


def test_every_name_is_one_that_model_providers_accept(tmp_path: Path) -> None:
    functions = [function(name) for name in ("größe", "quote", "价格", "数量", "a" * 70, "a" * 80)]
    names = run(tmp_path, NAMES, *functions)
    assert names == ["gro_e", "quote", "unnamed", "unnamed_", "a" * 64, "a" * 63 + "_"]
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in names)


def test_a_changed_name_takes_no_other_function_s_place(tmp_path: Path) -> None:
    assert run(tmp_path, NAMES, function("gro_ße"), function("gro__e")) == ["gro__e_", "gro__e"]


def test_a_name_does_not_depend_on_which_functions_are_offered(tmp_path: Path) -> None:
    functions = [function("价格"), function("数量")]
    assert run(tmp_path, NAMES, *functions, include="chosen", functions=["数量"]) == ["unnamed_"]


def test_a_tool_has_the_function_s_description_and_schema(tmp_path: Path) -> None:
    (tool,) = run(tmp_path, "return (await supplied()).tools;")
    assert (tool["name"], tool["description"]) == ("quote", "Return a price")
    # n8n's agent has the name of the tool in the same object as the arguments.
    properties = {"pieces": PROPERTIES["pieces"], "tool_": PROPERTIES["tool"]}
    assert tool["schema"] == {
        "type": "object",
        "properties": properties,
        "required": ["pieces"],
        "additionalProperties": False,
    }


def test_a_function_without_a_docstring_has_a_description(tmp_path: Path) -> None:
    program = "return (await supplied()).tools[0].description;"
    assert run(tmp_path, program, function(description="")) == "Calls the Python function quote"


def test_the_tools_are_a_toolkit_in_n8n_2_and_a_list_in_n8n_1(tmp_path: Path) -> None:
    program = """
        const response = await supplied();
        const isToolkit = Array.isArray(response.tools) && typeof response.getTools === 'function';
        return [isToolkit, [response].flatMap((each) => each).map(({ name, metadata }) => [name, metadata])];
    """
    metadata = {"isFromToolkit": True, "sourceNodeName": "Tools"}
    assert run(tmp_path, program) == [True, [["quote", metadata]]]


# --- the functions that are offered ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("include", "names", "offered"),
    [
        ("all", [], ["double", "quote"]),
        ("chosen", ["quote"], ["quote"]),
        ("except", ["quote"], ["double"]),
        ("chosen", "quote, double", ["double", "quote"]),
        ("except", "", ["double", "quote"]),
    ],
)
def test_functions_are_chosen_or_excluded(
    tmp_path: Path, include: str, names: Any, offered: list[str]
) -> None:
    functions = [function("double"), function("quote"), function("scan", schema=None)]
    assert run(tmp_path, NAMES, *functions, include=include, functions=names) == offered


LISTED = """
    const saved = { runner: { value: 'sales' }, functions: ['quote', 'gone'] };
    context.getCurrentNodeParameter = (name) => saved[name];
    return node.methods.loadOptions.getFunctions.call(context);
"""


def test_the_list_has_the_functions_that_can_be_tools_and_those_that_are_chosen(tmp_path: Path) -> None:
    functions = [function("double"), function("quote", description="a < b"), function("scan", schema=None)]
    assert run(tmp_path, LISTED, *functions) == [
        {"name": "Double", "value": "double", "description": "Return a price"},
        {"name": "Quote", "value": "quote", "description": "a &lt; b"},
        {"name": "gone", "value": "gone", "description": "The runner has no function of this name"},
    ]


def test_without_a_runner_the_list_has_a_message_and_the_chosen_functions(tmp_path: Path) -> None:
    program = "context.startJob = async () => { throw new Error('No task runner connected'); };" + LISTED
    message, *chosen = run(tmp_path, program)
    assert message["description"].startswith('No runner "sales" answered. Start the Python program')
    assert message["value"] == ""
    assert chosen == [{"name": name, "value": name} for name in ("quote", "gone")]


def test_the_error_names_the_functions_if_none_is_offered(tmp_path: Path) -> None:
    program = "return supplied().catch(({ message }) => message);"
    message = run(tmp_path, program, function(), function("scan", schema=None), include="chosen")
    assert message == 'No function of the runner "sales" is offered as a tool. It can offer: quote.'


def test_without_a_chosen_runner_no_question_is_asked(tmp_path: Path) -> None:
    program = "return supplied().catch(({ message }) => message);"
    message = run(tmp_path, program, runner="")
    assert message == "No runner is chosen. Open the node, and choose one."


def test_a_missing_runner_is_named_in_the_message(tmp_path: Path) -> None:
    program = """
        context.startJob = async () => { throw new Error('No task runner connected'); };
        return supplied().catch(({ message }) => message);
    """
    message = run(tmp_path, program)
    assert message.startswith('No runner "sales" took the call. The node waited 0 seconds. Either the Python')


def test_a_runner_that_does_not_answer_is_named_after_ten_seconds(tmp_path: Path) -> None:
    program = """
        let waited;
        load('../node_modules/n8n-workflow').sleep = async (milliseconds) => { waited = milliseconds; };
        for (const path of Object.keys(require.cache)) if (path.includes('dist')) delete require.cache[path];
        const { PythonTools } = load('dist/nodes/PythonTools/PythonTools.node.js');
        context.startJob = () => new Promise(() => {});
        const { message } = await new PythonTools().supplyData.call(context, 0).catch((error) => error);
        return [waited, message];
    """
    waited, message = run(tmp_path, program)
    assert waited == 10_000
    assert message.startswith('No runner "sales" took the call. ')


# --- calls of agents that call a tool themselves -----------------------------------------------------


def test_a_call_sends_the_arguments_by_the_parameters_names(tmp_path: Path) -> None:
    program = "return [await invoked('quote', { pieces: 3, tool_: 'saw' }), sent[0], output];"
    result, sent, output = run(tmp_path, program)
    assert (sent["taskType"], sent["function"], sent["signature"]) == ("n8nrunner.sales", "quote", "old")
    assert sent["calls"] == [{"item": 0, "arguments": {"pieces": 3, "tool": "saw"}}]
    assert result == '{"price":6}'
    assert output == [[{"price": 6}]]


@pytest.mark.parametrize(
    ("items", "result"),
    [
        ("", "[]"),
        ("{ json: {} }", "{}"),
        ("{ json: { a: 1 } }, { json: { a: 2 } }", '[{"a":1},{"a":2}]'),
        ("{ json: { size: 3 }, binary: { data: { fileName: 'a' } } }", '{"size":3}'),
    ],
)
def test_a_model_gets_the_result_as_json(tmp_path: Path, items: str, result: str) -> None:
    assert run(tmp_path, "return invoked('quote', {});", answer=f"() => ok({items})") == result


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            """{ errors: [{ message: 'pieces: expected an integer, got "x"',
                            description: "Item 0, parameter 'pieces' of quote: it takes an integer." }] }""",
            'pieces: expected an integer, got "x"',
        ),
        (
            "{ errors: [{ message: 'Too many', description: 'At most <100>' }] }",
            "Too many. At most <100>",
        ),
        (
            "{ errors: [{ message: 'KeyError: 4', stack: 'Traceback' }] }",
            "KeyError: 4",
        ),
        (
            "{ error: { code: 'unknown_function', message: 'there is none' } }",
            'The runner "sales" has no function "quote". There is none',
        ),
        (
            "{ error: { code: 'changed', message: 'quote takes no argument tool' } }",
            'The function "quote" has changed since its tool was offered. '
            "Quote takes no argument tool. Call it again, as it is now",
        ),
    ],
)
def test_a_model_gets_an_error_as_text(tmp_path: Path, answer: str, text: str) -> None:
    program = "return [await invoked('quote', { pieces: 3 }), output];"
    answer = f"() => ({{ ok: true, result: {answer} }})"
    assert run(tmp_path, program, answer=answer) == [f"There was an error: {text}", [text]]


def test_a_model_gets_the_failure_of_a_task_as_text(tmp_path: Path) -> None:
    answer = "() => { throw new Error('Node execution failed'); }"
    text = run(tmp_path, "return invoked('quote', {});", answer=answer)
    assert text.startswith('There was an error: The runner "sales" was lost during the call. Its connection')


def test_an_argument_that_the_tool_does_not_have_is_named_with_those_it_has(tmp_path: Path) -> None:
    result, sent = run(tmp_path, "return [await invoked('quote', { color: 'red' }), sent];")
    assert result == 'There was an error: quote has no argument "color". Its arguments: pieces, tool_.'
    assert sent == []


@pytest.mark.parametrize(
    ("properties", "text", "arguments"),
    [
        (["pieces", "tool"], '{"pieces": 3}', {"pieces": 3}),
        (["pieces"], "3", {"pieces": "3"}),
        (["pieces"], "three pieces", {"pieces": "three pieces"}),
        (["pieces", "tool"], "three", {}),
    ],
)
def test_an_agent_without_structured_tools_gives_the_arguments_as_text(
    tmp_path: Path, properties: list[str], text: str, arguments: dict[str, Any]
) -> None:
    schema = {**function()["schema"], "properties": {name: PROPERTIES[name] for name in properties}}
    program = f"await invoked('quote', {json.dumps(text)}); return sent[0].calls[0].arguments;"
    assert run(tmp_path, program, function(schema=schema)) == arguments


def test_a_call_that_the_runner_refuses_is_tried_again_with_the_current_function(tmp_path: Path) -> None:
    answer = """(settings) => {
        functions[0].signature = 'new';
        if (settings.signature === 'new') return ok({ json: { price: 6 } });
        return { ok: true, result: { error: { code: 'changed', message: 'changed' } } };
    }"""
    program = "return [await invoked('quote', { pieces: 3 }), sent.map(({ signature }) => signature)];"
    assert run(tmp_path, program, answer=answer) == ['{"price":6}', ["old", "new"]]


def test_a_runner_that_is_lost_after_it_refused_a_call_is_named(tmp_path: Path) -> None:
    answer = """(settings, number) => {
        context.startJob = async () => { throw new Error('No task runner connected'); };
        return { ok: true, result: { error: { code: 'changed', message: 'changed' } } };
    }"""
    text = run(tmp_path, "return invoked('quote', { pieces: 3 });", answer=answer)
    assert text.startswith('There was an error: No runner "sales" took the call.')


def test_the_time_limit_is_sent_with_a_call(tmp_path: Path) -> None:
    program = "await invoked('quote', {}); return sent[0].timeLimit;"
    assert run(tmp_path, program, options={"timeLimit": 2.5}) == 2.5


def test_a_stopped_execution_sends_no_more_calls(tmp_path: Path) -> None:
    program = """
        const message = ({ message }) => message;
        const first = await invoked('quote', {}).catch(message);
        return [first, await invoked('quote', {}).catch(message), sent.length];
    """
    answer = "(settings, number, abort) => { abort.abort(); return ok({ json: {} }); }"
    stopped = "The execution was stopped"
    assert run(tmp_path, program, answer=answer) == [stopped, stopped, 1]


# --- calls of agents that make an item of each -------------------------------------------------------

#: The agent's own input has fields of the same names as an argument.
ITEM = {"color": "red", "tool_": "drill", "pieces": 3, "tool": "quote", "toolCallId": "call_1"}
ALONE = {"pieces": 3, "tool": "quote"}


def kept(given: dict[str, Any]) -> list[Any]:
    """Return the runs of the node with the place where n8n keeps the model's arguments."""
    return [{"inputOverride": {"ai_tool": [[{"json": given}]]}}]


def test_an_argument_is_the_model_s_and_not_a_field_of_the_agent_s_input(tmp_path: Path) -> None:
    program = "return [await executed(), sent[0].calls];"
    output, calls = run(tmp_path, program, items=[{"json": ITEM}], runs=kept(ALONE))
    assert calls == [{"item": 0, "arguments": {"pieces": 3}}]
    assert output == [[{"json": {"price": 6}}]]


@pytest.mark.parametrize("runs", [[], kept(ITEM)])
def test_where_n8n_does_not_keep_the_arguments_alone_the_tool_s_names_are_taken(
    tmp_path: Path, runs: list[Any]
) -> None:
    calls = run(tmp_path, "await executed(); return sent[0].calls;", items=[{"json": ITEM}], runs=runs)
    assert calls == [{"item": 0, "arguments": {"pieces": 3, "tool": "drill"}}]


FAILING = "() => ({ ok: true, result: { errors: [{ message: 'Too many', description: 'At most 100' }] } })"


def test_an_error_is_the_node_s_error_for_n8n_2(tmp_path: Path) -> None:
    found = run(tmp_path, "return executed();", answer=FAILING, items=[{"json": ITEM}], runs=kept(ALONE))
    assert found == {"error": "Too many. At most 100"}


def test_an_error_is_an_item_for_n8n_1_where_an_error_would_end_the_workflow(tmp_path: Path) -> None:
    found = run(tmp_path, "return executed();", answer=FAILING, items=[{"json": ITEM}], runs=kept(ITEM))
    assert found == [[{"json": {"error": "Too many. At most 100"}, "pairedItem": {"item": 0}}]]


def test_only_an_offered_function_is_called(tmp_path: Path) -> None:
    program = "return [await executed(), sent];"
    functions = [function(), function("double")]
    options = {"include": "except", "functions": ["quote"], "items": [{"json": ITEM}], "runs": kept(ALONE)}
    error, sent = run(tmp_path, program, *functions, **options)
    assert error == {"error": 'There is no tool "quote". The tools: double.'}
    assert sent == []
