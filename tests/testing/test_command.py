"""``n8nrunner call``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from n8nrunner import cli

PROGRAM = "tests.testing.program"


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = cli.main(["call", *arguments])
    output = capsys.readouterr()
    assert code == cli.EXIT_OK, output.err
    return json.loads(output.out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(["call", *arguments])
    output = capsys.readouterr()
    assert output.out == ""
    return code, output.err


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        ("number", "7", "7"),
        ("text", "007", "'007'"),
        ("text", "null", "'null'"),
        ("text", "a=b", "'a=b'"),
        ("size", "1", "<Size.SMALL: 1>"),
        ("size", "LARGE", "<Size.LARGE: (2, 'XL')>"),
        ("size", "null", "None"),
        ("day", "2024-05-06", "datetime.date(2024, 5, 6)"),
        ("either", "5", "5"),
        ("either", "five", "'five'"),
    ],
)
def test_a_text_becomes_a_value_of_the_parameter_s_type(
    capsys: pytest.CaptureFixture[str], function: str, value: str, expected: str
) -> None:
    assert called(capsys, PROGRAM, function, f"value={value}")[0]["json"] == {"result": expected}


def test_a_parameter_of_any_type_takes_json_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, PROGRAM, "echo", 'value={"a": [1]}')[0]["json"] == {"got": "{'a': [1]}"}
    assert called(capsys, PROGRAM, "echo", "value={a")[0]["json"] == {"got": "'{a'"}


def test_lists_and_records_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    to = '{"city": "Köln", "since": "2024-05-06"}'
    (item,) = called(capsys, PROGRAM, "send", f"to={to}", "via=[[1, 2]]")
    assert "Köln" in item["json"]["result"]
    assert "Point(x=1.0, y=2.0)" in item["json"]["result"]


def test_files_are_paths(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"abc")
    items = json.dumps([{"document": str(path)}] * 2)
    saved = tmp_path / "saved"
    found = called(capsys, PROGRAM, "reverse", "--items", items, "--save", str(saved))
    assert "data" not in found[0]["binary"]["copy"]
    assert found[0]["binary"]["copy"]["fileSize"] == "3 B"
    assert {each.name: each.read_bytes() for each in saved.iterdir()} == {
        "a_b.txt": b"cba",
        "a_b-2.txt": b"cba",
    }


def test_several_items_share_the_other_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    items = '[{"value": "a"}, {}]'
    found = called(capsys, f"{PROGRAM}:runner", "text", "value=b", "--items", items)
    assert [item["json"]["result"] for item in found] == ["'a'", "'b'"]


def test_a_failed_call_says_what_n8n_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, error = refused(capsys, PROGRAM, "fail", "kind=task")
    assert (code, error) == (
        cli.EXIT_ERROR,
        "n8nrunner: The customer does not exist [item 0]\nCheck the field 'customer'.\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PROGRAM, "nothing"), "has no function 'nothing'; its functions are: at, "),
        ((PROGRAM, "number", "valeu=1"), "number takes value=...; got 'valeu=1'"),
        ((PROGRAM, "number", "value"), "number takes value=...; got 'value'"),
        ((PROGRAM, "number", "--items", "{}"), "--items: expected a list of objects"),
        ((PROGRAM, "number", "--items", "{"), "--items: expected JSON"),
        ((PROGRAM, "number", "--items", '[{"x": 1}]'), "number has no parameter 'x'"),
        ((PROGRAM, "reverse", "document=missing.txt"), "missing.txt"),
        (("tests.testing.nothing", "number"), "there is no module 'tests.testing.nothing'"),
    ],
)
def test_a_mistake_in_the_command_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, error = refused(capsys, *arguments)
    assert code == cli.EXIT_USAGE
    assert error.startswith("n8nrunner: ")
    assert message in error


def test_the_output_has_the_items_alone(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "from n8nrunner import Runner\nprint('imported')\nrunner = Runner()\nrunner.start()\n"
        "@runner.function\ndef shout(word: str):\n    print(word)\n    return {'word': word}\n"
    )
    command = [sys.executable, "-m", "n8nrunner", "call", "loud", "shout", "word=hey"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [{"json": {"word": "hey"}, "pairedItem": {"item": 0}}]
    assert done.stderr.splitlines() == ["imported", "hey"]
