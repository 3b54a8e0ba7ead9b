"""The operator's YAML: words stay words, every mistake has its line, and no bytes at all can break the reader."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from x0tta6bl4.settings.document import (
    DEEPEST,
    LARGEST_FILE,
    MOST_PROBLEMS,
    Document,
    Origin,
    merge,
    nest,
    parse,
    parse_value,
    read,
)


def only_problem(text: str) -> tuple[int, str, str]:
    (problem,) = parse(text.encode(), "f.yaml").problems
    assert problem.file == "f.yaml"
    return problem.line, problem.where, problem.message


def test_words_that_other_readers_take_for_booleans_stay_words() -> None:
    document = parse(b"on: yes\nflag: off\nn: y\ntruth: true\nlie: False\n", "f.yaml")

    assert document.value == {"on": "yes", "flag": "off", "n": "y", "truth": True, "lie": False}
    assert document.problems == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-12", -12),
        ("0x1f", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("0755", "0755"),
        ("22:00", "22:00"),
        ("2030-01-01", "2030-01-01"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("~", None),
        ("", None),
        ("null", None),
        ('"1"', "1"),
        ("'true'", "true"),
        ("5s", "5s"),
        ("[a, 1, {b: 2}]", ["a", 1, {"b": 2}]),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_a_plain_value_gets_the_type_it_looks_like(text: str, value: object) -> None:
    got, problems = parse_value(text, "here")

    assert (value, type(value)) == (got, type(got))
    assert not problems


def test_every_value_knows_its_line_and_column() -> None:
    document = parse(b"a:\n  b: 1\n  c:\n    - x\n    - y: 2\n", "f.yaml")

    assert document.origins == {
        ("a",): Origin("f.yaml", 1, 1),
        ("a", "b"): Origin("f.yaml", 2, 3),
        ("a", "c"): Origin("f.yaml", 3, 3),
        ("a", "c", 0): Origin("f.yaml", 4, 7),
        ("a", "c", 1): Origin("f.yaml", 5, 7),
        ("a", "c", 1, "y"): Origin("f.yaml", 5, 7),
    }


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    assert only_problem("a: 1\nb: 2\na: 3\n") == (3, "a", "is there twice; first in line 1")


@pytest.mark.parametrize(
    ("text", "line", "where", "words"),
    [
        ("a:\n  b: &x 1\n", 2, "a.b", "anchors"),
        ("a: 1\nb: !!python/name:os.system x\n", 2, "b", "tags"),
        ("a: *x\n", 1, "a", "aliases"),
        ("a: 1\nb:\n\tc: 2\n", 3, "", "tab"),
        ("a: 1\nb: @c\n", 2, "b", "quotes"),
        ("a: b: c\n", 1, "", "':'"),
        ("a: 1\n b: 2\n", 2, "", "':'"),
        ("a: [1, 2\nb: 3\n", 2, "", "]"),
        ("a: 'never closed\n", 2, "", "quote"),
        ("a: 1\n---\nb: 2\n", 2, "", "second document"),
        ("[a]: 1\n", 1, "", "key"),
        ("'': 1\n", 1, "", "without a key"),
        ("- a\n", 1, "", "key: value"),
        ("just words\n", 1, "", "key: value"),
        ("a: 1\nb: \x07\n", 2, "", "control character"),
    ],
)
def test_what_is_not_understood_is_told_with_its_line_in_a_plain_sentence(
    text: str, line: int, where: str, words: str
) -> None:
    problem = parse(text.encode(), "f.yaml").problems[0]

    assert (line, "f.yaml") == (problem.line, problem.file)
    assert words in problem.message
    assert problem.where.startswith(where)


def test_merge_keys_are_refused_and_quoted_they_are_a_key() -> None:
    assert "merge keys" in only_problem("a:\n  <<: {b: 1}\n")[2]
    assert parse(b"'<<': 1\n", "f.yaml").value == {"<<": 1}


def test_all_mistakes_of_a_file_are_told_not_the_first_one_only() -> None:
    document = parse(b"a: &x 1\nb: *x\nc: 1\nc: 2\n", "f.yaml")

    assert [problem.line for problem in document.problems] == [1, 2, 4]


def test_the_list_of_mistakes_ends_somewhere() -> None:
    document = parse(b"a: 1\n" * 10_000, "f.yaml")

    assert len(document.problems) == MOST_PROBLEMS
    assert not document.is_complete


def test_depth_and_size_are_bounded() -> None:
    deep = parse(b"a: " + b"[" * 100_000, "f.yaml")
    allowed = parse(b"a: " + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1), "f.yaml")
    large = parse(b"#" * (LARGEST_FILE + 1), "f.yaml")

    assert "deeper" in deep.problems[0].message
    assert allowed.problems == ()
    assert "larger than 1 MiB" in large.problems[0].message


def test_a_file_with_nothing_in_it_is_an_empty_document() -> None:
    for data in (b"", b"# only words\n", b"---\n", b"\xef\xbb\xbf", b"{}"):
        assert parse(data, "f.yaml") == Document()


def test_bytes_that_are_no_text_are_told_with_their_line() -> None:
    (problem,) = parse(b"a: 1\nb: \xff\n", "f.yaml").problems

    assert (problem.line, problem.message) == (2, "is not UTF-8 text")


def test_what_cannot_be_read_is_a_problem_with_its_name(tmp_path: Path) -> None:
    missing = read(tmp_path / "missing.yaml")
    folder = read(tmp_path)

    assert str(tmp_path / "missing.yaml") == missing.problems[0].file
    assert "No such file" in missing.problems[0].message
    assert "folder" in folder.problems[0].message
    assert read(Path("a\0b")).problems


def test_mappings_merge_deep_and_everything_else_replaces() -> None:
    under = parse(b"a: {b: 1, c: [1, 2], d: {e: 1}}\nf: 1\n", "main")
    over = parse(b"\na: {c: [3], d: 2, g: 4}\n", "over")
    both = merge(under, over)

    assert both.value == {"a": {"b": 1, "c": [3], "d": 2, "g": 4}, "f": 1}
    assert {".".join(map(str, path)): str(origin) for path, origin in both.origins.items() if path != ("a",)} == {
        "a.b": "main:1",
        "a.c": "over:2",
        "a.c.0": "over:2",
        "a.d": "over:2",
        "a.g": "over:2",
        "f": "main:2",
    }
    assert under.value["a"]["d"] == {"e": 1}


def test_control_characters_in_a_key_are_escaped_where_they_are_shown() -> None:
    (problem,) = parse(b'"\\e[31mred": 1\n"\\e[31mred": 2\n', "f.yaml").problems

    assert problem.where == "\\x1b[31mred"


PIECES = r"""a b:_ -_ __ [ ] { } , :_ &x_ *x !t_ ' " > # ?_ %YAML_1.1 \ud800 <<:_ 1 é \0 @ `""".replace("_", " ").split(
    " "
)
yamlish = st.lists(
    st.sampled_from([*PIECES, ": ", "- ", "? ", "  ", "|\n", "\n", "\t", "---\n", "...\n", "\x85", "\u2028", "\r"]),
    max_size=40,
).map("".join)


@given(st.one_of(st.binary(max_size=200), yamlish.map(str.encode)))
@example(b'"\\ud800": 1')
@example(b"\x00")
@example(b"a: 'b\x85c'")
@example(b"? [a\n: b")
def test_no_bytes_whatever_break_the_reader(data: bytes) -> None:
    document = parse(data, "f.yaml")

    assert isinstance(document.value, dict)
    assert all(problem.file == "f.yaml" and problem.message for problem in document.problems)
    # What is told can be printed on any terminal.
    "".join(map(str, document.problems)).encode("utf-8")


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-999, 999), st.sampled_from(["x", "on", "1", ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=8,
)
trees = st.dictionaries(st.sampled_from("abc"), plain, max_size=3)


def as_document(tree: dict[str, object], source: str) -> Document:
    document = Document()
    for key, value in tree.items():
        document = merge(document, nest([key], value, Origin(source)))
    return document


def paths_of(value: object, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {p for key, inner in pairs for p in ({(*path, key)} | paths_of(inner, (*path, key)))}


@given(trees, trees)
def test_after_a_merge_exactly_the_values_that_are_there_have_origins(
    one: dict[str, object], two: dict[str, object]
) -> None:
    both = merge(as_document(one, "one"), as_document(two, "two"))

    assert set(both.origins) == paths_of(both.value)
    assert merge(both, Document()) == both
