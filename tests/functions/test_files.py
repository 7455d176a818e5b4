"""Names of files that come from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from n8nrunner import File

LONG = "ü" * 200


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("Grüße 5.txt", "Grüße 5.txt"),
        ("Invoice 5/2024.pdf", "Invoice 5_2024.pdf"),
        ("../../etc/cron.d/x", "_.._etc_cron.d_x"),
        ("..", "file"),
        (".", "file"),
        ("", "file"),
        (None, "file"),
        (" . ", "file"),
        (".bashrc", "bashrc"),
        ("C:\\Windows\\win.ini", "C__Windows_win.ini"),
        ("a\x00b\nc\x1b[2J", "a_b_c_[2J"),
        ("gpj.\u202efdp.exe", "gpj._fdp.exe"),
        ("\ud83d.txt", "_.txt"),
        ("x:stream", "x_stream"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("console.txt", "console.txt"),
        ("name. ", "name"),
        (f"{LONG}.pdf", f"{'ü' * 125}.pdf"),
        (f"x.{LONG}", f"x.{'ü' * 126}"),
    ],
)
def test_a_safe_name_is_a_plain_file_name(name: str, safe: str, tmp_path: Path) -> None:
    file = File(b"abc", name)
    assert file.safe_name == safe
    assert file.filename == name
    path = tmp_path / file.safe_name
    path.write_bytes(b"abc")
    assert [found.name for found in tmp_path.iterdir()] == [safe]
