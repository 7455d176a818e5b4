"""Functions of every kind as a node of n8n; `n8n.py` has the node written, `runners.py` starts this.

It speaks as `runner_script.py` does. `VARIANT` in its environment makes it a replica of another age.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import os
import threading
import time
from typing import (
    Annotated,
    Any,
    Dict,
    Iterator,
    List,
    Literal,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    TypedDict,
    Union,
)

import numpy
import pandas
import pydantic

from n8nrunner import Call, File, Runner, Task, TaskError

if __name__ == "__main__":
    import runner_script
    from runner_script import runner, tell
else:  # written as a node: nothing is told
    runner = Runner(name="functions")

VARIANT = os.environ.get("VARIANT", "")


class Priority(enum.Enum):
    LOW = 1
    VERY_HIGH = 2


@dataclasses.dataclass
class Address:
    city: str
    zip_code: int = 0


class Options(TypedDict, total=False):
    depth: int


class Point(NamedTuple):
    x: float
    y: float = 0.0


class Order(pydantic.BaseModel):
    number: int
    lines: List[str] = []


class Between:
    """Bounds in the form of `annotated_types`."""

    ge = 1
    le = 10


def register(name: str, hint: Any, *default: Any) -> None:
    """Register a function that takes a `value` with this hint, and returns its `repr`."""

    def function(value: Any) -> Any:
        return {"got": repr(value)}

    function.__annotations__ = {"value": hint}
    function.__defaults__ = default or None
    runner.function(name=name)(function)


register("takes_string", str)
register("takes_integer", int)
register("takes_number", float)
register("takes_boolean", bool)
register("takes_literal", Literal["red", "blue"])
register("takes_enum", Priority)
register("takes_datetime", datetime.datetime)
register("takes_date", datetime.date)
register("takes_list", list)
register("takes_list_of_numbers", List[int])
register("takes_tuple", Tuple[int, str])
register("takes_set", Set[str])
register("takes_dict", Dict[str, Any])
register("takes_dataclass", Address)
register("takes_typed_dict", Options)
register("takes_named_tuple", Point)
register("takes_model", Order)
register("takes_optional", Optional[int], None)
register("takes_union", Union[int, str])
register("takes_bounded", Annotated[int, Between(), "From 1 to 10"])
register("takes_anything", Any)
register("takes_default", str, "as it stands")
register("takes_default_anything", Any, "as it stands")


def register_result(name: str, result: Any) -> None:
    """Register a function without parameters that returns the result of `result`."""
    runner.function(name=name)(lambda: result())


register_result("gives_dict", lambda: {"a": 1})
register_result("gives_list", lambda: [{"a": 1}, {"a": 2}])
register_result("gives_number", lambda: 1.5)
register_result("gives_string", lambda: "text")
register_result("gives_nothing", lambda: None)
register_result("gives_dataclass", lambda: Address("Berlin", 10115))
register_result("gives_model", lambda: Order(number=1, lines=["a"]))
register_result("gives_numpy", lambda: {"array": numpy.arange(3), "number": numpy.float64(0.5)})
register_result("gives_frame", lambda: pandas.DataFrame({"name": ["a", "b"], "size": [1, 2]}))
register_result("gives_series", lambda: pandas.Series({"name": "a", "size": 1}))
register_result(
    "gives_times", lambda: {"at": datetime.datetime(2024, 5, 6, 7, 8), "on": datetime.date(2024, 5, 6)}
)
register_result("gives_decimal", lambda: {"price": decimal.Decimal("9.90")})
register_result("gives_nan", lambda: {"missing": float("nan"), "there": 1})
register_result("gives_item", lambda: {"json": {"a": 1}, "pairedItem": {"item": 0}})
register_result("gives_no_json", lambda: {"deep": [{1, 2}]})
register_result("gives_file", lambda: {"size": 3, "report": File(b"abc", "report.txt", "text/plain")})
register_result("gives_bytes", lambda: b"abc")


@runner.function
def gives_rows(count: int) -> Iterator[Dict[str, int]]:
    """Rows, as they are made."""
    for number in range(count):
        yield {"row": number}


@runner.function
def read_file(document: File) -> Dict[str, Any]:
    """Describe a file."""
    content = document.read()
    return {"size": len(content), "name": document.filename, "mime": document.mime, "copy": File(content)}


@runner.function
def gives_files(count: int, size: int) -> Iterator[Dict[str, Any]]:
    for number in range(count):
        yield {"number": number, "data": bytes([number]) * size}


@runner.function
def task_of_file(document: File, task: Task) -> Dict[str, Any]:
    content = document.read()
    return {"number": content[0], "size": len(content), "task": task.id}


@runner.function
def maybe_file(document: Optional[File] = None) -> bool:
    return document is not None


@runner.function
def double(number: float) -> float:
    """Twice the number."""
    return 2 * number


@runner.function(batch=True)
def rank(number: List[float], label: str = "rank") -> List[Dict[str, Any]]:
    """All items at once, one result for each."""
    order = sorted(number, reverse=True)
    return [{label: order.index(each) + 1} for each in number]


@runner.function(batch=True)
def total(number: List[float]) -> float:
    """All items at once, one result for all."""
    return sum(number)


@runner.function
def fails_for(number: int, bad: int = 2) -> int:
    """Raises for one number."""
    if number == bad:
        raise ValueError(f"{number} is bad")
    return number * 10


@runner.function
def tags_of(number: int) -> Dict[str, Any]:
    return {"tags": {number} if number == 1 else [number]}


@runner.function
def says_why(reason: str) -> None:
    raise TaskError(reason, "Ask for something else")


_failures: Dict[str, int] = {}


@runner.function
def fails_at_first(key: str) -> Dict[str, int]:
    _failures[key] = _failures.get(key, 0) + 1
    if _failures[key] < 3:
        raise RuntimeError(f"try {_failures[key]}")
    return {"tries": _failures[key]}


@runner.function
def waits(seconds: float, task: Task) -> Dict[str, Any]:
    tell("started", task=task.id)
    cancelled = task.wait_for_cancel(seconds)
    tell("ended", cancelled=cancelled, reason=task.cancel_reason)
    return {"waited": True}


@runner.function
def talks(task: Task) -> Dict[str, Any]:
    task.log("a line", {"of": "the function"})
    task.progress(0.5, "half way")
    return {"progress": [[seen.progress, seen.progress_text] for seen in runner.snapshot().tasks]}


_inside = 0
_most = 0
_counting = threading.Lock()


def _alone(seconds: float) -> int:
    global _inside, _most
    with _counting:
        _inside += 1
        _most = max(_most, _inside)
    time.sleep(seconds)  # the other calls at the same time are counted
    with _counting:
        _inside -= 1
    return _most


@runner.function(limit=1)
def one_at_a_time(seconds: float) -> Dict[str, int]:
    return {"most": _alone(seconds)}


if VARIANT != "old":

    @runner.function
    def who() -> Dict[str, int]:
        return {"pid": os.getpid()}


@runner.on("started")
def keep(call: Call) -> None:
    last_call.update(node=call.node, execution=call.execution_id)


last_call: Dict[str, Any] = {}


@runner.function
def own_call() -> Dict[str, Any]:
    return last_call


@runner.function
def task_of(number: int, task: Task) -> Dict[str, Any]:
    return {"number": number, "task": task.id}


# --- labels, large integers, moments and files --------------------------------------------------------


class Region(enum.Enum):
    EU = "eu"
    NORTH_AMERICA = "na"


@runner.function
def get_user_ids_of_api(
    api_url: str,
    number_of_items: int = 1,
    region: Region = Region.EU,
    ok: bool = False,
    express: bool = False,
    user_id: Optional[str] = None,
) -> Dict[str, Any]:
    """Nothing but labels.

    Args:
        express: Send by express.
    """
    return {"region": region.name}


register_result(
    "gives_large_integer", lambda: {"id": 7615917337495251231, "all": [2**53 - 1, 2**53], "share": 0.1 + 0.2}
)
register_result("gives_half_a_character", lambda: {"half": "\ud83d", "whole": "\U0001f600"})
register_result("gives_too_many_digits", lambda: {"fine": 1, "digits": [10**5000]})
register_result("gives_invoice", lambda: File(b"%PDF", "Invoice 5/2024.pdf", "application/pdf"))


@runner.function
def gives_loop(number: int) -> Dict[str, Any]:
    value: Dict[str, Any] = {"number": number}
    if number == 1:
        value["loop"] = [value]
    return value


# --- names and texts with a meaning of their own in JavaScript or n8n --------------------------------------


@runner.function
def takes_names(
    constructor: str,
    toString: str,
    valueOf: str,
    hasOwnProperty: str,
    isPrototypeOf: str,
    propertyIsEnumerable: str,
    toLocaleString: str,
    __proto__: str,
    __defineGetter__: str,
    prototype: str,
    options: str,
) -> Dict[str, Any]:
    """Names of properties that every object of JavaScript has."""
    return {"names": sorted(locals().values())}


@runner.function
def takes_optional_names(
    constructor: Optional[str] = None, __proto__: Optional[str] = None, prototype: Optional[str] = None
) -> Dict[str, Any]:
    """The same names, as additional fields."""
    return {"names": [constructor, __proto__, prototype]}


@runner.function
def constructor(text: str) -> str:
    """Return <text>, and keep its <b>tags</b> & entities.

    Args:
        text: The text to <i>return</i>, if it is < 5.
    """
    return text


register("takes_operator", Literal["=", "==", "<"], "=")
register("takes_formula", str, "=SUM(A1:A3)")
register("takes_braces", str, "={{ 1 + 1 }}")

if VARIANT == "changed":

    @runner.function(name="double")
    def double_changed(value: float, currency: str) -> float:
        return 2 * value

    @runner.function(name="takes_literal")
    def literal_changed(value: Literal["green"]) -> str:
        return value

elif VARIANT == "reworded":

    @runner.function(name="double")
    def double_reworded(number: Annotated[float, "Another text"], digits: Optional[int] = None) -> float:
        """Another docstring, and a parameter more that need not be given."""
        return 2 * number


if __name__ == "__main__":
    runner_script.main()
