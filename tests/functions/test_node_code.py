"""The runtime of nodes, in Node.js: the tasks that it sends, and its output for each outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional

import pytest

from n8nrunner.functions.node.writing import Package

from .javascript import loaded, package

pytest.importorskip("docstring_parser")

#: Runs the node with `count` items. `startJob` gets a task's settings and the number of earlier tasks.
PROGRAM = """(async () => {
    const abort = new AbortController();
    const sent = [];
    const items = Array.from({ length: %(count)d }, () => ({ json: {} }));
    const parameters = JSON.parse(%(parameters)s);
    const startJob = %(start_job)s;
    class TaskRunnerDisconnectedError extends Error {}
    const ok = (settings) => ({
        ok: true,
        result: { items: settings.calls.map(({ item }) => ({ json: { item }, pairedItem: { item } })) },
    });
    const context = {
        getInputData: () => items,
        getNode: () => ({ name: 'Shop' }),
        getNodeParameter: (name) => parameters[name],
        continueOnFail: () => %(continue_on_fail)s,
        getTimezone: () => 'Europe/Warsaw',
        getExecutionCancelSignal: () => abort.signal,
        startJob: (type, settings) => {
            sent.push(settings);
            return startJob(settings, sent.length - 1, { abort, ok, TaskRunnerDisconnectedError });
        },
    };
    const output = await new Node().execute.call(context).catch((error) => ({ error }));
    return { output, sent, text: JSON.stringify(sent) };
})()"""


def function(value: Any = "") -> None: ...


def executed(
    folder: Path,
    start_job: str,
    *,
    count: int = 3,
    continue_on_fail: bool = False,
    written: Optional[Package] = None,
    **parameters: Any,
) -> Dict[str, Any]:
    """Return the node's output or error, and the settings of the tasks that it sent."""
    given = {
        "operation": "function",
        "options": {"batchSize": 1, "parallelTasks": 1},
        "value": "",
        **parameters,
    }
    filled = {
        "count": count,
        "start_job": f"async (settings, number, {{ abort, ok, TaskRunnerDisconnectedError }}) => {start_job}",
        "continue_on_fail": json.dumps(continue_on_fail),
        "parameters": json.dumps(json.dumps(given)),
    }
    found: Dict[str, Any] = loaded(written or package(function), folder, PROGRAM % filled)
    return found


def errors_of(found: Dict[str, Any]) -> List[str]:
    return [item["json"].get("error", "") for item in found["output"][0]]


# --- a stopped execution -----------------------------------------------------------------------------


@pytest.mark.parametrize("continue_on_fail", [False, True])
def test_no_task_is_sent_after_the_execution_was_stopped(tmp_path: Path, continue_on_fail: bool) -> None:
    job = "{ if (number === 1) abort.abort(); return ok(settings); }"
    found = executed(tmp_path, job, count=600, continue_on_fail=continue_on_fail)
    assert found["output"]["error"]["message"] == "The execution was stopped"
    assert len(found["sent"]) == 2


@pytest.mark.parametrize("continue_on_fail", [False, True])
def test_a_task_that_waits_for_a_runner_when_the_execution_is_stopped_has_no_calls(
    tmp_path: Path, continue_on_fail: bool
) -> None:
    job = "{ setTimeout(() => abort.abort(), 1); return new Promise(() => {}); }"
    options = {"batchSize": 1, "parallelTasks": 3}
    found = executed(tmp_path, job, count=600, continue_on_fail=continue_on_fail, options=options)
    assert found["output"]["error"]["message"] == "The execution was stopped"
    assert [settings["calls"] for settings in found["sent"]] == [[], [], []]


def test_a_task_that_n8n_cancelled_ends_the_node(tmp_path: Path) -> None:
    job = (
        "{ abort.abort(); return { ok: false, error: new Error('Task cancelled: Task cancelled by user') }; }"
    )
    found = executed(tmp_path, job, count=600, continue_on_fail=True)
    assert found["output"]["error"]["message"] == "The execution was stopped"
    assert len(found["sent"]) == 1


# --- the failure of a whole task ---------------------------------------------------------------------

NO_RUNNER = 'No runner "shop" took the call'


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("{ throw new Error('Task request timed out'); }", NO_RUNNER),
        ("{ throw new Error('No task runner connected'); }", NO_RUNNER),
        ("({ ok: false, error: new Error('No task runner connected for this type') })", NO_RUNNER),
        (
            "({ ok: false, error: new TaskRunnerDisconnectedError('Node execution failed') })",
            'The runner "shop" was lost during the call',
        ),
        (
            "({ ok: false, error: new Error('Runner (a) became unreachable while processing task (b)') })",
            'The runner "shop" was lost before the call',
        ),
        (
            "({ ok: false, error: new Error('Task execution aborted because runner became unresponsive') })",
            'The runner "shop" stopped responding during the call',
        ),
        (
            "({ ok: true, result: { error: { code: 'unknown_function', message: 'none' } } })",
            'The runner "shop" has no function "function"',
        ),
        ("({ ok: false, error: { message: 'The runner stops' } })", "The runner stops"),
    ],
)
def test_after_a_whole_task_failed_no_other_is_sent(tmp_path: Path, job: str, message: str) -> None:
    stopped = executed(tmp_path / "stops", job, count=600)
    assert stopped["output"]["error"]["message"] == message
    continued = executed(tmp_path / "continues", job, count=600, continue_on_fail=True)
    assert errors_of(continued) == [message] * 600
    assert len(continued["sent"]) == len(stopped["sent"])  # retries included


def test_items_that_succeeded_before_keep_their_results(tmp_path: Path) -> None:
    job = "{ if (number < 2) return ok(settings); throw new Error('Task request timed out'); }"
    found = executed(tmp_path, job, count=5, continue_on_fail=True)
    assert errors_of(found) == ["", "", NO_RUNNER, NO_RUNNER, NO_RUNNER]
    assert [item["pairedItem"] for item in found["output"][0]] == [{"item": number} for number in range(5)]


@pytest.mark.parametrize(
    ("message", "size", "tasks"),
    [
        ("Task execution timed out after 1 second", 1, 4),
        ("The result is too large: 9 bytes, and 5 are allowed", 1, 4),
        ("The task's input is too large for the runner", 1, 4),
        ("Task execution timed out after 1 second", 2, 1),
    ],
)
def test_the_limits_of_a_task_with_one_item_are_the_item_s(
    tmp_path: Path, message: str, size: int, tasks: int
) -> None:
    job = f"({{ ok: false, error: {{ message: {json.dumps(message)} }} }})"
    options = {"batchSize": size, "parallelTasks": 1}
    found = executed(tmp_path, job, count=4, continue_on_fail=True, options=options)
    assert errors_of(found) == [message] * 4
    assert len(found["sent"]) == tasks


# --- n8n's own errors ----------------------------------------------------------------------------------


def test_the_html_of_n8n_s_errors_is_not_escaped(tmp_path: Path) -> None:
    job = "({ ok: false, error: Object.assign(new Error('New in n8n'), { description: 'One<br/>two' }) })"
    error = executed(tmp_path, job)["output"]["error"]
    assert (error["message"], error["description"]) == ("New in n8n", "One<br/>two")


def test_the_description_of_a_runner_s_error_is_escaped(tmp_path: Path) -> None:
    job = "({ ok: false, error: { message: 'No', description: 'a < b' } })"
    assert executed(tmp_path, job)["output"]["error"]["description"] == "a &lt; b"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Node execution failed", "N8N_RUNNERS_MAX_PAYLOAD"),
        ("Task execution timed out after 1 second", "N8N_RUNNERS_TASK_TIMEOUT where n8n was started"),
        ("No task runner connected", "No program with the runner"),
    ],
)
def test_n8n_s_advice_about_its_code_node_is_replaced(tmp_path: Path, message: str, said: str) -> None:
    error = f"Object.assign(new Error('{message}'), {{ description: 'N8N_RUNNERS_MAX_OLD_SPACE_SIZE' }})"
    found = executed(tmp_path, f"({{ ok: false, error: {error} }})")["output"]["error"]
    assert said in found["description"]
    assert "MAX_OLD_SPACE" not in found["description"]


def test_the_runner_s_own_time_limit_keeps_its_description(tmp_path: Path) -> None:
    job = (
        "({ ok: false, error: { message: 'Task execution timed out after 1 second', description: 'Ours' } })"
    )
    assert executed(tmp_path, job)["output"]["error"]["description"] == "Ours"


# --- saved workflows -----------------------------------------------------------------------------------

SUCCEEDS = "ok(settings)"


@pytest.mark.parametrize("operation", ["gone", "constructor", "__proto__", None, 5])
def test_the_error_of_an_unknown_operation_names_the_known_ones(tmp_path: Path, operation: Any) -> None:
    found = executed(tmp_path / "stops", SUCCEEDS, operation=operation)
    name = "null" if operation is None else operation
    assert found["output"]["error"]["message"] == f'This node has no operation "{name}"'
    assert "Its operations are: function." in found["output"]["error"]["description"]
    continued = executed(tmp_path / "continues", SUCCEEDS, operation=operation, continue_on_fail=True)
    assert errors_of(continued) == [f'This node has no operation "{name}"'] * 3
    assert not continued["sent"]


@pytest.mark.parametrize("value", [None, "text", 5])
def test_collections_with_invalid_values_count_as_empty(tmp_path: Path, value: Any) -> None:
    def optional(value: Optional[str] = None) -> None: ...

    parameters = {"operation": "optional", "options": value, "additionalFields": value}
    found = executed(tmp_path, SUCCEEDS, written=package(optional), **parameters)
    assert [call["arguments"] for call in found["sent"][0]["calls"]] == [{}, {}, {}]


# --- names and strings with a meaning in JavaScript or n8n -----------------------------------------------

NAMES = [
    "constructor", "toString", "valueOf", "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable",
    "toLocaleString", "__proto__", "__defineGetter__", "__lookupSetter__", "prototype",
]  # fmt: skip


def function_with(parameters: str, name: str = "function") -> Any:
    space: Dict[str, Any] = {"Optional": Optional, "Literal": Literal}
    exec(f"def {name}({parameters}): ...", space)
    return space[name]


@pytest.mark.parametrize("default", ["", " = ''", ": Optional[str] = None"])
def test_parameters_may_have_the_names_of_properties_that_every_object_has(
    tmp_path: Path, default: str
) -> None:
    written = package(function_with(", ".join(name + default for name in NAMES)))
    fields = {f"{name}_": name.upper() for name in NAMES}
    given = {"additionalFields": fields} if "Optional" in default else fields
    found = executed(tmp_path, SUCCEEDS, count=1, written=written, **given)
    (call,) = json.loads(found["text"])[0]["calls"]
    # A JSON string, because n8n removes some of these keys from what it sends.
    assert json.loads(call["arguments"]) == {name: name.upper() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_functions_may_have_the_names_of_properties_that_every_object_has(tmp_path: Path, name: str) -> None:
    written = package(function_with("value", name), function_with("value", "other"))
    found = executed(tmp_path, SUCCEEDS, written=written, operation=name, value="x")
    assert found["sent"][0]["function"] == name
    assert found["sent"][0]["calls"][0]["arguments"] == {"value": "x"}


@pytest.mark.parametrize("name", ["to-string", "constructor", "value_of"])
def test_runners_may_have_the_names_of_properties_that_every_object_has(tmp_path: Path, name: str) -> None:
    description = loaded(package(function, name=name), tmp_path)["description"]
    assert (
        description["name"] == f"runner{''.join(part.title() for part in name.replace('_', '-').split('-'))}"
    )


def test_no_two_fields_of_a_function_have_the_same_name(tmp_path: Path) -> None:
    written = package(function_with("operation, operation_, operation__, toolDescription"))
    properties = loaded(written, tmp_path)["description"]["properties"]
    names = [field["name"] for field in properties]
    assert len(set(names)) == len(names)
    assert {"operation_", "operation__", "operation___", "toolDescription_"} < set(names)


@pytest.mark.parametrize("value", [{"constructor": 1}, {"deep": [{"__proto__": None}]}, {"prototype": {}}])
def test_arguments_with_keys_that_n8n_removes_are_sent_as_a_string(tmp_path: Path, value: Any) -> None:
    found = executed(tmp_path, SUCCEEDS, count=1, value=value)
    assert json.loads(found["sent"][0]["calls"][0]["arguments"]) == {"value": value}


@pytest.mark.parametrize("value", ["constructor", {"a": ["constructor"]}, None, 5])
def test_other_arguments_are_sent_as_they_are(tmp_path: Path, value: Any) -> None:
    found = executed(tmp_path, SUCCEEDS, count=1, value=value)
    assert found["sent"][0]["calls"][0]["arguments"] == {"value": value}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("=", "=="),
        ("==", "==="),
        ("=SUM(A1:A3)", "==SUM(A1:A3)"),
        ("a=b", "a=b"),
        ("{{ x }}", "{{ x }}"),
        ('={{ "x" }}', '={{ "=\\u007b\\u007b \\"x\\" \\u007d\\u007d" }}'),
    ],
)
def test_strings_that_look_like_expressions_are_escaped_for_n8n(
    tmp_path: Path, text: str, field: str
) -> None:
    def takes(plain: str = text, anything: Any = text, choice: Literal[text, "<"] = text) -> None: ...  # type: ignore[valid-type]

    takes.__annotations__ = {"plain": str, "anything": Any, "choice": Literal[text, "<"]}
    properties = loaded(package(takes), tmp_path)["description"]["properties"]
    fields = {each["name"]: each for each in properties}
    assert [fields[name]["default"] for name in ("plain", "anything", "choice")] == [field] * 3
    assert [option["value"] for option in fields["choice"]["options"]] == [field, "<"]


def test_integers_that_javascript_would_round_are_sent_as_strings(tmp_path: Path) -> None:
    def takes(choice: Literal[9007199254740993, 3] = 3, number: int = 9007199254740993) -> None: ...

    takes.__annotations__ = {"choice": Literal[9007199254740993, 3], "number": int}
    properties = loaded(package(takes), tmp_path)["description"]["properties"]
    (choice,) = [each for each in properties if each["name"] == "choice"]
    (additional,) = [each for each in properties if each["name"] == "additionalFields"]
    assert [option["value"] for option in choice["options"]] == ["9007199254740993", 3]
    assert [field["name"] for field in additional["options"]] == ["number"]


def test_html_in_a_docstring_is_escaped(tmp_path: Path) -> None:
    def render(page: str) -> None:
        """Render <page> & <b>all</b>.

        Args:
            page: As <html>.
        """

    properties = loaded(package(render), tmp_path)["description"]["properties"]
    (option,) = properties[1]["options"]
    assert option["description"] == "Render &lt;page&gt; &amp; &lt;b&gt;all&lt;/b&gt;"
    assert option["action"] == "Render <page> & <b>all</b>"  # not HTML: an agent reads it
    assert properties[2]["description"] == "As &lt;html&gt;"


# --- time zone and files ------------------------------------------------------------------------


def test_the_workflow_s_zone_is_sent(tmp_path: Path) -> None:
    assert executed(tmp_path, SUCCEEDS)["sent"][0]["timezone"] == "Europe/Warsaw"


def test_a_node_works_in_an_older_n8n_without_time_zone_and_cancel_signal(tmp_path: Path) -> None:
    written = package(function)
    filled = {
        "count": 1,
        "start_job": "async (settings, number, { ok }) => ok(settings)",
        "continue_on_fail": "false",
        "parameters": json.dumps('{"operation": "function"}'),
    }
    program = PROGRAM % filled
    program = program.replace("getTimezone:", "none:").replace("getExecutionCancelSignal:", "nothing:")
    found = loaded(written, tmp_path, program)
    assert found["output"] == [[{"json": {"item": 0}, "pairedItem": {"item": 0}}]]
    assert "timezone" not in found["sent"][0]


def test_a_stored_file_keeps_a_name_with_a_slash(tmp_path: Path) -> None:
    answer = json.dumps(
        {
            "items": [
                {"json": {}, "binary": {"__proto__x": {"content": "eA==", "fileName": "Invoice 5/2024.pdf"}}}
            ]
        }
    ).replace("__proto__x", "__proto__")
    context = f"""{{
        getInputData: () => [{{ json: {{}} }}],
        getNode: () => ({{ name: 'Shop' }}),
        getNodeParameter: (name) => ({{ operation: 'function', value: '' }})[name],
        continueOnFail: () => false,
        startJob: async () => ({{ ok: true, result: JSON.parse({json.dumps(answer)}) }}),
        helpers: {{
            prepareBinaryData: async (bytes, path) => {{
                return {{ fileName: path.split('/').pop(), directory: 'Invoice 5' }};
            }},
        }},
    }}"""
    program = f"new Node().execute.call({context}).then(([[item]]) => Object.entries(item.binary))"
    assert loaded(package(function), tmp_path, program) == [["__proto__", {"fileName": "Invoice 5/2024.pdf"}]]
