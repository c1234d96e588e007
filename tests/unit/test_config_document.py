"""Reading configuration files: what YAML and JSON may and may not do."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from containerssh.config.document import (
    DEEPEST,
    LARGEST,
    DocumentError,
    Position,
    parse_json,
    parse_yaml,
    read_document,
)


def yaml(text: str) -> Any:
    return parse_yaml(text.encode()).tree


def test_scalars_are_those_of_yaml_1_2() -> None:
    tree = yaml(
        "a: 1\nb: yes\nc: true\nd: 1.5\ne: ~\nf: '1'\ng: 2024-01-01\nh: 0o17\ni: 0x1F\nj: 1_000\nk: 0755\nl: .inf\n"
    )
    assert tree == {
        "a": 1, "b": "yes", "c": True, "d": 1.5, "e": None, "f": "1", "g": "2024-01-01", "h": 15, "i": 31, "j": 1000,
        "k": 0o755, "l": float("inf"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["1.20", "0755", "1_0", "1e3", "0x1F", "+5"])
def test_numbers_keep_the_text_they_were_written_with(text: str) -> None:
    value = yaml(f"a: {text}")["a"]
    assert isinstance(value, int | float)
    assert str(value) == text


def test_the_latest_of_two_anchors_of_one_name_counts() -> None:
    assert parse_yaml(b"a: &x 1\nb: &x 2\nc: *x").tree == {"a": 1, "b": 2, "c": 2}


def test_anchors_and_merge_keys_work() -> None:
    tree = yaml("a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3\nc:\n  <<: [*x, {r: 4, p: 5}]\n")
    assert tree["b"] == {"p": 1, "q": 3}
    assert tree["c"] == {"p": 1, "q": 2, "r": 4}


def test_every_key_knows_its_place() -> None:
    positions = parse_yaml(b"a:\n  b:\n    - x\n    - c: 1\n").positions
    assert positions["a", "b"] == Position(2, 3)
    assert positions["a", "b", "1", "c"] == Position(4, 7)


ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("- a\n- b\n", "map"),
        ("just text", "map"),
        ("a: [unclosed\n  x: {", "not valid YAML"),
        ("a:\n\tb: 1\n", "not valid YAML"),
        ("\x00\x01\x02", "not valid YAML"),
        ("a:\n  b: 1\n  b: 2\n", "'b' is given twice"),
        ("? [a, b]\n: 1\n", "must be a string"),
        ("a: !!python/object/apply:os.system [id]\n", "tag"),
        ("a: !custom x\n", "tag"),
        ("a: !!binary aGk=\n", "tag"),
        ("a: &a [*a]\n", "nested too deeply"),
        ("a: &a {b: *a}\n", "nested too deeply"),
        ("a: &a {<<: *a}\n", ""),
        ("a: {<<: 5}\n", "<<"),
        (ALIAS_BOMB, "too many values"),
        ("a: " + "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested too deeply"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("a: " + "{b: " * 20_000, "nested too deeply"),
        ("a: *nobody\n", "not valid YAML"),
    ],
)
def test_what_is_no_configuration_in_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        yaml(text)
    assert message in caught.value.message


def test_the_place_of_a_yaml_mistake_is_known() -> None:
    with pytest.raises(DocumentError) as caught:
        yaml("a: 1\nb: 2\na: 3\n")
    assert caught.value.position == Position(3, 1)


def test_further_yaml_documents_are_ignored_with_a_remark() -> None:
    document = parse_yaml(b"a: 1\n---\nb: 2\n")
    assert document.tree == {"a": 1}
    assert "first YAML document" in document.remarks[0][0]


def test_of_a_json_key_given_twice_the_last_counts_with_a_remark() -> None:
    document = parse_json(b'{"a": 1, "a": 2}')
    assert document.tree == {"a": 2}
    assert "'a' is given twice" in document.remarks[0][0]


def test_what_follows_a_json_value_is_ignored_with_a_remark() -> None:
    document = parse_json(b'{"a": 1} trailing')
    assert document.tree == {"a": 1}
    assert "ignored" in document.remarks[0][0]


def test_keys_of_json_know_their_place() -> None:
    assert parse_json(b'{\n "a": {\n  "b": 1}}').positions["a", "b"] == Position(3, 3)


NO_JSON = [
    "", "[]", "1", "{", '{"a": NaN}', '{"a": Infinity}', '{"a": 1,}', "\xff", "[" * 100_000,
    '{"a":' * 1000 + "1" + "}" * 1000, '{"a": ' + "9" * 5000 + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_configuration_in_json_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        parse_json(text.encode("latin-1"))


def test_the_name_decides_the_format(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "a.conf").write_text("a: 1")
    assert read_document(tmp_path / "a.json").spelling.any_case
    assert read_document(tmp_path / "a.conf").spelling.numbers_as_text


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(DocumentError, match="cannot read"):
            read_document(path)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(DocumentError, match=f"{LARGEST >> 20} MiB"):
        read_document(Path("/dev/zero"))


YAML_PIECES = [
    "a", "b", ": ", ":", "- ", "\n", "  ", "{", "}", "[", "]", ",", "&x ", "*x", "<<", "? ", "!!str ", "!t ", "'", '"',
    "|", ">", "#", "---\n", "...\n", "%YAML 1.1\n", "~", "0x", "1", ".", "é", "\t", "\\",
]  # fmt: skip
_yaml_pieces = st.lists(st.sampled_from(YAML_PIECES), max_size=40).map("".join)


@settings(max_examples=300, deadline=None)
@example(b"a: &x 1\nb: &x 2")
@given(st.binary(max_size=60) | _yaml_pieces.map(str.encode))
def test_any_bytes_give_a_yaml_document_or_a_document_error(content: bytes) -> None:
    with suppress(DocumentError):
        assert isinstance(parse_yaml(content).tree, dict)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]":,01e+-. abu\\ntrlsf', max_size=60).map(str.encode))
def test_any_bytes_give_a_json_document_or_a_document_error(content: bytes) -> None:
    with suppress(DocumentError):
        assert isinstance(parse_json(content).tree, dict)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=5), _values, max_size=4))
def test_json_is_read_as_what_it_says(tree: dict[str, Any]) -> None:
    assert parse_json(json.dumps(tree).encode()).tree == tree
