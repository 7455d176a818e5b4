"""Functions for invoices, which workflows of n8n call: `n8nrunner run application`."""

from __future__ import annotations

import datetime
import difflib
import re
from typing import Any, Dict, List, Optional

from n8nrunner import Runner

# Address and token come from the environment.
runner = Runner(name="billing")


@runner.function
def check_iban(iban: str) -> Dict[str, Any]:
    """Check the number of a bank account.

    Args:
        iban: The IBAN, with or without spaces.
    """
    compact = re.sub(r"\s", "", iban).upper()
    is_valid = False
    if re.fullmatch(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", compact):
        # ISO 13616: country and check digits go to the end, letters count from A = 10 to Z = 35.
        number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
        is_valid = int(number) % 97 == 1
    return {"iban": compact, "country": compact[:2], "valid": is_valid}


@runner.function
def due_date(
    invoiced: datetime.date, days: int = 30, holidays: Optional[List[datetime.date]] = None
) -> Dict[str, Any]:
    """Find the day on which an invoice is due: the first working day when its time is over.

    Args:
        invoiced: The day of the invoice.
        days: The number of days that the customer has.
        holidays: Days without work, besides Saturdays and Sundays.
    """
    due = invoiced + datetime.timedelta(days=days)
    while due.weekday() >= 5 or due in (holidays or []):
        due += datetime.timedelta(days=1)
    return {"due": due}


@runner.function(batch=True)
def find_duplicates(name: List[str], similarity: float = 0.8) -> List[Dict[str, Any]]:
    """Find customers that are listed twice with different spellings.

    Args:
        name: The name of the customer.
        similarity: From 0 for any two names to 1 for the same letters.
    """
    results = []
    plain = [" ".join(sorted(re.findall(r"\w+", each.lower()))) for each in name]
    for index, text in enumerate(plain):
        earlier = difflib.get_close_matches(text, plain[:index], n=1, cutoff=similarity)
        results.append(
            {"name": name[index], "duplicateOf": name[plain.index(earlier[0])] if earlier else None}
        )
    return results
