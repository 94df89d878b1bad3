"""Everything that may be typed after `python train.py`, as it is printed: split by a real bash, composed by Hydra, and read.

One bash splits all lines of the tables, in which `python` is a function that prints its words. Whole processes are in
test_hydra.py and test_readme.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

import initconf
from initconf.loading import schemes

VERSION = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}
ROLES = "norm_scale norm_shift bias embedding position recurrent gate_scale state other".split()
HE = [*ROLES, "head"]
ZERO_BIAS = {"role": ("bias",), "initializer": "zeros", "optional": True}

# What is typed, and what comes of it: values by their path in the spec, of which a mapping gives the keys in their order.
FORMS: list[tuple[str, dict[str, Any]]] = [
    # Schemes and settings.
    ("python train.py init=he", {"rules": HE, "mode": "fan_in", "nonlinearity": "relu"}),
    ("python train.py", {"rules": HE, "mode": "fan_in"}),
    ("python train.py init=gpt2 init.seed=3 init.rules.head.gain=0.1", {"seed": 3, "rules.head.gain": 0.1}),
    ("python train.py init=lecun init.distribution=uniform", {"distribution": "uniform", "nonlinearity": "linear"}),
    ("python train.py init.gain=1e-3", {"gain": 0.001}),
    ("python train.py init.nonlinearity=null", {"nonlinearity": None}),
    ("""python train.py 'init.nonlinearity={name: leaky_relu, negative_slope: 0.2}'""", {"nonlinearity.negative_slope": 0.2}),
    ("python train.py init.gain='${width}'", {"gain": 3}),
    (
        """python train.py 'init.rules.out={glob: *.out.weight, gain: "1/sqrt(2*n_layers)"}'""",
        {"rules.out.glob": "*.out.weight"},
    ),
    (
        """python train.py init.rules.out.glob='*.out.*' 'init.rules.out.gain="1/sqrt(2*n_layers)"'""",
        {"rules.out.gain": "1/sqrt(2*n_layers)"},
    ),
    # Rule files.
    (
        """python train.py 'init/rules=[norms,embeddings,head]'""",
        {"rules": ["norm_scale", "norm_shift", "embedding", "position", "head"]},
    ),
    ("""python train.py 'init/rules=[head,roles]'""", {"rules": ["head", *ROLES]}),
    ("""python train.py 'init/rules=[roles,my_rules]'""", {"rules": [*ROLES, "stem"], "rules.stem.gain": 3}),
    ("python train.py +init/rules@init.rules=my_rules", {"rules": [*HE, "stem"]}),
    ("""python train.py '+init/rules@init.rules=[rezero,my_rules]'""", {"rules": [*HE, "rezero", "stem"]}),
    ("python train.py init/rules=head", {"rules": ["head"]}),
    ("""python train.py 'init/rules=[]'""", {"rules": []}),
    ("python train.py init/rules=none", {"rules": []}),
    ("""python train.py init=glorot 'init/rules=[head]'""", {"rules": ["head"], "mode": "fan_avg"}),
    # Single rules.
    ("python train.py +init/rule@init.rules.mine=zero_bias", {"rules": [*HE, "mine"], "rules.mine.role": ("bias",)}),
    ("python train.py +init/rule@init.rules.out=zeros init.rules.out.glob=out.*", {"rules.out.initializer": "zeros"}),
    (
        "python train.py init.rules.frozen.inside=Backbone +init/rule@init.rules.frozen=keep",
        {"rules.frozen.initializer": "keep"},
    ),
    ("python train.py +init/rule@init.rules.head=small_normal", {"rules": HE, "rules.head.initializer": ["name", "std"]}),
    # Rules.
    ("python train.py init.rules.head.gain=0.1", {"rules": HE, "rules.head.gain": 0.1}),
    (
        r"""python train.py 'init.rules.new={match: "^head\.weight$", initializer: zeros}'""",
        {"rules": [*HE, "new"], "rules.new.match": r"^head\.weight$"},
    ),
    (r"""python train.py '+init.rules.new={match: "^head\.weight$", initializer: zeros}'""", {"rules": [*HE, "new"]}),
    (r"""python train.py '++init.rules.new={match: "^head\.weight$", initializer: zeros}'""", {"rules": [*HE, "new"]}),
    (
        "python train.py init.rules.new.match=head.weight init.rules.new.initializer=zeros",
        {"rules": [*HE, "new"], "rules.new.initializer": "zeros"},
    ),
    ("python train.py init.rules.bias=null", {"rules": HE, "rules.bias": None}),
    ("""python train.py '~init.rules.bias'""", {"rules": [name for name in HE if name != "bias"]}),
    (
        """python train.py '~init.rules.bias' '+init.rules.bias={role: bias, initializer: ones}'""",
        {"rules": [*(name for name in HE if name != "bias"), "bias"]},
    ),
    ("python train.py init.rules.bias.initializer=ones", {"rules": HE, "rules.bias.initializer": "ones"}),
    (
        """python train.py 'init.rules.both={role: [weight, embedding], gain: 2}'""",
        {"rules.both.role": ("weight", "embedding")},
    ),
    ("""python train.py 'init.rules.head.expect=[1,3]'""", {"rules.head.expect": (1, 3)}),
    (
        "python train.py init.rules.head.priority=-1 init.rules.head.optional=true",
        {"rules.head.priority": -1, "rules.head.optional": True},
    ),
    ("python train.py init.rules.my-rule.glob=x", {"rules.my-rule.glob": "x"}),
    # A string replaces an initializer; a mapping is merged into one.
    ("python train.py init.rules.embedding.initializer=zeros", {"rules.embedding.initializer": "zeros"}),
    (
        """python train.py 'init.rules.embedding.initializer={std: 1}'""",
        {"rules.embedding.initializer.name": "normal", "rules.embedding.initializer.std": 1},
    ),
    ("python train.py init.rules.embedding.initializer.std=1", {"rules.embedding.initializer.std": 1}),
    ("""python train.py 'init.rules.bias.initializer={name: normal, std: 0.02}'""", {"rules.bias.initializer.std": 0.02}),
    # Patterns: one level of quotes where Hydra needs none, and two where it does.
    (r"""python train.py init.rules.x.search='\.bias$'""", {"rules.x.search": r"\.bias$"}),
    (r"""python train.py init.rules.x.search='.*norm.*\.weight'""", {"rules.x.search": r".*norm.*\.weight"}),
    ("""python train.py init.rules.x.search='q|k'""", {"rules.x.search": "q|k"}),
    (r"""python train.py init.rules.x.search='\d+\w+a+b?c*'""", {"rules.x.search": r"\d+\w+a+b?c*"}),
    ("""python train.py init.rules.x.search='weight$'""", {"rules.x.search": "weight$"}),
    ("""python train.py init.rules.x.search='a@b'""", {"rules.x.search": "a@b"}),
    (
        r"""python train.py init.rules.lora.search='\.lora_B\.' init.rules.lora.initializer=zeros""",
        {"rules.lora.search": r"\.lora_B\."},
    ),
    (r"""python train.py 'init.rules.x.search="^a!~#<&;b"'""", {"rules.x.search": "^a!~#<&;b"}),
    (r"""python train.py 'init.rules.x.match="h\.(q|k)\..*"'""", {"rules.x.match": r"h\.(q|k)\..*"}),
    (r"""python train.py 'init.rules.x.match="h\.[0-9]\d{1,3}(?=x)=.*"'""", {"rules.x.match": r"h\.[0-9]\d{1,3}(?=x)=.*"}),
    (
        r"""python train.py 'init.rules.qkv.match="^blocks\.(\d+)\.attn\.[qkv]_proj\.weight$"' \
            init.rules.qkv.initializer=zeros""",
        {"rules.qkv.match": r"^blocks\.(\d+)\.attn\.[qkv]_proj\.weight$", "rules.qkv.initializer": "zeros"},
    ),
    (
        """python train.py 'init.rules.emb={glob: *.emb*.weight, initializer: {name: normal, std: 0.02}}'""",
        {"rules.emb.glob": "*.emb*.weight"},
    ),
    ("python train.py init.rules.x.glob=*.bias", {"rules.x.glob": "*.bias"}),
    ("python train.py init.rules.x.glob=blocks.*.attn.*.weight", {"rules.x.glob": "blocks.*.attn.*.weight"}),
    ("""python train.py 'init.layers="h\\.(\\d+)\\..*"'""", {"layers": r"h\.(\d+)\..*"}),
    # Experiments, and what is stronger than they.
    (
        "python train.py +experiment=small",
        {"mode": "fan_avg", "rules": ["norm_scale", "norm_shift", "head"], "rules.norm_shift": None, "rules.head.gain": 0.5},
    ),
    ("python train.py +experiment=small init/rules=biases", {"rules": ["bias", "norm_shift", "head"]}),
    ("python train.py +experiment=small init=he init.rules.head.gain=2", {"mode": "fan_in", "rules.head.gain": 2}),
]

# Two specs in one configuration: what becomes of each.
TWO: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("python gan.py", {"mode": "fan_in"}, {"initializer": "orthogonal"}),
    ("python gan.py init@gen.init=glorot", {"mode": "fan_avg"}, {"initializer": "orthogonal"}),
    ("""python gan.py 'init/rules@gen.init.rules=[head]'""", {"rules": ["head"]}, {"rules": HE}),
    ("python gan.py gen.init.gain=2 disc.init.rules.bias=null", {"gain": 2}, {"gain": None, "rules.bias": None}),
    ("python gan.py +init/rules@disc.init.rules=my_rules", {"rules": HE}, {"rules": [*HE, "stem"]}),
    ("python gan.py +init/rule@disc.init.rules.b=zero_bias", {"rules": HE}, {"rules": [*HE, "b"]}),
]

# Sweeps: how many jobs, and the values of the first and of the last.
SWEEPS: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    (
        "python train.py -m init=he,glorot,orthogonal init.gain=0.5,1,2",
        9,
        {"gain": 0.5},
        {"initializer": "orthogonal", "gain": 2},
    ),
    ("""python train.py -m 'init=glob(*)'""", len(schemes()), {}, {}),
    ("""python train.py -m 'init=glob(*,exclude=[alf,torch*])'""", len(schemes()) - 3, {"initializer": "variance_scaling"}, {}),
    (
        """python train.py -m 'init.rules.bias.initializer=zeros,{name:normal,std:0.02},ones'""",
        3,
        {"rules.bias.initializer": "zeros"},
        {"rules.bias.initializer": "ones"},
    ),
    ("""python train.py -m 'init/rules=[roles],[roles,head],none'""", 3, {"rules": ROLES}, {"rules": []}),
    (r"""python train.py -m 'init.rules.x.match="\d{1,3}","a"'""", 2, {"rules.x.match": r"\d{1,3}"}, {"rules.x.match": "a"}),
    (
        """python train.py -m 'init.seed=range(0,3)' init.gain='choice(1,2)'""",
        6,
        {"seed": 0, "gain": 1},
        {"seed": 2, "gain": 2},
    ),
]

# What Hydra refuses, and initconf.
REFUSED: list[tuple[str, str]] = [
    ("""python train.py init.rules.x.search='^a'""", "LexerNoViableAltException"),
    ("""python train.py init.rules.x.search='(a)'""", "extraneous input '('"),
    ("""python train.py init.rules.x.search='a{2}'""", "mismatched input '{'"),
    ("""python train.py init.rules.x.search='a=b'""", "mismatched input '='"),
    ("""python train.py init.rules.x.search='[0-9]'""", "YAML read the pattern as a list"),
    ("python train.py init/rules=null", "Config group override must be a string or a list"),
    ("python train.py init=hee", "Could not find 'init/hee'"),
    ("python train.py +init/rules@init.rules.xyz=head", "a file of several rules is added with +init/rules@init.rules=NAME"),
    ("python train.py init.rules.hed.gain=0.1", "did you mean the rule 'head'?"),
    ("python train.py init.rules.a.b.gain=0.1", "'b' is not a key of a rule"),
    ("python train.py init.gian=1", "did you mean 'gain'?"),
    ("python train.py init.rules.bias.initializer.std=3", "the initializer mapping has no name"),
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An application's configuration, with which this process is a Hydra application."""
    conf = tmp_path_factory.mktemp("app") / "conf"
    files = {
        "config.yaml": "defaults: [{init: he}, _self_]\nwidth: 3\n",
        "gan.yaml": "defaults: [{init@gen.init: he}, {init@disc.init: orthogonal}, _self_]\n",
        "experiment/small.yaml": "# @package _global_\n"
        "defaults:\n  - override /init: glorot\n  - override /init/rules: [norms]\n"
        "init:\n  rules:\n    norm_shift: null\n    head: {glob: head.weight, gain: 0.5}\n",
        "init/rules/my_rules.yaml": "stem: {match: 'stem\\.weight', gain: 3}\n",
    }
    for name, text in files.items():
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).write_text(text)
    with initialize_config_dir(str(conf), **VERSION):
        yield conf.parent


@pytest.fixture(scope="module")
def typed(app: Path) -> dict[str, list[str]]:
    """The words of each line, as bash hands them over."""
    lines = [row[0] for table in (FORMS, TWO, SWEEPS, REFUSED) for row in table]
    script = "python() { printf '%s\\0' \"$@\"; printf '\\1\\0'; }\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=app, capture_output=True, text=True, check=True)
    words = [part.split("\0")[1:-1] for part in done.stdout.split("\1\0")[:-1]]
    assert len(words) == len(lines)
    return dict(zip(lines, words, strict=True))


def value(spec: Any, path: str) -> Any:
    for part in path.split("."):
        spec = spec[part] if isinstance(spec, dict) else getattr(spec, part)
    return [*spec] if isinstance(spec, dict) else spec


def holds(node: Any, expected: dict[str, Any]) -> None:
    spec = initconf.load(node)
    assert {path: value(spec, path) for path in expected} == expected


@pytest.mark.parametrize(("line", "expected"), FORMS, ids=[row[0] for row in FORMS])
def test_what_is_typed(line: str, expected: dict[str, Any], typed: dict[str, list[str]]) -> None:
    holds(compose("config", typed[line]).init, expected)


@pytest.mark.parametrize(("line", "generator", "discriminator"), TWO, ids=[row[0] for row in TWO])
def test_two_specs(line: str, generator: dict[str, Any], discriminator: dict[str, Any], typed: dict[str, list[str]]) -> None:
    cfg = compose("gan", typed[line])
    holds(cfg.gen.init, generator)
    holds(cfg.disc.init, discriminator)


@pytest.mark.parametrize(("line", "jobs", "first", "last"), SWEEPS, ids=[row[0] for row in SWEEPS])
def test_sweeps(line: str, jobs: int, first: dict[str, Any], last: dict[str, Any], typed: dict[str, list[str]]) -> None:
    flag, *words = typed[line]
    assert flag == "-m"
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    (batch,) = BasicSweeper.split_arguments(parser.parse_overrides(words), None)
    assert len(batch) == jobs
    holds(compose("config", [*batch[0]]).init, first)
    holds(compose("config", [*batch[-1]]).init, last)


@pytest.mark.parametrize(("line", "why"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused(line: str, why: str, typed: dict[str, list[str]]) -> None:
    with pytest.raises(Exception) as caught:  # of some Hydra's own, before initconf sees it
        initconf.load(compose("config", typed[line]).init)
    assert why in str(caught.value)
