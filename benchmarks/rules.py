"""How long rules take: 500 of them over 100,000 parameters, with names of 40 and of 1,000 characters.

    python benchmarks/rules.py

The goal is a compilation in less than 3 s. Python's `re` and the `regex` package with a time limit are the yardsticks of
matching alone; they are held against a hundredth of the names, and multiplied.
"""

from __future__ import annotations

import re
import resource
from typing import Any

import regex
import torch
from measuring import save, seconds, table
from torch import nn

import initconf
from initconf import patterns

RULES, PARAMETERS = 500, 100_000


def model(long: bool) -> nn.Module:
    """Linear layers without bias, twenty to a block; `long`: with names of 1,000 characters."""

    def name(word: str, at: int) -> str:
        return f"{word}_{at}".ljust(329, "x") if long else f"{word}_{at}"

    with torch.device("meta"):
        stages = {}
        for s in range(10):
            blocks = {}
            for b in range(PARAMETERS // 200):
                blocks[name("block", b)] = nn.ModuleDict({name("layer", i): nn.Linear(2, 2, bias=False) for i in range(20)})
            stages[name("stage", s)] = nn.ModuleDict(blocks)
        return nn.ModuleDict(stages)


def rules(slow: int = 0) -> dict[str, dict[str, Any]]:
    """Of every kind; `slow` of them with a lookahead, which RE2 refuses. The last ones win, so that each has to be tried."""
    made: dict[str, dict[str, Any]] = {}
    for i in range(RULES - slow):
        selector = (
            {"match": rf"stage_\d+x*\.block_{i}x*\.layer_(\d|1[0-5])x*\.weight"},
            {"search": rf"block_{i}x*\.layer_[02468]x*\.(weight|bias)$"},
            {"glob": f"*.block_{i}*.layer_1?*.weight"},
            {"search": rf"(^|\.)block_{i}(x|\.)", "ndim": 2, "module": "Linear"},
        )[i % 4]
        made[f"rule_{i}"] = {**selector, "initializer": {"name": "normal", "std": 0.01 + i / 1e5}}
    made |= {f"slow_{i}": {"match": rf"(?!stage_{i}x*\.).*\.block_{i}x*\..*", "initializer": "zeros"} for i in range(slow)}
    return made


def main() -> None:
    rows = []
    for long in (False, True):
        net = model(long)
        names = [name for name, _ in net.named_parameters()]
        wanted = [(kind, rule[kind]) for rule in rules().values() for kind in ("match", "search", "glob") if kind in rule]
        few = names[:: PARAMETERS // 1000]
        texts = [(kind, patterns._as_regex(kind, text)) for kind, text in wanted]  # type: ignore[arg-type]

        def each(package: Any, few: list[str] = few, texts: list[tuple[str, str]] = texts, **limit: float) -> None:
            for kind, text in texts:
                compiled = package.compile(text)
                find = compiled.search if kind == "search" else compiled.fullmatch
                for name in few:
                    find(name, **limit)

        size = f"{len(names):,} names of {sum(map(len, names)) / len(names):.0f}"
        scale = len(names) / len(few)
        rows.append(
            {
                "names": size,
                "what": f"match_names, {len(wanted)} patterns",
                "s": seconds(lambda w=wanted, n=names: patterns.match_names(w, n), 3),
            }
        )
        rows.append({"names": size, "what": "the same with re (extrapolated)", "s": scale * seconds(lambda e=each: e(re), 1)})
        rows.append(
            {
                "names": size,
                "what": "the same with regex, timeout=1 (extrapolated)",
                "s": scale * seconds(lambda e=each: e(regex, timeout=1.0), 1),
            }
        )
        plain = {"initializer": "he_normal"}
        for what, spec in {
            "compile, no rules": plain,
            f"compile, {RULES} rules": {**plain, "rules": rules()},
            f"compile, {RULES} rules, 3 with a lookahead": {**plain, "rules": rules(slow=3)},
        }.items():
            loaded = initconf.load(spec)
            rows.append({"names": size, "what": what, "s": seconds(lambda m=net, s=loaded: initconf.compile(m, s), 3)})
    table(rows)
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    save("rules", rows)


if __name__ == "__main__":
    main()
