"""What holds for all tests."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=2)
@given(st.booleans())
def test_no_property_is_held_to_a_time(said: bool) -> None:
    time.sleep(0.25)  # longer than Hypothesis allows of its own accord
