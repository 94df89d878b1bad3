"""Gives every Hydra application of the environment the configuration group `init`.

Hydra imports this module at the start of any application, also of those that have never heard of initconf. So it
imports nothing heavy, and whatever goes wrong in here is one logged line: never an exception (Hydra would abort the
application) and never a warning (`-W error` would).
"""

import logging
from importlib.util import find_spec

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

SCHEMES = "pkg://initconf.conf"
SCALARS = ("initializer mode distribution gain nonlinearity gain_method seed unmatched compat layers rng_device").split()
MAPPINGS = ("rules", "targets", "layouts")

_told: set[str] = set()  # what was said already: Hydra makes a search path for every job and every `compose`


def register_base() -> None:
    """Put the node that every scheme starts from into Hydra's store, unless there is one.

    It names each key of a spec, so that `init.gain=0.5` needs no `+`, and it is open (not "struct"), so that
    `init.rules.head.gain=0.1` needs none either and a misspelled key reaches initconf, whose message is the better one.
    """
    store = ConfigStore.instance()
    if "base.yaml" in store.repo.get("init", {}).get("schema", {}):
        return
    node = OmegaConf.create({**dict.fromkeys(SCALARS), **{name: {} for name in MAPPINGS}})
    OmegaConf.set_struct(node, False)
    store.store(group="init/schema", name="base", node=node, provider="initconf")


class InitconfSearchPathPlugin(SearchPathPlugin):
    """Appends the shipped schemes to the search path, behind the application's own configuration, which wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        try:
            if find_spec("initconf.conf") is None:
                raise ModuleNotFoundError("the package initconf.conf is missing, reinstall initconf")
            search_path.append(provider="initconf", path=SCHEMES)
            register_base()
        except Exception as problem:  # noqa: BLE001 - not ours to stop: this may be anybody's application
            said = f"{type(problem).__name__}: {problem}"
            if said not in _told:
                _told.add(said)
                logging.getLogger("initconf").warning(
                    "initconf: Hydra's group 'init' is missing or incomplete here (%s)", " ".join(said.split())
                )
