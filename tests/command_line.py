"""A user at the command line: the folder they stand in, the words they type, and what comes of them."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import initconf
from initconf.cli import main

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8, tie=False):
        super().__init__()
        self.emb = nn.Embedding(5, width, padding_idx=0)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5, bias=False)
        if tie:
            self.head.weight = self.emb.weight

def build(width=8, tie=False):
    print("building a net")
    return Net(width, tie)

def parts():
    net = nn.Module()
    net.conv = nn.Conv2d(8, 12, 3, stride=2, groups=2)
    net.up = nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2)
    net.attn = nn.MultiheadAttention(4, 2)
    net.two = nn.Bilinear(3, 4, 5)
    net.table = nn.Embedding(7, 4)
    net.gru = nn.GRU(3, 4)
    return net

def wide():
    net = nn.Module()
    net.a_module_with_a_rather_long_name = nn.Module()
    net.a_module_with_a_rather_long_name.another_module_with_a_long_name = nn.Linear(1000, 100_000, device="meta")
    return net

ready = Net()
number = 3

def fails(): raise ValueError("no data\\nand a second line")
def stops(): raise SystemExit("usage: train.py")
def seven(): return 7
def reseeded():
    torch.manual_seed(3)
    return nn.Linear(4, 4)

class Mixer(nn.Module):  # nobody has declared its layout
    def __init__(self):
        super().__init__()
        self.mix = nn.Parameter(torch.empty(4, 4))
        self.gamma = nn.Parameter(torch.empty(4))
        self.bias = nn.Parameter(torch.empty(4))

    def forward(self, x):
        return x @ self.mix * self.gamma + self.bias

def mixers():
    return nn.Sequential(Mixer(), nn.ReLU(), Mixer(), nn.Linear(4, 2))

class Branching(nn.Module):  # symbolic tracing cannot follow it
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        h = self.stem(x)
        return self.head(x + h.relu()) if h.sum() < 1e9 else h

def normed():
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    net = nn.Sequential(weight_norm(nn.Linear(4, 6, bias=False)), spectral_norm(nn.Linear(6, 2)))
    net[1].bias.requires_grad_(False)
    return net

batch = torch.ones(2, 4)
def positional(): return (batch,)
def keywords(): return {"x": batch}
def too_wide(): return {"x": torch.ones(2, 5)}
def on_nothing(): return torch.ones(2, 4, device="meta")
def no_batch(): raise OSError("the data are gone")
def picky(**words): return Net(**words)
"""
REGISTERS = """
import initconf

@initconf.register
def tiny(site, size: float = 1e-3):
    \"\"\"Every element is tiny. Or so.\"\"\"
    return initconf.laws.Constant(size)
"""
MINE = """# yaml-language-server: $schema=schema.json
# My own scheme, which
# takes two lines to say. And more.
defaults:
  - optional schema@_here_: base
  - rules: [mine]
  - _self_
initializer: variance_scaling
mode: fan_in
distribution: uniform
nonlinearity: linear
gain: sqrt(n_layers)
"""
RULES = """norm: {role: [norm_scale, norm_shift], initializer: module_default, optional: true}
bias: {role: bias, initializer: zeros, optional: true}
emb: {role: embedding, initializer: {name: normal, std: 0.02}, optional: true}
"""
CONFIG = """
defaults: [{init: mine}, _self_]
init: {seed: "${seed}"}
seed: 7
generator: {init: {initializer: lecun_normal, unmatched: keep}}
nothing: 3
"""


def user(folder: Path) -> Iterator[Path]:
    """Where the user stands: models, a module that registers an initializer, and the configuration of an application."""
    files = {
        "cli_nets.py": NETS,
        "cli_own.py": REGISTERS,
        "cli_broken.py": "import cli_nothing_such\n",
        "cli_exits.py": "raise SystemExit(3)\n",
        "conf/init/mine.yaml": MINE,
        "conf/init/rules/mine.yaml": RULES,
        "conf/config.yaml": CONFIG,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    importlib.import_module("cli_nets")  # so that every test has it, whatever ran before
    sys.path.remove(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("cli_")]:
        del sys.modules[name]


class Run:
    """What one call of `main` did."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str):
        self.code = main(words)
        self.out, self.err = capsys.readouterr()
        self.lines = self.out.splitlines()


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, with this environment's `initconf` first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bare = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=bare | environment | {"PATH": path},
    )


def net(**arguments: Any) -> nn.Module:
    import cli_nets

    return cli_nets.Net(**arguments)


def planned(*overrides: str, scheme: str = "he", **arguments: Any) -> initconf.Plan:
    return initconf.compile(net(**arguments), initconf.load(scheme, overrides))
