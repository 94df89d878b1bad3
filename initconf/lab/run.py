"""The application: plan, initialise, verify, train, store."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from initconf.apply import apply
from initconf.apply import compile as compile_plan
from initconf.errors import InitConfError, Problem
from initconf.lab import results
from initconf.lab.building import HYDRA_1_4, build, make
from initconf.lab.data import Dataset
from initconf.lab.train import Metrics, Settings, train
from initconf.loading import load

log = logging.getLogger(__name__)

VERSION: dict[str, Any] = {} if HYDRA_1_4 else {"version_base": "1.3"}


@hydra.main(config_path="conf", config_name="config", **VERSION)
def main(cfg: DictConfig) -> float:
    """Run one job and add its row to the results of the run or of the sweep; returns the test accuracy.

    Raises CompactHydraException, which Hydra prints without a traceback, where the configuration is at fault.
    """
    hc = HydraConfig.get()
    sweep = hc.mode == RunMode.MULTIRUN
    keys = [override.lstrip("+~").partition("=")[0] for override in hc.overrides.task]
    row: results.Row = {
        "num": hc.job.num if sweep else 0,
        "overrides": list(hc.overrides.task),
        "status": "failed",
        "metrics": None,
        "init": hc.runtime.choices.get("init"),
        "model": cfg.model._target_.rpartition(".")[2] if "model._target_" in keys else hc.runtime.choices.get("model"),
        "data": hc.runtime.choices.get("data"),
        "error": "interrupted",
    }
    start = time.perf_counter()
    try:
        data: Dataset = make(cfg.data)
        row["objective"] = data.objective
        metrics = job(
            cfg,
            data,
            Path(hc.runtime.output_dir),
            typed={key.split(".")[1] for key in keys if key.startswith("model.")},
            # The bars of several processes would write over each other.
            progress=sys.stderr.isatty() and hc.runtime.choices.get("hydra/launcher") == "basic",
        )
    except Exception as err:
        row["error"] = _first_line(err)
        if sweep:
            log.error("job %s failed: %s", row["num"], row["error"])
        if isinstance(err, InitConfError):
            raise CompactHydraException(str(err)) from err
        raise
    else:
        row.update(status="completed", metrics=asdict(metrics), error=None)
    finally:
        row["seconds"] = round(time.perf_counter() - start, 3)
        # The launcher may have changed the directory: what is relative is so to where the user stood.
        directory = Path(hc.runtime.cwd, hc.sweep.dir) if sweep else Path(hc.runtime.output_dir)
        results.append(directory, row)
    print(
        f"{row['model']} on {row['data']}, init={row['init']}: "
        f"loss {metrics.initial_loss:.4f} -> train {metrics.train_loss:.4f}, test {metrics.test_loss:.4f}; "
        f"test accuracy {metrics.test_accuracy:.3f} ({metrics.steps} steps, {row['seconds']:.1f} s)",
        flush=True,
    )
    return metrics.test_accuracy


def job(cfg: DictConfig, data: Dataset, directory: Path, *, typed: Collection[str] = (), progress: bool = False) -> Metrics:
    """Build the model, initialise it by its plan, check the values, train; `plan.json`, `metrics.json` in `directory`.

    Raises InitConfError, before anything is trained, for what the configuration asks and the model cannot serve.
    """
    settings = _settings(cfg)
    # A rule may keep what the constructor drew: that must not depend on what was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build(cfg, data.sizes, typed)
    plan = compile_plan(model, load(cfg.init), conditions=data.train_x[: settings.batch_size])  # for what is measured on them
    if cfg.show == "plan":
        print(plan)
    apply(model, plan).verify()
    if cfg.show == "plan":
        print("all values verified against the plan")
    for warning in plan.warnings:
        log.warning("%s", warning)
    plan.save(directory / "plan.json")
    metrics = train(model, data, settings, progress=progress)
    results.write_json(directory / "metrics.json", asdict(metrics))
    return metrics


def _settings(cfg: DictConfig) -> Settings:
    """The node `train`, checked together with `show`. Raises InitConfError with every problem."""
    problems = []
    if cfg.show not in ("plan", "none"):
        problems.append(Problem("choose plan or none", "show", repr(cfg.show)))
    try:
        settings = Settings.model_validate(OmegaConf.to_container(cfg.train, resolve=True))
    except ValidationError as err:
        for error in err.errors():
            path = ".".join(map(str, ("train", *error["loc"])))
            problems.append(Problem(error["msg"].lower(), path, repr(error["input"])))
    if problems:
        raise InitConfError(problems)
    return settings


def _first_line(err: BaseException) -> str:
    """What is wrong in one line: the first of several problems, the cause of Hydra's error, the message, the name."""
    if isinstance(err, HydraException) and err.__cause__ is not None:
        return _first_line(err.__cause__)
    text = str(err.problems[0]) if isinstance(err, InitConfError) and err.problems else str(err)
    return next((line for line in text.splitlines() if line.strip()), type(err).__name__)
