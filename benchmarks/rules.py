"""How long rules take: 500 of them over 100,000 parameters, with names of 40 and of 1,000 characters.

    python benchmarks/rules.py [--quick]

The goal is a compilation in less than 3 s. Python's `re` and the `regex` package with a time limit are the yardsticks of
matching alone; they are held against a hundredth of the names, and multiplied.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import regex
import torch
from measuring import Row, extra_memory, main, seconds
from torch import nn

import initconf
from initconf import patterns

EACH = 200
"""Parameters for each rule: as many blocks of 20 layers in ten stages as there are rules."""


def model(rules: int, long: bool) -> nn.Module:
    """Linear layers without bias, twenty to a block; `long`: with names of 1,000 characters."""

    def name(word: str, at: int) -> str:
        return f"{word}_{at}".ljust(329, "x") if long else f"{word}_{at}"

    with torch.device("meta"):
        stages = {}
        for s in range(10):
            blocks = {}
            for b in range(rules):
                blocks[name("block", b)] = nn.ModuleDict({name("layer", i): nn.Linear(2, 2, bias=False) for i in range(20)})
            stages[name("stage", s)] = nn.ModuleDict(blocks)
        return nn.ModuleDict(stages)


def spec(rules: int, slow: int = 0) -> dict[str, Any]:
    """Rules of every kind, `slow` of them with a lookahead, which RE2 refuses. The last ones win: each has to be tried."""
    made: dict[str, dict[str, Any]] = {}
    for i in range(rules - slow):
        selector = (
            {"match": rf"stage_\d+x*\.block_{i}x*\.layer_(\d|1[0-5])x*\.weight"},
            {"search": rf"block_{i}x*\.layer_[02468]x*\.(weight|bias)$"},
            {"glob": f"*.block_{i}*.layer_1?*.weight"},
            {"search": rf"(^|\.)block_{i}(x|\.)", "ndim": 2, "module": "Linear"},
        )[i % 4]
        made[f"rule_{i}"] = {**selector, "initializer": {"name": "normal", "std": 0.01 + i / 1e5}}
    made |= {f"slow_{i}": {"match": rf"(?!stage_{i}x*\.).*\.block_{i}x*\..*", "initializer": "zeros"} for i in range(slow)}
    return {"initializer": "he_normal", "rules": made}


def matching(quick: bool) -> list[Row]:
    """Patterns against names, without a model."""
    rules, rows = 5 if quick else 500, []
    for long in (False, True):
        names = [name for name, _ in model(rules, long).named_parameters()]
        few = names[::100]
        patterns_of = [rule.items() for rule in spec(rules)["rules"].values()]
        wanted = [(kind, text) for rule in patterns_of for kind, text in rule if kind in ("match", "search", "glob")]
        texts = [(kind, patterns._as_regex(kind, text)) for kind, text in wanted]  # type: ignore[arg-type]

        def each(package: Any, few: list[str] = few, texts: list[tuple[str, str]] = texts, **limit: float) -> None:
            for kind, text in texts:
                compiled = package.compile(text)
                find = compiled.search if kind == "search" else compiled.fullmatch
                for name in few:
                    find(name, **limit)

        works: dict[str, tuple[Callable[[], object], int]] = {
            "match_names": (lambda w=wanted, n=names: patterns.match_names(w, n), 1),
            "re, extrapolated": (lambda e=each: e(re), len(names) // len(few)),
            "regex with a time limit, extrapolated": (lambda e=each: e(regex, timeout=1.0), len(names) // len(few)),
        }
        for what, (work, scale) in works.items():
            runs = 3 if scale == 1 else 1
            rows.append(_names(names) | {"patterns": len(wanted), "what": what, "s": scale * seconds(work, runs), "runs": runs})
    return rows


def compiling(quick: bool) -> list[Row]:
    """Whole compilations."""
    rules, rows = 5 if quick else 500, []
    specs = {
        "no rules": {"initializer": "he_normal"},
        f"{rules} rules": spec(rules),
        f"{rules} rules, 3 with a lookahead": spec(rules, 3),
    }
    for long in (False, True):
        net = model(rules, long)
        names = [name for name, _ in net.named_parameters()]
        for what, said in specs.items():
            loaded = initconf.load(said)
            memory = extra_memory(lambda m=net, s=loaded: initconf.compile(m, s))
            taken = seconds(lambda m=net, s=loaded: initconf.compile(m, s), 3)
            rows.append(_names(names) | {"what": what, "s": taken, "extra MiB": memory})
    return rows


def _names(names: list[str]) -> Row:
    return {"names": len(names), "characters": round(sum(map(len, names)) / len(names))}


if __name__ == "__main__":
    main("rules", __doc__, {"matching": matching, "compiling": compiling})
