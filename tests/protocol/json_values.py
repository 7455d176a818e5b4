"""JSON values for hypothesis, and what the standard library makes of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from n8nrunner.protocol.json_faults import LARGEST_INTEGER

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
)
keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
json_values = st.recursive(
    leaves
    # Lists long enough to be encoded in pieces.
    | st.builds(lambda items, count: items * count, st.lists(leaves, min_size=1, max_size=3), st.just(20)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


def whole(value: Any) -> str:
    """Return compact JSON text as the standard library writes it all at once."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
