"""Whole models: from the class to initialised weights, and planning for one that no memory would hold.

    python benchmarks/models.py [--quick]

GPT-2 large is built as transformers builds it, where transformers is installed; else a GPT of the same size of torch.nn alone.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from measuring import Row, extra_memory, main, seconds
from torch import nn

import initconf

try:
    import transformers
except ImportError:
    transformers = None

TRUNCATED = {
    "defaults": ["gpt2"],
    "initializer": {"name": "truncated_normal", "std": 0.02},
}


def built(model: nn.Module) -> Row:
    """Which class it really was, from where."""
    kind, version = type(model), transformers and transformers.__version__
    values = sum(p.numel() for p in model.parameters())
    return {"model": f"{kind.__module__}.{kind.__qualname__}", "transformers": version, "values": values}


def gpt2_large(quick: bool) -> nn.Module:
    words = 50257
    width, heads, layers = (16, 2, 2) if quick else (1280, 20, 36)
    if transformers is not None:
        config = transformers.GPT2Config(vocab_size=words, n_embd=width, n_head=heads, n_layer=layers)
        return transformers.GPT2LMHeadModel(config)
    from initconf.lab.models import GPT

    return GPT(vocab_size=words, context=1024, n_layer=layers, n_head=heads, d_model=width, tie=True)


def skipped(quick: bool) -> nn.Module:
    with initconf.skip_init():
        return gpt2_large(quick)


def from_class_to_weights(quick: bool) -> list[Row]:
    """The constructor with its own initialisation, and that with a loop of trunc_normal_, against skip_init and initconf."""
    row = built(skipped(quick))
    eager = seconds(lambda: gpt2_large(quick), 3)

    def with_loop() -> None:
        model = gpt2_large(quick)
        for p in model.parameters():
            if p.ndim > 1:
                nn.init.trunc_normal_(p, 0, 0.02, -0.04, 0.04)

    start = time.perf_counter()
    with_loop()  # once: it takes half a minute, and what is measured is in the tens
    loop = time.perf_counter() - start
    alone = seconds(lambda: skipped(quick), 3)
    rows = []
    laws: list[tuple[str, Any, float, int]] = [("normal", "gpt2", eager, 3), ("truncated_normal", TRUNCATED, loop, 1)]
    for law, said, theirs, runs in laws:
        loaded = initconf.load(said)
        ours = seconds(lambda s=loaded: initconf.initialize(skipped(quick), s), 3)
        found = {"law": law, "eager s": theirs, "runs": runs, "initconf s": ours, "skip_init alone s": alone}
        rows.append(row | found | {"values/s": row["values"] / ours, "times as fast": theirs / ours})
    return rows


def seventy_billion(quick: bool) -> list[Row]:
    """Llama's 70-billion-parameter configuration on meta: survey, compile, print."""
    if transformers is None:
        return []
    config = transformers.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=2 if quick else 80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    spec = initconf.load("gpt2")

    def said() -> str:
        return str(initconf.compile(model, spec))

    found = {"extra MiB": extra_memory(said), "lines": said().count("\n") + 1, "compile and print s": seconds(said, 3)}
    return [built(model) | found]


if __name__ == "__main__":
    main("models", __doc__, {"planning on meta": seventy_billion, "gpt2 large": from_class_to_weights})
