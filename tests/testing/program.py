"""A module of a user's program: functions and handlers whose calls the tests make."""

import contextvars
import dataclasses
import datetime
import enum
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Union

from n8nrunner import File, Runner, Task, TaskError

entered = contextvars.ContextVar("entered", default=0)


@contextmanager
def context() -> Iterator[None]:
    entered.set(entered.get() + 1)
    yield


#: Nothing answers at these addresses, and nothing may listen on a privileged port.
runner = Runner(
    ["https://n8n.example:5679", "https://worker.example:5679"],
    auth_token="of the program",
    name="program",
    capacity=2,
    health_check_enabled=True,
    health_check_port=1,
    auto_shutdown_timeout=0.01,
    task_context=context,
)


class Size(enum.Enum):
    SMALL = 1
    LARGE = (2, "XL")


@dataclasses.dataclass
class Address:
    city: str
    since: datetime.date
    size: Size = Size.SMALL
    tags: Set[str] = dataclasses.field(default_factory=set)
    label: str = dataclasses.field(init=False, default="")


class Point(NamedTuple):
    x: float
    y: float = 0.0


@runner.function
def echo(value: Any) -> Dict[str, str]:
    return {"got": repr(value)}


@runner.function
def number(value: int) -> str:
    return repr(value)


@runner.function
def text(value: str = "default") -> str:
    return repr(value)


@runner.function
def size(value: Optional[Size] = Size.SMALL) -> str:
    return repr(value)


@runner.function
def at(value: datetime.datetime) -> str:
    return repr(value)


@runner.function
def day(value: datetime.date) -> str:
    return repr(value)


@runner.function
def either(value: Union[int, str]) -> str:
    return repr(value)


@runner.function
def send(to: Address, via: List[Point]) -> str:
    return f"{to} {via}"


@runner.function
def reverse(document: File) -> Dict[str, Any]:
    return {"name": document.filename, "type": document.mime, "copy": File(document.read()[::-1], "a/b.txt")}


@runner.function
def maybe(document: Optional[File] = None) -> bool:
    return document is None


@runner.function(batch=True)
def rank(score: List[float]) -> List[Dict[str, int]]:
    order = sorted(score, reverse=True)
    return [{"rank": order.index(each) + 1} for each in score]


@runner.function(limit=1)
def fail(kind: str) -> str:
    if kind == "task":
        raise TaskError("The customer does not exist", "Check the field 'customer'.")
    if kind == "exception":
        raise ValueError("no such lead")
    return kind


@runner.function
def wait(task: Task) -> None:
    task.log("waiting", {"for": "the end"})
    task.wait_for_cancel(60)
    task.raise_if_cancelled()


@runner.function
def contexts() -> int:
    return entered.get()


@runner.function
def fetch(task: Task) -> Any:
    return task.http_request(url="https://example.com")


@runner.task("double")
def double(task: Task) -> Any:
    task.log("doubling")
    return 2 * task.settings["n"]


@runner.task("broken")
def broken(task: Task) -> None:
    raise TaskError("It is broken", "Mend it.")


@runner.task("read")
def read(task: Task) -> Any:
    return [len(task.items), task.read_file(0, "data").decode()]
