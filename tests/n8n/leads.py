"""Functions as their author writes them, of the README and beyond; `test_editor.py` looks at their node."""

from __future__ import annotations

import enum
from typing import Any, Dict, Iterator, Literal, Optional

from n8nrunner import Runner

runner = Runner(name="leads")


class Priority(enum.Enum):
    LOW = 1
    NORMAL = 2
    VERY_HIGH = 3


@runner.function
def find_leads() -> Iterator[Dict[str, Any]]:
    """Find the leads of this week."""
    yield {"email": "ada@example.com", "money": 2500}
    yield {"email": "grace@example.com", "money": 1200.5}
    yield {"email": "alan@example.com", "money": 800}


@runner.function
def score_lead(email: str, budget: float = 0.0, region: Literal["eu", "us"] = "eu") -> Dict[str, Any]:
    """Score one lead.

    Args:
        email: The address of the lead.
        budget: Their budget, in euros.
    """
    return {"score": len(email) + budget, "region": region}


@runner.function
def plan_call(
    email: str,
    attempts: int = 3,
    priority: Priority = Priority.NORMAL,
    remind: bool = False,
    answers: Dict[str, Any] = {},  # noqa: B006 - as people write it
    notes: Optional[str] = None,
    discount: Optional[int] = None,
) -> Dict[str, Any]:
    """Plan a call with a lead.

    Args:
        email: The address of the lead.
        attempts: How often to try.
        priority: How soon to call.
        remind: If true, send a reminder the day before.
        answers: Their answers so far, by question.
        notes: Any other facts.
        discount: The discount to offer, in percent.
    """
    return {
        "lead": email,
        "attempts": attempts,
        "priority": priority.name,
        "remind": remind,
        "answers": ", ".join(sorted(answers)),
        "notes": notes,
        "discount": discount,
    }


def number_of(invoice: str) -> int:
    return int(invoice.split("-")[1])


@runner.function
def remind_lead(invoice: str) -> str:
    """Remind a lead of an invoice."""
    return f"Please pay invoice {number_of(invoice)} & soon"
