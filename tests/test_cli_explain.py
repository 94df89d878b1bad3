"""`initconf explain`: what is said of one parameter, word for word."""

import json
from typing import Any

import pytest
import yaml
from torch import nn

import initconf
from initconf.cli import explain
from initconf.cli.verdicts import verdicts
from initconf.rules import match
from initconf.survey import survey

pytestmark = pytest.mark.usefixtures("here")


# --- explain ---------------------------------------------------------------------------------------------------------------

EXPLAINED = {
    "blocks.1.weight --model cli_nets:ready --config-dir conf init=mine gain=3/n_layers rules.bias=null unmatched=keep "
    "rules.last.glob=*.1.weight rules.last.initializer=lecun_uniform": """\
blocks.1.weight
  module   torch.nn.modules.linear.Linear
  role     weight
  shape    8x8 float32
  axes     out 0, in 1
  fan_in   in = 8
  fan_out  out = 8
  layer    1 of 2, counted from 0

rules, the strongest first
  last  wins                                                                     override 'init.rules.last.glob=*.1.weight'
  emb   does not match: role is weight, the rule wants embedding                 conf/init/rules/mine.yaml:3
  norm  does not match: role is weight, the rule wants norm_scale or norm_shift  conf/init/rules/mine.yaml:1
  bias  switched off                                                             override 'init.rules.bias=null'

settings (rule last)
  initializer  lecun_uniform     init.rules.last.initializer  override 'init.rules.last.initializer=lecun_uniform'
  gain         1.5 = 3/n_layers  init.gain                    conf/init/mine.yaml:12, then override 'init.gain=3/n_layers'
  gain_method  second_moment     default

law
  Uniform(low=-0.918559, high=0.918559): mean 0, std 0.530330086
""",
    "attn.in_proj_weight --model cli_nets:parts init=lecun init/rules=[biases] unmatched=keep "
    "rules.x={block:k,priority:1,initializer:ones} rules.y={ndim:2,initializer:zeros}": """\
attn.in_proj_weight
  module  torch.nn.modules.activation.MultiheadAttention
  role    weight
  shape   12x4 float32
  axes    out 0, in 1
  blocks  q 4x4, k 4x4, v 4x4
  layer   none: the model has no ModuleList or Sequential to count layers in; say which with `layers: '<regex with one group>'`

rules, the strongest first
  x     wins the block k                                           override 'init.rules.x={block:k,priority:1,initializer:ones}'
  y     wins the blocks q, v, but x (priority 1) wins the block k  override 'init.rules.y={ndim:2,initializer:zeros}'
  bias  does not match: role is weight, the rule wants bias        initconf/conf/init/rules/biases.yaml:1

attn.in_proj_weight[q, v]
  shape    4x4
  fan_in   in = 4
  fan_out  out = 4

settings (rule y)
  initializer  zeros  init.rules.y.initializer  override 'init.rules.y={ndim:2,initializer:zeros}'

law
  Constant(value=0): mean 0, std 0

attn.in_proj_weight[k]
  shape    4x4
  fan_in   in = 4
  fan_out  out = 4

settings (rule x)
  initializer  ones  init.rules.x.initializer  override 'init.rules.x={block:k,priority:1,initializer:ones}'

law
  Constant(value=1): mean 1, std 0
""",
    "gru.bias_hh_l0[z] --model cli_nets:parts init=lecun init/rules=[biases] unmatched=keep": """\
gru.bias_hh_l0[z]
  module   torch.nn.modules.rnn.GRU
  role     bias
  shape    12 float32
  block    z 4, 4 to 7 along axis 0
  fan_in   in = 4, of gru.weight_hh_l0
  fan_out  out = 4, of gru.weight_hh_l0
           for expressions only: fan-based initializers refuse a bias
  layer    none: the model has no ModuleList or Sequential to count layers in; say which with `layers: '<regex with one group>'`

rules, the strongest first
  bias  wins  initconf/conf/init/rules/biases.yaml:1

settings (rule bias)
  initializer  zeros  init.rules.bias.initializer  initconf/conf/init/rules/biases.yaml:1

law
  Constant(value=0): mean 0, std 0
""",
    "1.weight --model cli_nets:normed init=lecun init/rules=[biases] rules.w={role:weight,initializer:lecun_normal}": """\
1.weight
  module     torch.nn.modules.linear.Linear
  role       weight
  shape      2x6 float32
  axes       out 0, in 1
  fan_in     in = 6
  fan_out    out = 2
  layer      1 of 2, counted from 0
  effective  the weight is parametrised: the law is that of what is assigned, not of what it works out to

rules, the strongest first
  w     wins                                                 override 'init.rules.w={role:weight,initializer:lecun_normal}'
  bias  does not match: role is weight, the rule wants bias  initconf/conf/init/rules/biases.yaml:1

settings (rule w)
  initializer  lecun_normal   init.rules.w.initializer  override 'init.rules.w={role:weight,initializer:lecun_normal}'
  gain         1              default
  gain_method  second_moment  default

law
  Normal(mean=0, std=0.408248): mean 0, std 0.40824829
""",
    "head.weight --model cli_nets:Branching --example cli_nets:batch init=lecun init/rules=[head] nonlinearity=auto "
    "initializer=orthogonal": """\
head.weight
  module   torch.nn.modules.linear.Linear
  role     weight
  shape    2x4 float32
  axes     out 0, in 1
  fan_in   in = 4
  fan_out  out = 2
  layer    none: the model has no ModuleList or Sequential to count layers in; say which with `layers: '<regex with one group>'`

to declare what was guessed
  'init.rules.fed_linear={match: "head[.]weight", nonlinearity: linear}'

rules, the strongest first
  head  wins  initconf/conf/init/rules/head.yaml:2

settings (rule head)
  initializer   orthogonal     init.initializer   initconf/conf/init/lecun.yaml:7, then override 'init.initializer=orthogonal'
  gain          1              default
  nonlinearity  linear = auto  init.nonlinearity  initconf/conf/init/lecun.yaml:10, then override 'init.nonlinearity=auto'
  gain_method   second_moment  default

fed by
  a sum of the model's input and relu (assumed)

law
  Orthogonal(gain=1, 2x4): mean 0, std 0.5
""",
    "head.weight --model cli_nets:Net --model-arg tie=true init=lecun init/rules=[embeddings] unmatched=keep": """\
emb.weight
  module   torch.nn.modules.sparse.Embedding
  role     embedding, as one of its names is one
  shape    5x8 float32
  axes     out 1, batch 0
  fan_in   in = 1
  fan_out  out = 8
  layer    none: the parameter is in no ModuleList or Sequential
  padding  row 0 stays zero, whatever the law
  also     head.weight (torch.nn.modules.linear.Linear)

rules, the strongest first
  position   does not match: role is embedding, the rule wants position  initconf/conf/init/rules/embeddings.yaml:2
  embedding  wins                                                        initconf/conf/init/rules/embeddings.yaml:1

settings (rule embedding)
  initializer  normal  init.rules.embedding.initializer      initconf/conf/init/rules/embeddings.yaml:1
  mean         0       default
  std          0.02    init.rules.embedding.initializer.std  initconf/conf/init/rules/embeddings.yaml:1
  gain         1       default

law
  Normal(mean=0, std=0.02): mean 0, std 0.02
""",
}


@pytest.mark.parametrize("words", EXPLAINED, ids=[words.partition(" ")[0] for words in EXPLAINED])
def test_explained_word_for_word(words: str, run: Any) -> None:
    done = run("explain", *words.split(" "))
    assert (done.code, [line for line in done.err.splitlines() if not line.startswith("warning: ")]) == (0, [])
    assert done.out == EXPLAINED[words]


def test_explained_as_json(run: Any) -> None:
    words = next(iter(EXPLAINED)).split(" ")
    data = json.loads(run("explain", *words, "--json").out)
    assert data["settings"]["gain"] == {
        "value": 1.5,
        "expression": "3/n_layers",
        "path": "init.gain",
        "sources": ["conf/init/mine.yaml:12", "override 'init.gain=3/n_layers'"],
    }
    assert (data["fan_in"], data["layer"], data["n_layers"], data["rule"]) == (8, 1, 2, "last")
    assert data["std"] == pytest.approx(1.5 / 8**0.5)
    assert data["rules"][1] == {
        "rule": "emb",
        "verdict": "does not match: role is weight, the rule wants embedding",
        "sources": ["conf/init/rules/mine.yaml:3"],
    }
    assert (data["declare"], data["problems"]) == ([], [])
    data = json.loads(run("explain", "1.bias", "--model", "cli_nets:normed", "init=lecun", "--json").out)
    assert (data["frozen"], data["effective"]) == (True, None)


def test_explain_what_nothing_claims(run: Any) -> None:
    words = ["--model", "cli_nets:ready", "init=he", "init.rules.bias=null", "init.unmatched=keep"]
    done = run("explain", "blocks.0.bias", *words)
    assert "settings (no rule claims it)" in done.lines
    assert "  initializer  keep  init.unmatched  override 'init.unmatched=keep'" in done.lines
    assert done.lines[-1] == "  Keep(): mean and std are not known beforehand"
    done = run("explain", "blocks.0.weight", *words)
    assert "settings (no rule claims it)" in done.lines
    assert "  initializer   variance_scaling" in done.out


def test_explain_blocks_as_json(run: Any) -> None:
    words = ["--model", "cli_nets:parts", "init=he", "init/rules=[roles]", "--json"]
    data = json.loads(run("explain", "gru.weight_hh_l0", *words).out)
    assert [(part["block"], part["block_start"], part["shape"], part["initializer"]) for part in data["blocks"]] == [
        (block, 4 * n, [4, 4], "orthogonal") for n, block in enumerate("rzn")
    ]
    assert "law" not in data
    data = json.loads(run("explain", "gru.weight_hh_l0[z]", *words).out)
    assert [part["block"] for part in data["blocks"]] == ["z"]


def test_a_law_for_a_whole_of_blocks(run: Any) -> None:
    """What writes a parameter as a whole is explained once, under a block's label too."""
    words = ["--model", "cli_nets:parts", "init=he", "init/rules=[roles]", "init.initializer=module_default"]
    for label in ("attn.in_proj_weight", "attn.in_proj_weight[k]"):
        done = run("explain", label, *words)
        assert (done.code, done.lines[0], done.lines[-2:]) == (
            0,
            label,
            ["law", "  ModuleDefault(reset=_reset_parameters): mean and std are not known beforehand"],
        )


def test_declared_layouts_are_honoured(run: Any) -> None:
    words = ["--model", "cli_nets:mixers", "init=lecun", "unmatched=keep"]
    done = run("explain", "0.mix", *words, "layouts.a={module: Mixer, axes: {out: 1, in: 0}, blocks: {axis: 1, names: [a, b]}}")
    assert "  axes    out 1, in 0" in done.lines
    assert "  blocks  a 4x2, b 4x2" in done.lines
    assert "to declare what was guessed" not in done.lines


def test_the_model_is_surveyed_twice_at_most(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import initconf.addresses

    calls, survey = [], initconf.addresses.survey

    def counted(*args: Any, **settings: Any) -> Any:
        calls.append(settings)
        return survey(*args, **settings)

    monkeypatch.setattr(initconf.addresses, "survey", counted)
    for words in (["init=lecun"], ["init=lecun", "rules.norm_scale=null"]):
        calls.clear()
        run("explain", "emb.weight", "--model", "cli_nets:ready", *words)
        assert calls == calls[:1] * 2


# --- names that there are not ----------------------------------------------------------------------------------------------

UNKNOWN = [
    (
        "blocks.0.wieght",
        "ready",
        "the model has no parameter 'blocks.0.wieght'\n  -> near names: blocks.0.weight, blocks.1.weight, ",
    ),
    ("emb.wait", "ready", "the model has no parameter 'emb.wait'\n  -> near names: emb.weight\n"),
    ("_orig_mod.emb.weight", "ready", "the model has no parameter '_orig_mod.emb.weight'\n  -> near names: emb.weight\n"),
    ("emb", "ready", "the model has no parameter 'emb'\n  -> it is a module, with the parameters emb.weight\n"),
    ("weight_hh", "parts", "the model has no parameter 'weight_hh'\n  -> near names: gru.weight_hh_l0, "),
    (
        "blocks",
        "ready",
        "the model has no parameter 'blocks'\n"
        "  -> it is a module, with the parameters blocks.0.weight, blocks.0.bias, blocks.1.weight and 1 more\n",
    ),
    (
        "1.parametrizations.weight.original",
        "normed",
        "the model has no parameter '1.parametrizations.weight.original'\n"
        "  -> a parametrised weight is called by its own name: 1.weight\n",
    ),
    (
        "zzz",
        "ready",
        "the model has no parameter 'zzz'\n  -> names are such as emb.weight, blocks.0.weight, blocks.0.bias\n",
    ),
    ("zzz", "torch.nn.Identity", "the model has no parameter 'zzz'\n  -> it has none\n"),
    ("emb.weight[q]", "ready", "emb.weight has no block 'q'\n  -> it has no blocks\n"),
    ("attn.in_proj_weight[w]", "parts", "attn.in_proj_weight has no block 'w'\n  -> its blocks are q, k, v\n"),
]


@pytest.mark.parametrize(("name", "model", "text"), UNKNOWN, ids=[f"{name}-{model}" for name, model, _ in UNKNOWN])
def test_explain_an_unknown_name(name: str, model: str, text: str, run: Any) -> None:
    done = run("explain", name, "--model", f"cli_nets:{model}", "init=torch", "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(text)


# --- what does not compile -------------------------------------------------------------------------------------------------


def test_what_nothing_claims_is_explained_as_far_as_it_goes(run: Any) -> None:
    words = ["explain", "2.gamma", "--model", "cli_nets:mixers", "init=lecun", "init/rules=[biases]", "rules.g.role=state"]
    done = run(*words)
    assert (done.code, done.out, done.err) == (
        1,
        """\
2.gamma
  module  cli_nets.Mixer
  role    gate_scale (assumed)
  shape   4 float32
  fans    none: nothing is summed over
  layer   1 of 3, counted from 0

to declare what was guessed
  'init.layouts.Mixer_gamma={module: Mixer, glob: "*.gamma", role: gate_scale}'

rules, the strongest first
  g     does not match: role is gate_scale, the rule wants state  override 'init.rules.g.role=state'
  bias  does not match: role is gate_scale, the rule wants bias   initconf/conf/init/rules/biases.yaml:1
""",
        "2.gamma: no rule claims it (role gate_scale)\n"
        "  -> init.unmatched=keep leaves it as it is; or give it a rule, "
        "'init.rules.gate_scale={role: gate_scale, initializer: module_default}'\n",
    )
    data = json.loads(run(*words, "--json").out)
    assert [problem["path"] for problem in data["problems"]] == ["2.gamma"]
    assert "law" not in data


CONCERNED = {
    # (name, what is wrong): what is said of it
    ("emb.weight", "rules.emb={role: embedding, initializer: he_normal, mode: fan_in}"): (
        "init.rules.emb.mode = 'fan_in'  (override 'init.rules.emb={role: embedding, initializer: he_normal, mode: fan_in}'): "
        "he_normal does not take 'mode'; it takes gain, gain_method\n"
        "  -> take it out, or name an initializer that takes it\n"
    ),
    ("emb.weight", "rules.emb={role: embedding, expect: 3}"): (
        "init.rules.emb.expect = 3  (override 'init.rules.emb={role: embedding, expect: 3}'): it wins 1 parameter\n"
    ),
    ("norm.weight", "rules.norm_scale.initializer=he_normal"): (
        "init.rules.norm_scale.initializer  (override 'init.rules.norm_scale.initializer=he_normal'): norm.weight: "
        "he_normal cannot serve it: a 1-D tensor of role norm_scale has no fans to scale by\n"
        "  -> give it an initializer of explicit scale, such as zeros or {name: normal, std: 0.02}\n"
    ),
    ("blocks.0.weight", "rules.norm_scale.initializer=he_normal"): (
        "the model does not compile, but this parameter is not why (1 problem)\n"
        "  -> initconf plan with the same words says what is wrong\n"
    ),
    ("blocks.0.weight", "layouts.a={module: Linaer, axes: {out: 0, in: 1}}"): (
        "init.layouts.a  (override 'init.layouts.a={module: Linaer, axes: {out: 0, in: 1}}'): it matches nothing\n"
    ),
}


@pytest.mark.parametrize(("name", "wrong"), list(CONCERNED), ids=lambda text: text.partition("=")[0])
def test_problems_that_concern_the_parameter(name: str, wrong: str, run: Any) -> None:
    done = run("explain", name, "--model", "cli_nets:ready", "init=lecun", wrong)
    assert done.code == 1
    assert done.err.startswith(CONCERNED[name, wrong])
    assert (done.lines[:1] == [name]) == (not wrong.startswith("layouts"))


def test_a_tied_head_is_told_why_it_is_none(run: Any) -> None:
    done = run("explain", "head.weight", "--model", "cli_nets:Net", "--model-arg", "tie=true", "init=he", "rules.head.gain=0.1")
    assert (done.code, done.lines[0], done.err) == (
        1,
        "emb.weight",
        "init.rules.head  (override 'init.rules.head.gain=0.1'): it matches nothing: head.weight has role embedding, "
        "because it is tied to emb.weight\n  -> bend its rule instead: init.rules.embedding.gain=0.1\n",
    )


def test_an_example_that_fails_concerns_what_asks_for_it(run: Any) -> None:
    words = ["--model", "cli_nets:Branching", "--example", "cli_nets:too_wide", "init=lecun", "rules.head.nonlinearity=auto"]
    done = run("explain", "head.weight", *words)
    assert (done.code, done.lines[0]) == (1, "head.weight")
    assert done.err.startswith(
        "--example = 'cli_nets:too_wide'  (cli_nets.py:65): the model cannot be run on it, {x: float32 2x5}: "
    )
    done = run("explain", "stem.weight", *words)
    assert (done.code, done.lines[-1]) == (1, "  TruncatedNormal(mean=0, std=0.5, low=-2, high=2): mean 0, std 0.5")
    assert done.err.startswith("the model does not compile, but this parameter is not why (1 problem)\n")


# --- fans ------------------------------------------------------------------------------------------------------------------


def test_formulas_are_those_of_the_fans(run: Any) -> None:
    import cli_nets

    words = ["--model", "cli_nets:parts", "init=lecun", "init/rules=[roles]", "--json"]
    data = json.loads(run("explain", "conv.weight", *words).out)
    assert data["fan_in_formula"] == "in * k = 4 * 9 = 36"
    assert data["fan_out_formula"] == "out / g * k / s = 12 / 2 * 9 / 4 = 13.5"
    data = json.loads(run("explain", "up.bias", *words).out)
    assert data["fan_in_formula"] == "in / g * k / s = 8 / 2 * 9 / 4 = 9, of up.weight"
    assert data["fan_out_formula"] == "out * k = 6 * 9 = 54, of up.weight"
    sites = survey(cli_nets.parts())
    for site in [part for whole in sites for part in whole.blocks or (whole,)]:
        for fan, formula in zip((site.fan_in, site.fan_out), explain._formulas(site, sites), strict=True):
            if fan is None:
                assert formula is None
            else:
                _, numbers, *_ = (formula or "").partition(",")[0].split(" = ")
                assert eval(numbers) == pytest.approx(fan), site.label


# --- verdicts --------------------------------------------------------------------------------------------------------------

TIED = nn.ModuleDict({"a": nn.Embedding(3, 2), "b": nn.Linear(2, 3, bias=False)})
TIED["b"].weight = TIED["a"].weight  # type: ignore[union-attr]
VERDICTS = [
    ("{match: x.*}", "attn.out_proj.bias", "does not match: match 'x.*' does not fit its name"),
    ("{search: abcdefghijklmnopqrstuvwxyz0123456789}", "attn.out_proj.bias",
     "does not match: search 'abcdefghijklmnopqrstuvwxyz01234…' does not fit its name"),
    ("{glob: c.*}", "a.weight", "does not match: glob 'c.*' fits none of its names"),
    ("{role: weight}", "attn.out_proj.bias", "does not match: role is bias, the rule wants weight"),
    ("{role: [weight, other], ndim: 2}", "attn.out_proj.bias",
     "does not match: role is bias, the rule wants weight or other; ndim is 1, the rule wants 2"),
    ("{module: Linear}", "attn.in_proj_bias", "does not match: module is MultiheadAttention, the rule wants Linear"),
    ("{module: [my.Linear, Conv2d]}", "a.weight",
     "does not match: module is torch.nn.modules.sparse.Embedding and torch.nn.modules.linear.Linear, "
     "the rule wants my.Linear or Conv2d"),
    ("{inside: Block}", "attn.out_proj.bias",
     "does not match: it lies inside ModuleDict, MultiheadAttention, the rule wants Block"),
    ("{inside: Block}", "weight", "does not match: it lies inside no module, the rule wants Block"),
    ("{block: i}", "attn.in_proj_bias", "does not match: its blocks are q, k, v, the rule wants i"),
    ("{block: i}", "attn.in_proj_bias[q]", "does not match: its block is q, the rule wants i"),
    ("{block: '[qk]'}", "attn.in_proj_bias[v]", "does not match: its block is v, the rule wants [qk]"),
    ("{block: q, role: weight}", "attn.in_proj_bias[q]", "does not match: role is bias, the rule wants weight"),
    ("{block: i}", "attn.out_proj.bias", "does not match: it has no blocks, the rule wants i"),
    ("{glob: b.*, module: Embedding}", "a.weight",
     "does not match: no one name has all its selectors: glob for b.weight, module for a.weight"),
    ("{role: bias}", "attn.out_proj.bias", "wins"),
    ("{role: bias}", "attn.in_proj_bias", "wins"),
    ("{block: q}", "attn.in_proj_bias", "wins the block q"),
    ("{block: '[qk]'}", "attn.in_proj_bias", "wins the blocks q, k"),
    ("{block: '[qk]'}", "attn.in_proj_bias[k]", "wins"),
    ("{search: in_proj}", "attn.in_proj_weight", "wins the blocks q, k, but late (later) wins the block v"),
    ("{search: in_proj, block: '[qv]'}", "attn.in_proj_weight", "wins the block q, but late (later) wins the block v"),
    ("{search: in_proj, block: v}", "attn.in_proj_weight", "matches the block v, but late (later) wins"),
    ("{search: in_proj}", "attn.in_proj_weight[v]", "matches, but late (later) wins"),
    ("{ndim: 4}", "conv.weight", "matches, but first (priority 1) wins"),
    ("{ndim: 4, priority: 2}", "conv.weight", "wins"),
    ("{ndim: 4, priority: 1}", "conv.weight", "wins"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "label", "verdict"), VERDICTS, ids=[f"{rule}-{label}" for rule, label, _ in VERDICTS])
def test_verdicts(rule: str, label: str, verdict: str) -> None:
    net = nn.ModuleDict({**TIED, "attn": nn.MultiheadAttention(4, 2), "conv": nn.Conv2d(1, 1, 1)})
    rules = {
        "first": {"glob": "conv.weight", "priority": 1},
        "x": yaml.safe_load(rule),
        "late": {"search": "in_proj_weight", "block": "v"},
    }
    sites = survey(nn.Linear(2, 2) if label == "weight" else net)
    matched = match(list(initconf.load({"rules": rules}).live_rules()), sites)
    name, _, block = label.removesuffix("]").partition("[")
    i = next(i for i, site in enumerate(sites) if site.name == name)
    assert dict(verdicts(matched, i, sites[i], block or None))["x"] == verdict
