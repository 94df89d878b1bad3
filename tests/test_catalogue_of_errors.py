"""The catalogue of errors, held against the code: every wrong configuration, with the whole text of what is said of it."""

import re
from pathlib import Path

import pytest

import initconf
from initconf import CompileError, SpecError, load
from initconf.loading import catalogue, rule_files, schemes
from tests import small_models
from tests.small_models import untouched

CATALOGUE = Path(__file__).with_name("catalogue_of_errors.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^```yaml ?(\w*)\n(.*?)^```\n```text\n(.*?)\n```$", CATALOGUE, flags=re.MULTILINE | re.DOTALL)
RAW = re.compile(
    # Words of pydantic, OmegaConf, Hydra and ANTLR, which are for those who program with them.
    r"pydantic|[Ii]nput should|validation error|omegaconf|DictConfig|ListConfig|NoneType|full_key|object_type|Traceback|"
    r"Interpolation key|resolving interpolation|Recursive interpolation|expecting|no viable|token recognition|Could not"
)


def test_every_block_of_the_catalogue_is_read() -> None:
    assert len(ROWS) == CATALOGUE.count("```") / 4
    assert len(ROWS) >= 100
    assert len({text for _, text, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("make", "text", "error"), ROWS, ids=[" ".join(text.split()) for _, text, _ in ROWS])
def test_what_is_said(make: str, text: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    if make:
        spec, model = load("mine.yaml"), getattr(small_models, make)()
        with untouched(model), pytest.raises(CompileError) as caught:
            initconf.initialize(model, spec)
    else:
        with pytest.raises(SpecError) as caught:
            load("mine.yaml")
    lists = (
        {"SCHEMES": schemes(), "RULE FILES": rule_files(), "SINGLE RULES": [*catalogue("init/rule")]}
        if "there are" in error
        else {}
    )
    for word, names in lists.items():
        error = error.replace(word, ", ".join(names))
    assert str(caught.value) == error
    for problem in caught.value.problems:
        assert problem.source or problem.text.startswith(("not YAML", "no rule claims", "not a mapping of settings"))
        assert not RAW.search(problem.text)
