"""The shipped initializers: each a few lines of mathematics from a site to a law. Importing registers them."""

from initconf.initializers import data, domains, plain, scaling, special, structured, torch_init

__all__ = ["data", "domains", "plain", "scaling", "special", "structured", "torch_init"]
