"""Whole models: from the class to initialised weights, and planning for one that no memory would hold.

    python benchmarks/models.py [--layers N]

GPT-2 large is built as transformers builds it, where transformers is installed; else a GPT of the same size of torch.nn alone.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import torch
from measuring import cores, save, seconds, table
from torch import nn

import initconf

try:
    import transformers
except ImportError:
    transformers = None

GPT2 = {"init": "gpt2"}
TRUNCATED = {
    "defaults": ["gpt2"],
    "initializer": {"name": "truncated_normal", "std": 0.02},
}


def gpt2_large(layers: int) -> nn.Module:
    if transformers is not None:
        config = transformers.GPT2Config(n_embd=1280, n_head=20, n_layer=layers)
        return transformers.GPT2LMHeadModel(config)
    from initconf.lab.models import GPT

    return GPT(vocab_size=50257, context=1024, n_layer=layers, n_head=20, d_model=1280, tie=True)


def skipped(layers: int) -> nn.Module:
    with initconf.skip_init():
        return gpt2_large(layers)


def from_class_to_weights(layers: int) -> list[dict[str, Any]]:
    count = sum(p.numel() for p in skipped(layers).parameters())
    eager = seconds(lambda: gpt2_large(layers), 3)

    def with_loop() -> None:
        model = gpt2_large(layers)
        for p in model.parameters():
            if p.ndim > 1:
                nn.init.trunc_normal_(p, 0, 0.02, -0.04, 0.04)

    start = time.perf_counter()
    with_loop()  # once: it takes minutes, and what is measured is in the tens
    loop = time.perf_counter() - start
    rows = []
    for name, spec, theirs in (("normal", "gpt2", eager), ("truncated normal", TRUNCATED, loop)):
        loaded = initconf.load(spec)
        ours = seconds(lambda s=loaded: initconf.initialize(skipped(layers), s), 3)
        row = {"values": count, "law": name, "eager s": theirs, "initconf s": ours, "times as fast": theirs / ours}
        rows.append(row | {"skip_init alone s": seconds(lambda: skipped(layers), 3)})
    return rows


def seventy_billion() -> list[dict[str, Any]]:
    """Llama's 70-billion-parameter configuration on meta: survey, compile, print."""
    if transformers is None:
        return []
    config = transformers.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    text = str(initconf.compile(model, "gpt2"))
    taken = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [
        {
            "model": "Llama 70B, on meta",
            "values": sum(p.numel() for p in model.parameters()),
            "lines": text.count("\n") + 1,
            "compile and print s": taken,
            "memory before MiB": before // 1024,
            "after MiB": used // 1024,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=36, help="of GPT-2 large, which has 36")
    args = parser.parse_args()
    parts = {"planning": seventy_billion()}
    print(f"two threads have {cores():.2f} cores")
    parts["gpt2 large"] = from_class_to_weights(args.layers)
    for name, rows in parts.items():
        print(f"\n{name}")
        table(rows)
    print(f"\ntwo threads have {cores():.2f} cores")
    save("models", [{"part": name, **row} for name, rows in parts.items() for row in rows])


if __name__ == "__main__":
    main()
