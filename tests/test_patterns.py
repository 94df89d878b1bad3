"""Patterns over names: what they match, what is refused, and that none of them hangs the program."""

import fnmatch
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initconf import InitConfError, patterns
from initconf.patterns import captured, check, match_names

NAMES = [
    "tok_emb.weight",
    "blocks.0.attn.q_proj.weight",
    "blocks.0.attn.q_proj.bias",
    "blocks.10.mlp.c_fc.weight",
    "blocks.10.ln_1.weight",
    "head.weight",
    "head.bias",
    "a-b.[x].w^",
    "weight",
    "",
]


def matched(kind: str, text: str, names: list[str] = NAMES) -> list[str]:
    [found] = match_names([(kind, text)], names)
    return [names[n] for n in sorted(found)]


@pytest.mark.parametrize(
    ("kind", "text", "names"),
    [
        ("match", "weight", ["weight"]),
        ("match", r"head\.weight", ["head.weight"]),
        ("match", r".*\.bias", ["blocks.0.attn.q_proj.bias", "head.bias"]),
        ("match", r"^head\.(weight|bias)$", ["head.weight", "head.bias"]),
        ("match", r"head\.weight|tok_emb", ["head.weight"]),
        ("match", r"blocks\.\d+\.ln_\d\.weight", ["blocks.10.ln_1.weight"]),
        ("match", r"blocks\.\d{2}\..*", ["blocks.10.mlp.c_fc.weight", "blocks.10.ln_1.weight"]),
        ("match", r"(?i)HEAD\.BIAS", ["head.bias"]),
        ("match", r"(?P<part>head)\..*", ["head.weight", "head.bias"]),
        ("match", "", [""]),
        ("search", "bias", ["blocks.0.attn.q_proj.bias", "head.bias"]),
        ("search", r"(^|\.)weight$", [name for name in NAMES if name.endswith("weight")]),
        ("search", "^weight", ["weight"]),
        ("search", r"\[x\]", ["a-b.[x].w^"]),
        ("glob", "*", NAMES),
        ("glob", "head.*", ["head.weight", "head.bias"]),
        ("glob", "*.bias", ["blocks.0.attn.q_proj.bias", "head.bias"]),
        ("glob", "bias", []),
        ("glob", "blocks.*.ln_?.weight", ["blocks.10.ln_1.weight"]),
        ("glob", "blocks.[0-9].*", ["blocks.0.attn.q_proj.weight", "blocks.0.attn.q_proj.bias"]),
        ("glob", "blocks.[!0-9]*", []),
        ("glob", "[!bh]*", ["tok_emb.weight", "a-b.[x].w^", "weight"]),
        ("glob", "[th]*", ["tok_emb.weight", "head.weight", "head.bias"]),
        ("glob", "[a-b]-?.[[]x[]].w[^]", ["a-b.[x].w^"]),
        ("glob", "a[-x]b*", ["a-b.[x].w^"]),
        ("glob", "a[x-]b*", ["a-b.[x].w^"]),
        ("glob", "a-b.[x", []),
        ("glob", "a-b.[[]x*", ["a-b.[x].w^"]),
        ("glob", "hea[z-a].weight", []),
        ("glob", "hea[!z-a].weight", ["head.weight"]),
        ("glob", r"head\.weight", []),
        # What RE2 refuses.
        ("match", r"(?!head).*\.bias", ["blocks.0.attn.q_proj.bias"]),
        ("match", r".*(?<!proj)\.bias", ["head.bias"]),
        ("match", r"(?=.*proj).*(?=bias).*", ["blocks.0.attn.q_proj.bias"]),
        ("search", r"(\d)\1", []),
        ("search", r"(\w)_.*\1", ["blocks.10.mlp.c_fc.weight"]),
        ("search", r"(.)\.\1", []),
        ("search", "(?<=q_)proj", ["blocks.0.attn.q_proj.weight", "blocks.0.attn.q_proj.bias"]),
        ("match", r"head\.bias\Z", ["head.bias"]),
        ("match", "(?:x{500}){3}|(?=h)head.bias", ["head.bias"]),
        # What RE2 takes for plain text.
        ("match", "h?(?:[a-e]){,3}.weight", ["head.weight"]),
        ("match", r"[{,3}]?head\.bias", ["head.bias"]),
    ],
)
def test_what_matches(kind: str, text: str, names: list[str]) -> None:
    assert matched(kind, text) == names


def test_each_pattern_has_its_own_answer() -> None:
    wanted = [("glob", "*.bias"), ("match", r"(?=h).*"), ("search", "q_"), ("search", "^h"), ("glob", "head.*")]
    found = match_names(wanted, NAMES)
    assert found == [match_names([one], NAMES)[0] for one in wanted]
    assert match_names([], NAMES) == []
    assert match_names(wanted, []) == [set()] * 5
    assert match_names([("match", "nothing")], NAMES) == [set()]  # RE2's sets say None for that


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("match", "(", "the pattern does not compile: missing ), unterminated subpattern at position 0"),
        ("match", "a)", "the pattern does not compile: unbalanced parenthesis at position 1"),
        ("search", "[a", "the pattern does not compile: unterminated character set at position 0"),
        ("search", "*a", "the pattern does not compile: nothing to repeat at position 0"),
        ("match", "[z-a]", "the pattern does not compile: bad character range z-a at position 1"),
        ("match", r"(?=x)\p{L}", r"the pattern does not compile: bad escape \p at position 5"),
        ("match", "(?R)", "the pattern does not compile: unknown extension ?R at position 1"),
        ("match", "(a{500}){500}", "the repetitions of the pattern multiply to more than 100000"),
        ("match", "((a{50}){50}){50}", "the repetitions of the pattern multiply to more than 100000"),
        ("match", "(a{,500}){,500}", "the repetitions of the pattern multiply to more than 100000"),
        ("match", "(a{1,500}){2,500}", "the repetitions of the pattern multiply to more than 100000"),
        ("search", "(?=.*){1000000000}x", "the repetitions of the pattern multiply to more than 100000"),
        ("search", f"a{{{'9' * 5000}}}", "the repetitions of the pattern multiply to more than 100000"),
        ("search", f"({'abcde' * 50}){{90000}}", "the pattern does not compile: it is too large or too deeply nested"),
        ("match", "(?=a)" + "(" * 5000 + ")" * 5000, "the pattern does not compile: it is too large or too deeply nested"),
        ("glob", "*" * 100_001, "the pattern is longer than 100000 characters"),
        ("match", "\ud800", "the pattern is not Unicode: it holds half of a surrogate pair"),
        ("glob", "[\udfff]", "the pattern is not Unicode: it holds half of a surrogate pair"),
    ],
)
def test_what_is_refused(kind: str, text: str, why: str) -> None:
    for attempt in (lambda: check(kind, text), lambda: match_names([("glob", "*"), (kind, text)], NAMES)):
        with pytest.raises(InitConfError) as caught:
            attempt()
        assert str(caught.value) == why


LONG = [f"blocks.{n}." + "a" * 60 for n in range(50)]


def test_a_pattern_that_takes_too_long_is_an_error_after_a_second() -> None:
    text = r"(?=x)|((a|aa|.)+)+\1\1!"
    with pytest.raises(InitConfError) as caught:  # it would take years
        match_names([("glob", "*"), ("search", text)], LONG)
    assert str(caught.value) == (
        f"the pattern {text!r} took more than 1 s over 50 names; write it without nested "
        "repetitions, lookaround or backreferences, so that RE2 can take it"
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("search", r"((.+)+)+\1!"),
        ("match", r"(?!x)(a*)*(a*)*(a*)*!"),
        ("match", r"(?=.)(.*)*(.*)*\2\1!"),
        ("match", r"(.|..)*(?<=b)!"),
    ],
)
def test_the_second_is_for_all_names_together(kind: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.05)
    try:
        assert matched(kind, text, LONG) == []  # `regex` is clever enough
    except InitConfError as error:
        assert "took more than 0.05 s over 50 names" in str(error)  # noqa: PT017  either is right


@pytest.mark.parametrize(
    ("text", "count"),
    [("(a+)+$", 51), ("(a|aa)+$", 51), ("(.*)*b", 50), ("((a{10}){10}){9}", 1), ("(a?){500}a{500}", 1), ("(x+x+)+y", 0)],
)
def test_what_ruins_others_is_linear_in_re2(text: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(patterns, "_slow")  # nothing is left to the clock
    assert len(matched("search", text, [*LONG, "a" * 5000])) == count


def test_two_thousand_patterns() -> None:
    names = [f"blocks.{i}.{part}.weight" for i in range(500) for part in ("q", "k", "v", "out")]
    wanted = [("match", rf"blocks\.{i}\.(q|k|v|out)\.weight") for i in range(1000)]
    wanted += [("search", rf"(^|\.){i}\.q\.") for i in range(500)] + [("glob", f"*.{i}.[!qk]*") for i in range(500)]
    found = match_names(wanted, names)
    assert [len(matches) for matches in found] == [4] * 500 + [0] * 500 + [1] * 500 + [2] * 500
    assert found[499] == {1996, 1997, 1998, 1999}


def test_sets_that_do_not_fit_the_memory_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [("search", rf"[ab]{{{i}}}x?(q|k)\.w") for i in range(1, 60)]
    names = ["a" * i + "q.weight" for i in range(60)]
    expected = match_names(wanted, names)
    monkeypatch.setattr(patterns, "_MAX_MEMORY", 60_000)
    sizes = [len(part) for part, _ in patterns._sets("search", [text for _, text in wanted])]
    assert len(sizes) > 1
    assert sum(sizes) == 59
    assert match_names(wanted, names) == expected


def test_captured() -> None:
    assert captured(r"blocks\.(\d+)\..*", NAMES) == {1: "0", 2: "0", 3: "10", 4: "10"}
    assert captured(r"(?!head)(\w+)\.weight", NAMES) == {0: "tok_emb"}


# --- random names and patterns ---------------------------------------------------------------------------------------

names = st.lists(st.text("ab.-!^[]*?\\01", max_size=8), max_size=12)
regexes = st.recursive(
    st.sampled_from([r"\.", r"\d", r"\w", "a", "b", "0", ".", "[ab]", "[^a.]", "^", "$", r"\b", "(?=b)", "(?!a)", "(?<=a)"]),
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map("|".join)
        | st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,3}", "{,2}"])).map(lambda x: f"(?:{x[0]}){x[1]}")
        | inner.map("({})".format)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(regexes, names)
def test_regexes_match_what_pythons_match(text: str, names: list[str]) -> None:
    whole, anywhere = match_names([("match", text), ("search", text)], names)
    assert whole == {n for n, name in enumerate(names) if re.fullmatch(text, name)}
    assert anywhere == {n for n, name in enumerate(names) if re.search(text, name)}


@settings(max_examples=300)
@given(st.text("ab.-!^[]*?\\01", min_size=1, max_size=10), names)
def test_globs_match_what_fnmatch_matches(text: str, names: list[str]) -> None:
    assert match_names([("glob", text)], names) == [{n for n, x in enumerate(names) if fnmatch.fnmatchcase(x, text)}]


PIECES = (
    r"a b . \ [ ] ( ) | * + ? { } ^ $ 0 9 , - ! : = < > # P & ~ (?= (?! (?<= (?<! \1 (?i) (?x) (?P<a> {1000} {,9} \L<a> \N{ "
    r"(?R) (?(DEFINE) (?| {e<=1} [[:alpha:]] \p{L} \C (?> *+ (?1) [a--b] (?V1) \X (?b) (*FAIL) \K (?&a) \Q \E \z \Z"
).split()


@settings(max_examples=300)
@given(
    st.sampled_from(["match", "search", "glob"]),
    st.text(max_size=20) | st.lists(st.sampled_from([*PIECES, "\ud800", "\0", "\n"]), max_size=10).map("".join),
)
def test_any_text_is_matched_or_refused(kind: str, text: str) -> None:
    try:
        check(kind, text)
    except InitConfError:
        return
    assert match_names([(kind, text)], ["a", "ab.b", "b.weight\n", "", "é"])[0] <= set(range(5))
