"""Durations and sizes mean what an operator wrote, and what is shown can be written back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from x0tta6bl4.kernel.units import Seconds, Size, as_bytes, as_seconds, show_bytes, show_seconds


class Example(BaseModel):
    every: Seconds = Field(default=1.0, gt=0)
    limit: Size = 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("700ms", 0.7),
        ("5s", 5.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        (" 30 ", 30.0),
        (7, 7.0),
        (0.25, 0.25),
        ("0", 0.0),
    ],
)
def test_a_duration_is_read_in_every_way_it_is_written(text: object, seconds: float) -> None:
    assert seconds == as_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100MiB", 100 * 1024**2),
        ("2GB", 2 * 1000**3),
        ("512k", 512 * 1024),
        ("1.5KiB", 1536),
        ("10 mb", 10_000_000),
        ("7B", 7),
        (4096, 4096),
        (4096.0, 4096),
        ("0", 0),
    ],
)
def test_a_size_is_read_in_every_way_it_is_written(text: object, size: int) -> None:
    assert size == as_bytes(text)


@pytest.mark.parametrize(
    "value",
    ["", "s", "5 5", "-1s", "5S", "1w", "1h30m", "1e999", "٣s", "9" * 100, -1, True, None, [], math.nan, math.inf],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"duration|finite"):
        as_seconds(value)


@pytest.mark.parametrize(
    "value", ["", "MiB", "1PB", "-1", "0.5", "1..5k", 0.5, -1, False, None, {}, math.nan, "9" * 100]
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"size|finite"):
        as_bytes(value)


def test_a_number_too_large_for_a_float_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="too large"):
        as_seconds(10**400)


def test_both_work_as_types_of_a_model_together_with_bounds() -> None:
    example = Example.model_validate({"every": "2m", "limit": "1KiB"})

    assert (example.every, example.limit) == (120.0, 1024)
    with pytest.raises(ValidationError, match="greater than 0"):
        Example.model_validate({"every": "0s"})


@given(st.floats(min_value=0, max_value=1e300))
def test_a_shown_duration_is_read_back_exactly(seconds: float) -> None:
    assert seconds == as_seconds(show_seconds(seconds))


@given(st.integers(min_value=0, max_value=10**18))
def test_a_shown_size_is_read_back_exactly(size: int) -> None:
    assert size == as_bytes(show_bytes(size))


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none(), st.booleans(), st.binary(max_size=5)))
def test_any_value_is_either_read_or_refused(value: object) -> None:
    for read in (as_seconds, as_bytes):
        try:
            result = read(value)
        except ValueError:
            continue

        assert result >= 0
        assert math.isfinite(result)
