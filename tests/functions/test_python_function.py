"""*Python Function* in Node.js: its questions to the runner, its form, and the tasks that it sends."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Literal, Optional

import pytest

from n8nrunner import File
from n8nrunner.functions.describe import describe_function
from n8nrunner.functions.function import make_function

from .static_package import evaluate

#: The node, n8n's context while it is edited and while it executes, and a runner that records its tasks.
#: `describe` and `call` are what the runner answers; either may throw.
PROGRAM = """
    const { PythonFunction } = load('dist/nodes/PythonFunction/PythonFunction.node.js');
    const node = new PythonFunction();
    const shop = (functions) => ({ version: 1, runner: 'shop', process: 'p', state: 'running', functions });
    const done = ({ calls }) => ({
        items: calls.map(({ item, arguments: given }) => ({ json: given, pairedItem: { item } })),
    });
    const asked = [];
    const sent = [];
    let describe = () => shop(versions[0]);
    let call = done;
    const start = async (type, settings) => {
        const asks = type.startsWith('n8nrunner:');
        (asks ? asked : sent).push(asks ? type : JSON.parse(JSON.stringify({ type, ...settings })));
        try {
            return { ok: true, result: await (asks ? describe(type) : call(settings, sent.length)) };
        } catch (error) {
            return { ok: false, error };
        }
    };
    const reach = (parameters, path) => path.split('.').reduce((value, key) => value?.[key], parameters);
    const named = (value) => ({ __rl: true, mode: 'list', value });
    const editing = (parameters, startRunnerTask = (_data, type) => start(type, {})) => ({
        node: { name: 'Shop' },
        workflow: {},
        additionalData: { startRunnerTask },
        getNode: () => ({ name: 'Shop' }),
        getCurrentNodeParameter: (path) => reach(parameters, path),
    });
    const said = (promise) => promise.catch(({ message, description }) => ({ error: message, description }));
    const list = (method, parameters, startRunnerTask) =>
        said(node.methods.listSearch[method].call(editing(parameters, startRunnerTask)));
    const form = (parameters, startRunnerTask) =>
        said(node.methods.resourceMapping.getArguments.call(editing(parameters, startRunnerTask)));
    // A value that is a function is an expression, which n8n evaluates for each item.
    const execute = (parameters, { count = 1, binary, continueOnFail = false } = {}) =>
        said(node.execute.call({
            getInputData: () => Array.from({ length: count }, () => ({ json: {}, binary })),
            getNode: () => ({
                name: 'Shop',
                parameters: JSON.parse(JSON.stringify(parameters, (_key, value) => {
                    return typeof value === 'function' ? `=${value}` : value;
                })),
            }),
            getNodeParameter: (path, itemIndex, fallback, options) => {
                let value = reach(parameters, path) ?? fallback;
                if (options?.extractValue) value = value?.value;
                return typeof value === 'function' ? value(itemIndex) : value;
            },
            continueOnFail: () => continueOnFail,
            startJob: start,
            helpers: { getBinaryDataBuffer: async () => Buffer.from('abc') },
        }));
    const filledIn = async (name, value, options = {}) => {
        const chosen = { runner: named('shop'), function: named(name), options };
        const { fields } = await form(chosen);
        const schema = fields.map((field) => ({ ...field, removed: !Object.hasOwn(value, field.id) }));
        return { ...chosen, arguments: { mappingMode: 'defineBelow', value, schema } };
    };
"""


def described(function: Any, name: Optional[str] = None, limit: Optional[int] = None) -> Dict[str, Any]:
    answer: Dict[str, Any] = json.loads(
        describe_function("shop", make_function(function, name, False, limit))
    )
    return answer


def quote(pieces: int, express: bool = True, region: Literal["eu", "us"] = "eu") -> None:
    """Return the price of an order. It has no tax."""


def nothing() -> None: ...


def another_quote(parameters: str) -> Dict[str, Any]:
    """The description of a function `quote` with other parameters."""
    space: Dict[str, Any] = {"Literal": Literal}
    exec(f"def quote({parameters}): ...", space)
    return described(space["quote"])


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Run the body of a function in JavaScript, in which `versions` has lists of the runner's functions."""

    def run(program: str, *versions: List[Dict[str, Any]]) -> Any:
        known = json.dumps(versions or [[described(quote), described(nothing)]])
        return evaluate(tmp_path, f"const versions = {known}; {PROGRAM} {program}")

    return run


Run = Callable[..., Any]

# --- questions while the node is edited ------------------------------------------------------------------


def test_runners_are_asked_until_three_answers_in_a_row_are_known(run: Run) -> None:
    found = run("""
        const names = ['b', 'a', 'b', 'c', 'a', 'b', 'a', 'never asked'];
        describe = () => ({ runner: names.shift() });
        return [await list('listRunners', {}), asked];
    """)
    assert [each["value"] for each in found[0]["results"]] == ["a", "b", "c"]
    assert found[1] == ["n8nrunner:describe"] * 7


def test_a_list_without_runners_says_how_to_start_one(run: Run) -> None:
    found = run("return list('listRunners', {}, () => new Promise(() => {}));")
    assert found["error"].startswith("No runner answered. Start the Python program")


def test_functions_are_listed_with_the_first_sentence_of_their_description(run: Run) -> None:
    found = run("return [await list('listFunctions', { runner: named('shop') }), asked];")
    quoted = {"name": "Quote: Return the price of an order.", "value": "quote"}
    assert found == [
        {"results": [quoted, {"name": "Nothing", "value": "nothing"}]},
        ["n8nrunner:describe:shop"],
    ]


def test_functions_are_found_by_name_and_description(run: Run) -> None:
    found = run("""
        const context = editing({ runner: named('shop') });
        const search = (text) => node.methods.listSearch.listFunctions.call(context, text);
        return [await search('PRICE'), await search('noth'), await search('else')];
    """)
    assert [[each["value"] for each in part["results"]] for part in found] == [["quote"], ["nothing"], []]


def test_each_parameter_becomes_a_field_and_optional_ones_are_hidden(run: Run) -> None:
    found = run("return form({ runner: named('shop'), function: named('quote') });")
    fields = [
        (field["id"], field["type"], field["required"], field["removed"], field.get("defaultValue"))
        for field in found["fields"]
    ]
    assert fields == [
        ("pieces", "number", True, False, None),
        ("express", "boolean", False, True, True),
        ("region", "options", False, True, "eu"),
    ]
    assert found["fields"][2]["options"] == [{"name": "EU", "value": "eu"}, {"name": "US", "value": "us"}]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("{}", "Choose a runner first."),
        ("{ function: named('quote') }", "Choose a runner first."),
        ("{ runner: named('shop') }", "Choose a function first."),
        ("{ runner: named('shop'), function: named('gone') }", 'The runner "shop" has no function "gone".'),
        ("{ runner: named('shop'), function: named('nothing') }", "Nothing has no parameters."),
        ("{ runner: named('shop'), function: named('={{ 1 }}') }", "The name of the function is not known"),
    ],
)
def test_a_form_without_fields_says_why(run: Run, parameters: str, text: str) -> None:
    found = run(f"return form({parameters});")
    assert found["fields"] == []
    assert found["emptyFieldsNotice"].startswith(text)


HANGS = "() => new Promise(() => {})"


def test_a_form_without_a_runner_says_how_to_start_it(run: Run) -> None:
    found = run(f"return form({{ runner: named('shop'), function: named('quote') }}, {HANGS});")
    assert found["fields"] == []
    assert found["emptyFieldsNotice"].startswith('No runner "shop" answered. Start the Python program')


def test_a_form_with_fields_keeps_them_without_a_runner(run: Run) -> None:
    found = run(f"return form(await filledIn('quote', {{ pieces: 1 }}), {HANGS});")
    assert "fields" not in found  # n8n would take them for the new ones
    assert found["error"].startswith('No runner "shop" answered')


@pytest.mark.parametrize("question", ["list('listRunners', {}, null)", "list('listFunctions', chosen, null)"])
def test_an_n8n_that_cannot_ask_says_what_to_do_instead(run: Run, question: str) -> None:
    found = run(f"const chosen = {{ runner: named('shop') }}; return {question};")
    assert found["error"].startswith("This n8n cannot ask a runner while a node is edited: give ")


def test_a_form_in_an_n8n_that_cannot_ask_says_what_to_do_instead(run: Run) -> None:
    found = run("return form({ runner: named('shop'), function: named('quote') }, null);")
    assert "its arguments as JSON" in found["emptyFieldsNotice"]


# --- execution -----------------------------------------------------------------------------------------


def test_the_values_of_the_form_are_sent_with_the_signature_of_the_function(run: Run) -> None:
    _, sent = run("return [await execute(await filledIn('quote', { pieces: 3, region: 'us' })), sent];")
    (task,) = sent
    function = described(quote)
    assert task["type"] == "n8nrunner.shop"
    assert (task["function"], task["signature"]) == ("quote", function["signature"])
    assert task["calls"] == [{"item": 0, "arguments": {"pieces": 3, "region": "us"}}]
    assert "timeLimit" not in task


def test_a_function_with_a_limit_has_its_own_task_type(run: Run) -> None:
    program = "await execute(await filledIn('quote', { pieces: 3 })); return sent;"
    (task,) = run(program, [described(quote, limit=1)])
    assert task["type"] == "n8nrunner.shop.quote"


@pytest.mark.parametrize(
    ("limit", "expected"), [(5, 5), ("0.5", 0.5), (0, 0), (-1, -1), ("x", "x"), ("", None), (None, None)]
)
def test_the_time_limit_of_the_author_is_sent_and_the_runner_checks_it(
    run: Run, limit: Any, expected: Any
) -> None:
    given = json.dumps({"timeLimit": limit})
    (task,) = run(f"await execute(await filledIn('quote', {{ pieces: 3 }}, {given})); return sent;")
    assert task.get("timeLimit") == expected


def test_the_runner_is_asked_again_after_ten_seconds(run: Run) -> None:
    found = run("""
        let now = 1e12;
        Date.now = () => now;
        const counts = [];
        const parameters = await filledIn('nothing', {});
        for (const seconds of [0, 1, 8, 2, 9]) {
            now += 1000 * seconds;
            await execute(parameters);
            counts.push(asked.length);
        }
        return counts;
    """)
    assert found == [1, 1, 1, 2, 2]


def test_a_switch_that_n8n_shows_as_off_and_does_not_store_is_off(run: Run) -> None:
    found = run("""
        const parameters = await filledIn('quote', { pieces: 3 });
        parameters.arguments.schema[1].removed = false; // as a refresh adds it
        await execute(parameters);
        return sent[0].calls[0].arguments;
    """)
    assert found == {"pieces": 3, "express": False}


def test_a_file_is_the_name_of_one_of_the_item_s_files(run: Run) -> None:
    def read(document: File, extra: Optional[File] = None) -> None: ...

    program = """
        const binary = { data: { fileName: 'a.txt', mimeType: 'text/plain' } };
        const missing = await execute(await filledIn('read', { document: 'none' }), { binary });
        await execute(await filledIn('read', { document: 'data' }), { binary });
        return [missing, sent[0].calls[0].arguments];
    """
    missing, given = run(program, [described(read)])
    assert missing["error"] == 'The item has no file "none"'
    assert "it has: data" in missing["description"]
    content = base64.b64encode(b"abc").decode()
    file = {"$file": "data", "fileName": "a.txt", "mimeType": "text/plain", "content": content}
    assert given == {"document": file}


def test_fields_of_names_that_javascript_has_are_sent_by_the_parameters_names(run: Run) -> None:
    def build(constructor: str, options: str) -> None: ...

    program = """
        const { fields } = await form({ runner: named('shop'), function: named('build') });
        const value = Object.fromEntries(fields.map(({ id }) => [id, id]));
        await execute(await filledIn('build', value));
        return [fields.map(({ id }) => id), sent[0].calls[0].arguments];
    """
    ids, given = run(program, [described(build)])
    # A JSON string, because n8n removes some of these keys from what it sends.
    assert json.loads(given) == dict(zip(("constructor", "options"), ids))


def test_no_two_fields_of_a_form_have_the_same_id(run: Run) -> None:
    def build(operation: str, operation_: Optional[str] = None, operation__: str = "") -> None: ...

    program = "return form({ runner: named('shop'), function: named('build') });"
    ids = [field["id"] for field in run(program, [described(build)])["fields"]]
    assert len(set(ids)) == 3


def test_expressions_for_the_function_may_choose_another_one_for_each_item(run: Run) -> None:
    found = run("""
        const parameters = {
            runner: named('shop'),
            function: named((itemIndex) => ['nothing', 'quote'][itemIndex % 2]),
            specifyArguments: 'json',
            argumentsJson: (itemIndex) => (itemIndex % 2 ? { pieces: itemIndex } : '{}'),
        };
        const [items] = await execute(parameters, { count: 4 });
        const tasks = sent.map((task) => [task.function, task.calls]);
        return [items.map(({ pairedItem }) => pairedItem.item), tasks];
    """)
    order, tasks = found
    assert order == [0, 1, 2, 3]
    assert tasks == [
        ["nothing", [{"item": 0, "arguments": {}}, {"item": 2, "arguments": {}}]],
        ["quote", [{"item": 1, "arguments": {"pieces": 1}}, {"item": 3, "arguments": {"pieces": 3}}]],
    ]


def test_an_expression_without_a_name_fails_its_item_and_asks_no_runner(run: Run) -> None:
    items, asked = run("""
        const parameters = {
            runner: named((itemIndex) => ['shop', '', undefined][itemIndex]),
            function: named('nothing'),
            specifyArguments: 'json',
        };
        const [items] = await execute(parameters, { count: 3, continueOnFail: true });
        return [items.map(({ json }) => json), asked];
    """)
    empty = {"error": "The name of the runner is empty"}
    assert items == [{}, empty, empty]
    assert asked == ["n8nrunner:describe:shop"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("'[1,'", "The arguments are not JSON"),
        ("[1]", "The arguments are not an object"),
        ("null", "The arguments are not an object"),
        ("''", None),
        ("{ piecs: 1 }", 'The function "quote" has no parameter "piecs"'),
    ],
)
def test_arguments_as_json_are_checked_for_each_item(run: Run, given: str, message: Optional[str]) -> None:
    found = run(f"""
        const parameters = {{
            runner: named('shop'),
            function: named('quote'),
            specifyArguments: 'json',
            argumentsJson: (itemIndex) => (itemIndex ? {given} : '{{"pieces": 1}}'),
        }};
        const [items] = await execute(parameters, {{ count: 2, continueOnFail: true }});
        return [items, sent[0].signature];
    """)
    items, signature = found
    assert signature == described(quote)["signature"]
    assert items[0]["json"] == {"pieces": 1}
    assert items[1]["json"] == ({"error": message} if message else {})


def test_json_with_a_parameter_that_is_newer_than_the_last_answer_asks_again(run: Run) -> None:
    found = run(
        """
        const parameters = {
            runner: named('shop'),
            function: named('quote'),
            specifyArguments: 'json',
            argumentsJson: { pieces: 1 },
        };
        let now = 1e12;
        Date.now = () => now;
        await execute(parameters);
        await execute(parameters);
        now += 2000;
        describe = () => shop(versions[1]);
        await execute({ ...parameters, argumentsJson: { pieces: 1, note: 'x' } });
        return [asked.length, sent.map(({ calls }) => calls[0].arguments)];
        """,
        [described(quote)],
        [another_quote("pieces: int, note: str = ''")],
    )
    assert found == [2, [{"pieces": 1}, {"pieces": 1}, {"pieces": 1, "note": "x"}]]


# --- a function that has changed ---------------------------------------------------------------------------


def test_an_execution_asks_again_if_the_form_is_newer_than_the_last_answer(run: Run) -> None:
    program = """
        const parameters = await filledIn('quote', { pieces: 3, currency: 'EUR' });
        let now = Date.now();
        Date.now = () => (now += 2000);
        describe = () => shop(versions[1]);
        await form(parameters); // as a worker has asked before the change
        describe = () => shop(versions[0]);
        await execute(parameters);
        return [asked.length, sent[0].signature];
    """
    new, old = another_quote("pieces: int, currency: str"), another_quote("number: int")
    assert run(program, [new], [old]) == [3, new["signature"]]


REFUSED = "call = () => ({ error: { code: 'changed', message: 'the call does not fit', function: {} } });"


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ("region: Literal['eu', 'us'] = 'eu'", 'Parameter "pieces" is gone'),
        ("pieces: str", 'Parameter "pieces" was a field of type number and is a field of type string'),
        ("pieces: int, currency: str", 'Parameter "currency" is new, and required'),
        ("pieces: int, express: bool", 'Parameter "express" is required now'),
        (
            "pieces: int, region: Literal['eu', 'apac'] = 'eu'",
            'Parameter "region" was one of eu, us and is one of eu, apac',
        ),
    ],
)
def test_the_error_for_a_changed_function_names_what_differs_from_the_form(
    run: Run, signature: str, said: str
) -> None:
    program = f"""
        const parameters = await filledIn('quote', {{ pieces: 3 }});
        describe = () => shop(versions[1]);
        {REFUSED}
        return [await execute(parameters), sent.map((task) => task.signature)];
    """
    error, signatures = run(program, [described(quote)], [another_quote(signature)])
    assert error["error"] == 'The function "quote" has changed since this node\'s arguments were filled in'
    assert said in error["description"]
    assert "Open the node, and refresh its arguments: " in error["description"]
    assert signatures[-1] == ""  # so that the runner refuses a call that does not fit


SAME = "express: bool = True, region: Literal['eu', 'us'] = 'eu'"


def test_a_new_optional_parameter_changes_no_call(run: Run) -> None:
    program = """
        const parameters = await filledIn('quote', { pieces: 3 });
        describe = () => shop(versions[1]);
        const now = Date.now() + 20000;
        Date.now = () => now;
        await execute(parameters);
        await execute(parameters);
        return [asked.length, sent.map((task) => task.signature)];
    """
    new = another_quote(f"pieces: int, {SAME}, note: str = ''")
    assert run(program, [described(quote)], [new]) == [2, [new["signature"]] * 2]


def test_a_call_that_was_refused_is_sent_again_if_the_form_still_fits(run: Run) -> None:
    program = """
        const parameters = await filledIn('quote', { pieces: 3 });
        describe = () => shop(versions[1]);
        const refused = { error: { code: 'changed', message: 'no' } };
        call = (settings, number) => (number === 1 ? refused : done(settings));
        const output = await execute(parameters);
        return [output[0].length, sent.map((task) => task.signature)];
    """
    old, new = described(quote), another_quote(f"pieces: float, {SAME}")
    assert run(program, [old], [new]) == [1, [old["signature"], new["signature"]]]


def test_a_function_that_is_gone_is_an_error_with_those_that_are_there(run: Run) -> None:
    error, count = run("""
        const parameters = await filledIn('quote', { pieces: 3 });
        describe = () => shop([versions[0][1]]);
        Date.now = () => 2e12;
        return [await execute(parameters), sent.length];
    """)
    assert error["error"] == 'The runner "shop" has no function "quote"'
    assert "It has: nothing." in error["description"]
    assert count == 0


def test_a_function_of_a_newer_replica_is_found_by_asking_again(run: Run) -> None:
    found = run("""
        const parameters = await filledIn('quote', { pieces: 3 });
        let now = 2e12;
        Date.now = () => now++;
        describe = () => shop(asked.length < 4 ? [] : versions[0]);
        await execute(parameters);
        return [asked.length, sent.length];
    """)
    assert found == [4, 1]


def test_a_question_that_is_lost_with_its_runner_is_repeated(run: Run) -> None:
    items, count = run("""
        let lost = 2;
        describe = () => {
            if (lost-- > 0) throw new Error('Node execution failed');
            return shop(versions[0]);
        };
        const parameters = { runner: named('shop'), function: named('nothing'), arguments: { value: null } };
        const [items] = await execute(parameters);
        return [items, asked.length];
    """)
    assert items == [{"json": {}, "pairedItem": {"item": 0}}]
    assert count == 3


def test_an_error_after_a_lost_question_does_not_say_that_the_function_ran(run: Run) -> None:
    error, calls = run("""
        describe = () => { throw new Error('Node execution failed'); };
        const parameters = { runner: named('<b>'), function: named('nothing'), arguments: { value: null } };
        return [await execute(parameters), sent.length];
    """)
    assert error["error"] == 'The runner "<b>" was lost before the call'
    assert "may have done its work" not in error["description"]
    assert calls == 0


@pytest.mark.parametrize("message", ["Task request timed out", "No task runner connected"])
def test_an_error_shows_the_markup_in_the_name_of_a_runner(run: Run, message: str) -> None:
    """An expression may take it from an item."""
    question, call = run(f"""
        const parameters = {{ runner: named('<a>'), function: named('nothing') }};
        const fail = () => {{ throw new Error({message!r}); }};
        describe = fail;
        const question = await execute(parameters);
        describe = () => ({{ ...shop(versions[0]), runner: '<a>' }});
        call = fail;
        return [question, await execute(parameters)];
    """)
    for error in (question, call):
        assert error["error"] == 'No runner "<a>" took the call'
        assert "&lt;a&gt;" in error["description"]
        assert "<a>" not in error["description"]


def test_executions_at_the_same_time_share_a_question(run: Run) -> None:
    found = run("""
        const parameters = { runner: named('shop'), function: named('nothing'), arguments: { value: null } };
        await Promise.all(Array.from({ length: 10 }, () => execute(parameters)));
        return [asked.length, sent.length];
    """)
    assert found == [1, 10]


def test_a_batch_of_one_item_suits_any_number_of_items(run: Run) -> None:
    """JavaScript passes at most some 100,000 arguments to a function."""
    count = run("""
        const chosen = { runner: named('shop'), function: named('nothing'), arguments: { value: null } };
        const parameters = { ...chosen, options: { batchSize: 1 } };
        const [items] = await execute(parameters, { count: 200_000 });
        return items.length;
    """)
    assert count == 200_000


def test_an_answer_of_a_runner_that_stops_is_not_kept(run: Run) -> None:
    found = run("""
        const parameters = { runner: named('shop'), function: named('nothing'), arguments: { value: null } };
        describe = () => ({ ...shop(versions[0]), state: asked.length === 1 ? 'stopping' : 'running' });
        await execute(parameters);
        const counts = [asked.length];
        describe = () => ({ ...shop(versions[0]), state: 'stopping' });
        await execute(parameters);
        return [...counts, asked.length, sent.length];
    """)
    assert found == [2, 2, 2]  # the successor's answer is kept


def test_every_item_may_have_an_argument_that_its_function_has_got_lately(run: Run) -> None:
    items, count = run(
        """
        let now = 1e12;
        Date.now = () => now;
        const texts = ['{"pieces": 1}', '{"pieces": 1, "express": true}'];
        const parameters = {
            runner: named('shop'),
            function: named('quote'),
            specifyArguments: 'json',
            argumentsJson: (itemIndex) => texts[itemIndex],
        };
        await execute(parameters);
        describe = () => shop(versions[1]);
        now += 2000;
        const [items] = await execute(parameters, { count: 2 });
        return [items.map(({ json }) => json), asked.length];
        """,
        [another_quote("pieces: int")],
        [another_quote("pieces: int, express: bool = False")],
    )
    assert items == [{"pieces": 1}, {"pieces": 1, "express": True}]
    assert count == 2


def test_an_execution_without_a_runner_says_so_and_sends_no_further_questions(run: Run) -> None:
    items, count = run("""
        describe = () => { throw new Error('Task request timed out'); };
        const parameters = { runner: named('shop'), function: named('quote'), arguments: { value: null } };
        const [items] = await execute(parameters, { count: 600, continueOnFail: true });
        return [items, asked.length];
    """)
    assert [item["json"]["error"] for item in items] == ['No runner "shop" took the call'] * 600
    assert count == 1
