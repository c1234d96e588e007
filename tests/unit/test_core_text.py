from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.text import one_line, printable


def test_what_is_not_printable_is_substituted() -> None:
    assert printable("a\r\n\x1b[2Jb\u202ec") == "a???[2Jb?c"
    assert printable("a\tb", " ") == "a b"


def test_words_are_separated_by_single_spaces() -> None:
    assert one_line("  no such\r\n\tfile \x00 or folder\n") == "no such file or folder"


@given(st.text(), st.integers(1, 30))
def test_one_line_is_printable_and_no_longer_than_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
