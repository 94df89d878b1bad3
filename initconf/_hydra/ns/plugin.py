from initconf._hydra.plugin import InitconfSearchPathPlugin  # noqa: F401  (shipped as hydra_plugins/initconf/plugin.py)
