"""The base of the section models: durations, spellings of keys, empty values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, ValidationError

from containerssh.config.model import (
    MASK,
    ConfigModel,
    Duration,
    Secret,
    Spelling,
    format_duration,
    parse_duration,
    seconds,
)


class Inner(ConfigModel):
    tags: tuple[str, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    count: int = 3
    is_on: bool = True


class Outer(ConfigModel):
    other_spellings: ClassVar[Mapping[str, str]] = {"innerThing": "inner"}

    name: str = "somebody"
    mode: Literal["one", "two"] = "one"
    token: Secret = SecretStr("")
    wait: Duration = seconds(5)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("1.5s", timedelta(seconds=1.5)),
        (".5s", timedelta(seconds=0.5)),
        ("-1.5h", timedelta(minutes=-90)),
        ("+3ms", timedelta(milliseconds=3)),
        ("10µs", timedelta(microseconds=10)),
        ("10μs", timedelta(microseconds=10)),
        ("10us", timedelta(microseconds=10)),
        ("2000ns", timedelta(microseconds=2)),
        ("0", timedelta(0)),
        ("0s", timedelta(0)),
        (2_000_000_000, timedelta(seconds=2)),
        (1500.0, timedelta(microseconds=1.5)),
        (timedelta(seconds=1), timedelta(seconds=1)),
    ],
)
def test_every_upstream_spelling_of_a_duration_is_understood(text: object, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "soon", "5", "s", "1 s", "1d", "--1s", "+-1s", "1s2", "1,5s", "9999999h", True, None, [], 1e30, float("nan")],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.timedeltas(timedelta(days=-90_000), timedelta(days=90_000)))
def test_a_written_duration_reads_as_itself(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@given(st.text("0123456789.hmsuµn+- ", max_size=30) | st.integers() | st.floats() | st.text(max_size=10))
def test_reading_a_duration_gives_a_duration_or_a_value_error(text: object) -> None:
    try:
        duration = parse_duration(text)
    except ValueError:
        return
    assert abs(duration) <= timedelta(microseconds=2**63 // 1000)


@given(st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(["h", "m", "s", "ms", "us"])), min_size=1, max_size=6))
def test_the_parts_of_a_duration_add_up(parts: list[tuple[int, str]]) -> None:
    units = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1000, "us": 1}
    text = "".join(f"{count}{unit}" for count, unit in parts)
    whole = sum(Decimal(count) * units[unit] for count, unit in parts)
    assert parse_duration(text) == timedelta(microseconds=int(whole))


@pytest.mark.parametrize(
    ("duration", "text"), [(60, "1m0s"), (3600, "1h0m0s"), (0.25, "250ms"), (0, "0s"), (0.00001, "10µs"), (-2, "-2s")]
)
def test_durations_are_written_as_go_writes_them(duration: float, text: str) -> None:
    assert format_duration(seconds(duration)) == text


def test_an_unknown_key_is_refused_and_its_value_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"nmae": "hunter2"})
    assert caught.value.errors()[0]["loc"] == ("nmae",)
    assert "hunter2" not in str(caught.value)


def test_null_leaves_the_default() -> None:
    assert Outer.model_validate({"name": None, "inner": None, "wait": None}) == Outer()


def test_an_empty_text_stands_for_a_default_that_is_a_text() -> None:
    assert Outer.model_validate({"name": "", "mode": ""}) == Outer()


def test_false_and_zero_are_kept() -> None:
    assert Inner.model_validate({"isOn": False, "count": 0}) == Inner.model_construct(is_on=False, count=0)


def test_an_empty_list_is_kept() -> None:
    assert Inner.model_validate({"tags": []}).model_fields_set == {"tags"}


def test_other_spellings_are_understood() -> None:
    assert Outer.model_validate({"innerThing": {"count": 1}}).inner.count == 1


def test_a_key_in_two_spellings_is_refused() -> None:
    with pytest.raises(ValidationError, match="inner is given twice"):
        Outer.model_validate({"innerThing": {}, "inner": {}})


def test_null_in_one_spelling_does_not_hide_the_other() -> None:
    assert Outer.model_validate({"inner": {"count": 1}, "innerThing": None}).inner.count == 1


def test_the_case_of_keys_counts_only_where_it_does() -> None:
    spelled = {"NAME": "x", "INNERTHING": {"Tags": ["a"]}}
    assert Outer.model_validate(spelled, context=Spelling(any_case=True)).inner.tags == ("a",)
    with pytest.raises(ValidationError):
        Outer.model_validate(spelled)


def test_a_key_in_two_cases_is_refused() -> None:
    with pytest.raises(ValidationError, match="name is given twice"):
        Outer.model_validate({"name": "a", "Name": "b"}, context=Spelling(any_case=True))


def test_numbers_become_texts_only_in_formats_that_say_so() -> None:
    numbers = {"name": 1, "inner": {"tags": [1, True], "labels": {"a": 1.5}, "count": 7}}
    outer = Outer.model_validate(numbers, context=Spelling(numbers_as_text=True))
    assert (outer.name, outer.inner.tags, outer.inner.labels, outer.inner.count) == (
        "1",
        ("1", "true"),
        {"a": "1.5"},
        7,
    )
    with pytest.raises(ValidationError):
        Outer.model_validate(numbers)


def test_a_number_may_be_a_secret() -> None:
    outer = Outer.model_validate({"token": 12345}, context=Spelling(numbers_as_text=True))
    assert outer.token.get_secret_value() == "12345"


def test_the_mask_of_a_dump_is_not_taken_for_a_secret() -> None:
    with pytest.raises(ValidationError, match="mask"):
        Outer.model_validate({"token": MASK})


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "true", "false", "True", "OFF"])
def test_the_words_of_yaml_1_1_are_booleans(word: str) -> None:
    assert Inner.model_validate({"isOn": word}).is_on is (word.lower() in ("yes", "on", "true"))
