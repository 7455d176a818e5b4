"""Names and docstrings become labels and descriptions."""

from __future__ import annotations

import enum
from typing import Literal

import pytest

from n8nrunner.functions.hints import type_of
from n8nrunner.functions.labels import sentence_of, title_of, title_of_constant, whether


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("zip_code", "Zip Code"),
        ("api_url", "API URL"),
        ("user_id", "User ID"),
        ("user_ids", "User IDs"),
        ("EU", "EU"),
        ("eu", "EU"),
        ("number_of_items", "Number of Items"),
        ("sign_in", "Sign In"),
        ("of_age", "Of Age"),
        ("iPhone", "IPhone"),
        ("dark blue", "Dark Blue"),
        ("bus", "Bus"),
        ("status", "Status"),
        ("=", "="),
        ("", ""),
        ("_", "_"),
    ],
)
def test_a_name_becomes_a_title(name: str, title: str) -> None:
    assert title_of(name) == title


@pytest.mark.parametrize(
    ("name", "title"),
    [("EU", "EU"), ("VERY_HIGH", "Very High"), ("PDF_FILE", "PDF File"), ("Mixed", "Mixed")],
)
def test_the_name_of_a_constant_becomes_a_title(name: str, title: str) -> None:
    assert title_of_constant(name) == title


@pytest.mark.parametrize(
    ("title", "sentence"),
    [
        ("Score Lead", "Score lead"),
        ("Get API URL of Lead", "Get API URL of lead"),
        ("API Lookup", "API Lookup"),
        ("Get User IDs", "Get user ids"),
    ],
)
def test_a_title_becomes_a_sentence(title: str, sentence: str) -> None:
    assert sentence_of(title) == sentence


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("Whether it rains", "Whether it rains"),
        ("whether it rains", "Whether it rains"),
        ("If true, send by express", "Whether to send by express"),
        ("If true, the parcel is insured", "Whether the parcel is insured"),
        ("When enabled, skip empty rows", "Whether to skip empty rows"),
        ("True to send by express", "Whether to send by express"),
        ("Set to true to send by express", "Whether to send by express"),
        ("True if the parcel is insured", "Whether the parcel is insured"),
        ("If the parcel is insured", "Whether the parcel is insured"),
        ("Send by express", "Whether this is on. Send by express."),
        ("Send by express. It costs more.", "Whether this is on. Send by express. It costs more."),
        ("When the PDF is wanted", "Whether the PDF is wanted"),
        ("If PDF is wanted", "Whether PDF is wanted"),
        ("The parcel is insured", "Whether the parcel is insured"),
        ("The express flag", "Whether this is on. The express flag."),
        ("Express delivery", "Whether this is on. Express delivery."),
        ("ok", "Whether this is on. Ok."),
    ],
)
def test_the_description_of_a_switch_begins_with_whether(text: str, description: str) -> None:
    assert whether(text) == description


class Region(enum.Enum):
    EU = "eu"
    NORTH_AMERICA = "na"
    OpenSea = 3


def test_choices_have_titles() -> None:
    assert type_of(Region).choices == [("EU", "eu"), ("North America", "na"), ("OpenSea", 3)]
    assert type_of(Literal["EU", "us", "dark-blue", 2]).choices == [
        ("EU", "EU"),
        ("US", "us"),
        ("Dark Blue", "dark-blue"),
        ("2", 2),
    ]
