"""Initializers that take values from files."""

from __future__ import annotations

from initconf import files, patterns
from initconf.errors import InitConfError, did_you_mean
from initconf.laws import Law, Values
from initconf.registry import register
from initconf.sites import Site


@register("values", whole=True)
def values(site: Site, path: str, key: str | None = None, cast: bool = False) -> Law:
    """The tensor in a file: `.npy`, or the one named `key` in a safetensors or torch file.

    Raises InitConfError for a file or key that is not there, for another shape, and for another dtype unless `cast`.
    """
    there = files.contents(path)
    if key is None and len(there) > 1:
        raise InitConfError(f"{path} holds {len(there)} tensors; say which with key, such as {next(iter(there))!r}")
    name = next(iter(there), "") if key is None else key
    if name not in there:
        raise InitConfError(f"{path} holds no tensor {name!r}; {did_you_mean(name, there)}")
    return _checked(site, path, name, there[name], cast)


@register("pretrained", whole=True)
def pretrained(site: Site, path: str, rename: dict[str, str] | None = None, cast: bool = False) -> Law:
    r"""The tensor of the parameter's own name (or of one of its aliases) in a checkpoint.

    Args:
        path: a safetensors file, an index, a folder with one, or a torch file of plain tensors (pickled code is refused).
        rename: regexes over the parameter's name and what replaces them, applied in order, as in {'^backbone\.': 'model.'}.
        cast: whether another dtype than the parameter's is taken.

    Raises InitConfError for a missing key, another shape, and another dtype unless `cast`; a compilation lists them all.
    """
    there = files.contents(path)
    if "" in there:
        raise InitConfError(f"{path} holds a single tensor without a name: `values` takes it")
    names = [_renamed(place.name, rename or {}) for place in site.places]
    name = next((name for name in names if name in there), None)
    if name is None:
        raise InitConfError(f"{path} holds no tensor {names[0]!r}; {did_you_mean(names[0], list(there)[:2000])}")
    return _checked(site, path, name, there[name], cast)


def _renamed(name: str, rename: dict[str, str]) -> str:
    for pattern, replacement in rename.items():
        name = patterns.substitute(pattern, replacement, name)
    return name


def _checked(site: Site, path: str, name: str, stored: files.Stored, cast: bool) -> Law:
    what = f"{path}{f' [{name}]' if name else ''}"
    if stored.fault:
        raise InitConfError(f"{what} {stored.fault}")
    if stored.shape != site.shape:
        raise InitConfError(f"{what} has shape {stored.shape}, and the parameter {site.shape}")
    if stored.dtype.startswith("complex") and not site.is_complex:
        raise InitConfError(f"{what} is complex, and the parameter is real")
    if stored.dtype != site.dtype and not cast:
        raise InitConfError(
            f"{what} has dtype {stored.dtype}, and the parameter {site.dtype}; cast: true takes it all the same"
        )
    return Values(path, name)
