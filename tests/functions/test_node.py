"""The node package that is generated from functions. tests/n8n loads it into n8n."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
from pathlib import Path
from typing import Annotated, Any, Dict, List, Literal, NamedTuple, Optional, TypedDict, Union

import pytest

from n8nrunner import File, Task
from n8nrunner.functions.function import make_function
from n8nrunner.functions.node.description import Operation
from n8nrunner.functions.node.package import make_package

from .javascript import loaded, node_file, package

pytest.importorskip("docstring_parser")


class Level(enum.Enum):
    LOW = 1
    VERY_HIGH = 2


@dataclasses.dataclass
class Address:
    city: str


class Owner(NamedTuple):
    name: str
    address: Address
    note: str = ""


class Options(TypedDict, total=False):
    color: str


class From1To10:
    ge = 1
    le = 10


def everything(
    email: str,
    number: int,
    share: float,
    level: Level,
    color: Literal["red", "blue"],
    at: datetime.datetime,
    names: List[str],
    address: Address,
    document: File,
    either: Union[int, str],
    bounded: Annotated[int, From1To10(), "From one to ten."],
    anything: Any,
    task: Task,
    yes: bool = True,
    label: str = "none",
    weights: List[float] = [0.5],  # noqa: B006 - users write it so
    perhaps: Optional[int] = None,
    picture: Optional[File] = None,
) -> None:
    """Do everything. And then some.

    Args:
        email: where to write.
        yes: If true, do it.
        perhaps: left out, as a rule.
    """


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """Return the description that n8n reads from the node."""
    return loaded(package(everything), tmp_path_factory.mktemp("node"))["description"]


def fields(description: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Return all fields by name, additional ones included."""
    found = {}
    for field in description["properties"]:
        for each in field["options"] if field["name"] == "additionalFields" else [field]:
            found[each["name"]] = each
    return found


def test_each_function_is_an_operation(description: Dict[str, Any]) -> None:
    resource, operation = description["properties"][:2]
    assert (resource["name"], resource["type"]) == ("resource", "hidden")
    assert operation["name"] == "operation"
    assert operation["options"] == [
        {
            "name": "Everything",
            "value": "everything",
            "description": "Do everything. And then some.",
            "action": "Do everything. And then some.",
        }
    ]
    assert description["usableAsTool"] is True
    assert (description["displayName"], description["name"]) == ("Shop", "shop")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("email", {"type": "string", "default": "", "required": True, "placeholder": "name@email.com"}),
        ("email", {"description": "Where to write"}),
        ("number", {"type": "number", "typeOptions": {"numberPrecision": 0}, "required": True}),
        ("share", {"type": "number", "default": 0}),
        ("level", {"type": "options", "default": 1}),
        ("level", {"options": [{"name": "Low", "value": 1}, {"name": "Very High", "value": 2}]}),
        ("color", {"options": [{"name": "Red", "value": "red"}, {"name": "Blue", "value": "blue"}]}),
        ("at", {"type": "dateTime", "default": ""}),
        ("names", {"type": "json", "default": "[]"}),
        ("address", {"type": "json", "default": '{\n  "city": null\n}'}),
        ("document", {"type": "string", "default": "data"}),
        ("either", {"type": "string"}),
        ("bounded", {"typeOptions": {"numberPrecision": 0, "minValue": 1, "maxValue": 10}}),
        ("bounded", {"description": "From one to ten"}),
        ("anything", {"type": "string"}),
        ("yes", {"type": "boolean", "default": True, "description": "Whether to do it"}),
        ("label", {"type": "string", "default": "none"}),
        ("weights", {"type": "json", "default": "[0.5]"}),
        ("perhaps", {"type": "number", "displayName": "Perhaps"}),
    ],
)
def test_each_parameter_is_a_field(description: Dict[str, Any], name: str, field: Dict[str, Any]) -> None:
    found = fields(description)[name]
    assert {key: found.get(key) for key in field} == field


def first_default(function: Any) -> Any:
    """Return the default of the first parameter's field."""
    return Operation("shop", make_function(function, None, False, None)).fields()[0]["default"]


def test_the_field_of_an_object_starts_with_its_required_keys() -> None:
    def with_owner(owner: Owner) -> None: ...
    def with_options(options: Options) -> None: ...
    def with_any_keys(labels: Dict[str, str]) -> None: ...

    assert json.loads(first_default(with_owner)) == {"name": None, "address": None}
    assert first_default(with_options) == first_default(with_any_keys) == "{}"


def test_the_field_of_a_model_starts_with_its_required_keys() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Lead(pydantic.BaseModel):  # type: ignore[name-defined, misc]
        email: str
        postal_code: str = pydantic.Field(alias="postalCode")
        budget: float = 0.0

    def score(lead: Any) -> None: ...

    score.__annotations__["lead"] = Lead
    assert json.loads(first_default(score)) == {"email": None, "postalCode": None}


@pytest.mark.parametrize(("default", "field"), [("abc", "abc"), (5, None), (float("inf"), None), ([1], None)])
def test_a_default_of_any_value_is_shown_if_it_is_a_string(
    tmp_path: Path, default: Any, field: Optional[str]
) -> None:

    def function(value: Any = default) -> None: ...

    (first, *_) = loaded(package(function), tmp_path)["description"]["properties"][2:]
    if field is None:
        assert first["name"] == "additionalFields"
    else:
        assert (first["name"], first["default"]) == ("value", field)


@pytest.mark.parametrize("default", [float("inf"), float("nan")])
def test_a_default_that_json_lacks_is_not_shown(tmp_path: Path, default: float) -> None:

    def function(value: float = default) -> None: ...

    (first, *_) = loaded(package(function), tmp_path)["description"]["properties"][2:]
    assert first["name"] == "additionalFields"


def test_a_bound_that_is_a_date_is_not_in_the_field_of_a_number() -> None:
    class From2024:
        ge = datetime.date(2024, 1, 1)

    def function(number: Any) -> None: ...

    function.__annotations__["number"] = Annotated[int, From2024()]
    (field,) = Operation("shop", make_function(function, None, False, None)).fields()
    assert field["typeOptions"] == {"numberPrecision": 0}


def test_a_parameter_for_the_task_has_no_field(description: Dict[str, Any]) -> None:
    assert "task" not in fields(description)


def test_a_parameter_whose_default_cannot_be_shown_is_an_additional_field(
    description: Dict[str, Any],
) -> None:
    (additional,) = [each for each in description["properties"] if each["name"] == "additionalFields"]
    assert [field["name"] for field in additional["options"]] == ["perhaps", "picture"]


def test_fields_are_shown_for_their_operation_only(tmp_path: Path) -> None:

    def one(value: int) -> None: ...

    def two(value: str) -> None: ...

    properties = loaded(package(one, two), tmp_path)["description"]["properties"]
    shown = [
        (f["type"], f["displayOptions"]["show"]["operation"]) for f in properties if f["name"] == "value"
    ]
    assert shown == [("number", ["one"]), ("string", ["two"])]


def test_a_parameter_with_the_name_of_a_field_of_the_node_gets_another_field_name() -> None:
    def function(operation: str, options: int = 1) -> None: ...

    text = node_file(package(function))
    assert "field: 'operation_'" in text
    assert "field: 'options_'" in text


def test_strings_are_escaped_for_javascript(tmp_path: Path) -> None:

    def function(value: str = 'it\'s `${x}` \\ "y" \n\u2028 </script>') -> None:
        """It's `${process.exit(1)}` \\ "quoted" */ //"""

    found = loaded(package(function), tmp_path)["description"]["properties"]
    assert found[1]["options"][0]["description"].startswith('It\'s `${process.exit(1)}` \\ "quoted" */ //')
    assert found[2]["default"] == 'it\'s `${x}` \\ "y" \n\u2028 </script>'


def executed(folder: Path, answers: Any, name: str = "shop", **more: Any) -> Any:
    """Return the output, or the error, of a node with three items whose runner answers with `answers`."""
    settings = {"continueOnFail": False, "options": {}, **more}
    parameters = json.dumps({"operation": "function", "options": settings["options"]})
    result = answers if isinstance(answers, str) else json.dumps(answers)
    context = f"""{{
        getInputData: () => [{{ json: {{}} }}, {{ json: {{}} }}, {{ json: {{}} }}],
        getNode: () => ({{ name: 'Shop' }}),
        getNodeParameter: (name) => ({parameters})[name],
        continueOnFail: () => {json.dumps(settings["continueOnFail"])},
        startJob: async (taskType, sent) => ({{ ok: true, result: {result} }}),
    }}"""

    def function() -> None: ...

    execute = f"new Node().execute.call({context}).catch((error) => error)"
    return loaded(package(function, name=name), folder, execute)


def error_of_node(folder: Path, reported: Dict[str, Any]) -> Any:
    """Return the error of a node whose runner reports this error for the first item."""
    return executed(folder, {"items": [], "errors": [{"item": 0, **reported}]})


@pytest.mark.parametrize("name", ["math", "object", "promise", "array", "date", "node-operation-error"])
def test_a_runner_may_have_a_name_of_javascript(tmp_path: Path, name: str) -> None:
    items = [{"json": {"n": n}, "pairedItem": {"item": n}} for n in range(3)]
    assert executed(tmp_path, {"items": items, "errors": []}, name) == [items]


def test_a_node_says_which_try_is_the_last(tmp_path: Path) -> None:
    answer = (
        "((globalThis.tries ??= []).push(sent.lastTry), sent.lastTry"
        " ? { items: [{ json: { tries: globalThis.tries } }], errors: [] } : { error: { code: 'changed' } })"
    )
    assert executed(tmp_path, answer)[0][0]["json"] == {"tries": [False, False, False, True]}


def test_errors_are_at_the_places_of_their_items(tmp_path: Path) -> None:
    items: List[Any] = [
        {"json": {"n": 2}, "pairedItem": 2},
        {"json": {"n": 0}, "pairedItem": [{"item": 0}]},
        {"json": {"n": "of none"}, "pairedItem": []},
    ]
    answer = {"items": items, "errors": [{"item": 1, "message": "no"}]}
    (found,) = executed(tmp_path, answer, continueOnFail=True)
    assert [item["json"] for item in found] == [{"n": 0}, {"n": "of none"}, {"error": "no"}, {"n": 2}]


def test_three_hundred_thousand_errors_are_put_out(tmp_path: Path) -> None:
    answer = "{ items: [], errors: Array.from({ length: 300000 }, (_, item) => ({ item, message: 'no' })) }"
    (found,) = executed(tmp_path, answer, continueOnFail=True)
    assert len(found) == 300_000


@pytest.mark.parametrize("option", [-1, 0, 0.5, "many", None])
def test_invalid_options_are_ignored(tmp_path: Path, option: Any) -> None:
    options = {"batchSize": option, "parallelTasks": option}
    assert executed(tmp_path, {"items": [{"json": {}}]}, options=options) == [[{"json": {}}]]


def test_a_traceback_is_shown_line_by_line_in_a_monospaced_font(tmp_path: Path) -> None:
    stack = 'Traceback:\n  File "a.py"\n    1 < "b"\n    ~~^~~~~\nTypeError: no\n'
    error = error_of_node(tmp_path, {"message": "TypeError: no", "stack": stack})
    assert error["message"] == "TypeError: no"
    nbsp = "&nbsp;"
    assert error["description"] == (
        f'<code>Traceback:<br/>{2 * nbsp}File "a.py"<br/>{4 * nbsp}1 &lt; "b"<br/>{4 * nbsp}~~^~~~~<br/>'
        "TypeError: no</code>"
    )
    assert error["stack"] == stack.strip()


def test_a_description_is_shown_instead_of_the_traceback(tmp_path: Path) -> None:
    error = error_of_node(tmp_path, {"message": "No", "description": "Ask <them>", "stack": "Traceback:"})
    assert error["description"] == "Ask &lt;them&gt;"


def test_an_error_may_have_a_message_only(tmp_path: Path) -> None:
    error = error_of_node(tmp_path, {"message": "No"})
    assert (error["message"], error["description"], "stack" in error) == ("No", "", False)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("Google", "Sum up.\n\nArgs:\n    value: The value.\n"),
        ("NumPy", "Sum up.\n\nParameters\n----------\nvalue : str\n    The value.\n"),
        ("reST", "Sum up.\n\n:param value: The value.\n"),
    ],
)
def test_docstrings_of_three_styles_are_read(style: str, text: str) -> None:
    def function(value: str) -> None: ...

    function.__doc__ = text
    written = node_file(package(function))
    assert "description: 'Sum up'" in written
    assert "description: 'The value'" in written


@pytest.mark.parametrize(
    ("name", "class_name", "node_name"),
    [
        ("shop", "Shop", "shop"),
        ("my-shop_2", "MyShop2", "myShop2"),
        ("2shops", "Runner2shops", "runner2shops"),
    ],
)
def test_the_names_of_package_class_and_node_come_from_the_runner_s_name(
    name: str, class_name: str, node_name: str
) -> None:
    def function() -> None: ...

    written = package(function, name=name)
    assert written.name == f"n8n-nodes-{name}"
    description = json.loads(written.files["package.json"])
    assert description["name"] == written.name
    (path,) = description["n8n"]["nodes"]
    assert path == f"dist/nodes/{class_name}/{class_name}.node.js"
    assert f"name: '{node_name}'" in written.files[path]
    assert f"module.exports = {{ {class_name}: RunnerNode }};" in written.files[path]
    assert not re.search(r"__[A-Z]+__", written.files[path])
    assert not description.get("dependencies")


def test_a_function_with_a_limit_has_a_task_type_of_its_own() -> None:
    def function() -> None: ...

    limited = make_function(function, "alone", False, 1)
    text = node_file(make_package("shop", [limited, make_function(function, "free", False, None)]))
    assert "taskType: 'n8nrunner.shop.alone'" in text
    assert "taskType: 'n8nrunner.shop'," in text
    assert "parallelTasks: 1," in text
