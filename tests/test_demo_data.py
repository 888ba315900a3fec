"""Files of preference pairs: what is read, what is skipped, what is refused and where."""

import gzip
import json

import pytest

from fastalign.demo import DataError
from fastalign.demo.data import read_pairs

GOOD = [{"prompt": f"q{k}", "chosen": f"yes {k}", "rejected": f"no {k}"} for k in range(12)]


def dialogue(answer, question="\n\nHuman: hello"):
    return f"{question}\n\nAssistant: hi\n\nHuman: and?\n\nAssistant: {answer}"


def write(folder, rows, name="pairs.jsonl", encode="utf-8"):
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("\n".join(lines).encode(encode))
    return path


def test_plain_rows(tmp_path):
    found = read_pairs(write(tmp_path, GOOD))
    assert len(found.pairs) == 12 and found.skipped_line() is None
    assert (found.pairs[3].prompt, found.pairs[3].chosen, found.pairs[3].rejected) == ("q3", "yes 3", "no 3")


def test_dialogues_are_split_at_the_last_assistant_turn(tmp_path):
    rows = [{"chosen": dialogue(f"yes {k}"), "rejected": dialogue(f"no {k}")} for k in range(12)]
    pair = read_pairs(write(tmp_path, rows)).pairs[0]
    assert pair.chosen == "yes 0" and pair.rejected == "no 0" and pair.prompt.endswith("Human: and?")


@pytest.mark.parametrize("name", ["pairs.jsonl.gz", "pairs.jsonl"])
def test_gzip_is_known_by_its_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(write(tmp_path, GOOD, "plain").read_bytes()))
    assert len(read_pairs(path).pairs) == 12


def test_blank_lines_and_a_byte_order_mark_are_nothing(tmp_path):
    path = write(tmp_path, ["\ufeff" + json.dumps(GOOD[0]), "", "   ", *GOOD[1:], ""])
    assert len(read_pairs(path).pairs) == 12


def test_unusable_rows_are_skipped_and_named(tmp_path):
    bad = [
        {"prompt": "p", "chosen": " ", "rejected": "b"},
        {"prompt": "p", "chosen": "same", "rejected": "same "},
        {"chosen": "no turn", "rejected": "here"},
        {"chosen": dialogue("a"), "rejected": dialogue("b", "\n\nHuman: other")},
    ]
    found = read_pairs(write(tmp_path, [*GOOD, *bad]))
    assert len(found.pairs) == 12
    assert found.skipped == {
        13: "blank response", 14: "identical responses", 15: "no assistant turn", 16: "prompts differ"
    }  # fmt: skip
    assert found.skipped_line().startswith("skipped 4 unusable row(s)") and "13, 14, 15, 16" in found.skipped_line()
    many = read_pairs(write(tmp_path, [*GOOD, *bad[:1] * 30]))
    assert many.skipped_line().endswith("13, 14, 15, 16, 17, 18, 19, 20, 21, 22, ...")


@pytest.mark.parametrize(
    "line, text",
    [
        ('{"prompt": "p", "chosen": "a"}', "line 13: the key 'rejected' is missing"),
        ('{"prompt": 3, "chosen": "a", "rejected": "b"}', "line 13: 'prompt' is a JSON number; expected a string"),
        ('{"chosen": null, "rejected": "b"}', "line 13: 'chosen' is a JSON null"),
        ('["a", "b"]', "line 13: a JSON array; expected an object"),
        ('{"prompt": "p", "chosen": ', r"line 13: not JSON: Expecting value \(column 26\)"),
        ("chosen,rejected", "line 13: not JSON"),
        ("[" * 100_000, "line 13: not JSON"),
        ("9" * 5000, "line 13: not JSON that can be read"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, text):
    with pytest.raises(DataError, match=text) as caught:
        read_pairs(write(tmp_path, [*GOOD, line]))
    assert "\n" not in str(caught.value)


def test_the_wrong_encoding_is_named(tmp_path):
    rows = [*GOOD, {"prompt": "p", "chosen": "é", "rejected": "b"}]
    with pytest.raises(DataError, match=r"line 13: not UTF-8 \(byte 0xe9 at position"):
        read_pairs(write(tmp_path, rows, encode="latin-1"))


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(write(tmp_path, GOOD).read_bytes())[:-20])
    with pytest.raises(DataError, match="the gzip stream is damaged or cut short"):
        read_pairs(path)


@pytest.mark.parametrize("rows, text", [([], "no rows"), (["", ""], "no rows"), (GOOD[:9], r"9 usable pair\(s\) in 9")])
def test_too_little_is_refused(tmp_path, rows, text):
    with pytest.raises(DataError, match=text):
        read_pairs(write(tmp_path, rows))


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match="cannot be read"):
            read_pairs(path)
