"""The comparison of a program with its new import."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, Callable

import pytest

from n8nrunner.config import RunnerConfig
from n8nrunner.engine import Extras
from n8nrunner.reloading.differences import (
    Entry,
    changed_extras,
    changed_settings,
    compare,
    is_same_code,
    stale,
)


def function(source: str, lines: int = 0) -> Callable[..., Any]:
    """Return the function `f` of a module, below some empty lines."""
    namespace: dict[str, Any] = {"__name__": "leads"}
    exec(compile("\n" * lines + source, "leads.py", "exec"), namespace)
    found: Callable[..., Any] = namespace["f"]
    return found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("def f(): return 1", "def f(): return 1", True),
        ("def f(): return 1", "def f(): return 2", False),
        ("def f(): return 1", "def f(): return True", False),
        ("def f(): return a()", "def f(): return b()", False),
        ("def f(): return lambda: 1", "def f(): return lambda: 1", True),
        ("def f(): return lambda: 1", "def f(): return lambda: 2", False),
        (
            "class C:\n  def __call__(self): pass\nf = C()",
            "class C:\n  def __call__(self): pass\nf = C()",
            True,
        ),
    ],
)
def test_code_is_the_same_wherever_it_is_in_its_file(one: str, other: str, expected: bool) -> None:
    assert is_same_code(function(one), function(other, lines=3)) is expected


def test_a_decorated_function_is_compared_by_its_own_code() -> None:
    decorate = "import functools\ndef d(g):\n  @functools.wraps(g)\n  def w(): return g()\n  return w\n@d\n"
    assert not is_same_code(
        function(f"{decorate}def f(): return 1"), function(f"{decorate}def f(): return 2")
    )


def test_functions_are_new_changed_or_removed() -> None:
    one, two = function("def f(): return 1"), function("def f(): return 2")
    before = {"a": Entry(one, "x"), "b": Entry(one, "x"), "c": Entry(one, "x")}
    after = {"a": Entry(one, "x"), "b": Entry(two, "x"), "d": Entry(one, "x")}
    assert str(compare(before, after)) == "new: d; changed: b; removed: c"
    assert compare(before, {**before, "a": Entry(one, "other")}).changed == ["a"]
    assert str(compare(before, before)) == ""


def test_a_function_is_stale_if_its_module_has_not_registered_it_again() -> None:
    one, two = function("def f(): return 1"), function("def f(): return 2")
    before = {"a": Entry(one, None), "b": Entry(one, None)}
    assert stale(before, {"a": Entry(one, None), "b": Entry(two, None)}, {"leads"}) == ["a"]
    assert stale(before, before, {"other"}) == []


def test_settings_are_compared_by_their_values() -> None:
    before = RunnerConfig(auth_token="one", capacity=5)
    assert changed_settings(before, RunnerConfig(auth_token="one", capacity=5)) == []
    after = RunnerConfig(auth_token="two", capacity=6, broker=("http://other.test:5679",))
    assert changed_settings(before, after) == ["broker", "auth_token", "capacity"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (None, None, []),
        (None, ThreadPoolExecutor(1), ["executor"]),
        (ThreadPoolExecutor(1), ThreadPoolExecutor(1), []),
        (lambda: ThreadPoolExecutor(1), lambda: ThreadPoolExecutor(1), []),
        (lambda: ThreadPoolExecutor(1), lambda: ThreadPoolExecutor(2), ["executor"]),
        (lambda: ThreadPoolExecutor(1), lambda: ProcessPoolExecutor(1), ["executor"]),
    ],
)
def test_executors_of_the_same_kind_are_the_same_setting(one: Any, other: Any, expected: list[str]) -> None:
    assert changed_extras(Extras(executor=one), Extras(executor=other)) == expected


def test_sharing_is_a_setting() -> None:
    assert changed_extras(Extras(), Extras(shared=True)) == ["shared"]
