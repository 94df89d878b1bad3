"""Holding stored values against a plan: they are made again, one parameter at a time, and compared to the last bits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from initconf import files, sampling
from initconf.errors import InitConfError, listed
from initconf.files import Stored
from initconf.laws import Constant, Construction, Law, Values
from initconf.owners import plain
from initconf.plan import Entry, Plan
from initconf.sampling import Source
from initconf.stream import working_dtype

EQUAL, CLOSE, OTHER, UNKNOWN = "equal", "close", "differs", "not known"
_ULPS = 2
"""How far float32 and float64 may be off; the dtypes below them by one."""
_WHOLE = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_CONSTRUCTED = 1e-5
"""How far factorised laws may be off, by their largest value."""
_PARAMETRISED = "what a parametrisation stores is not what was drawn"
_GPU = 1e-6
"""How far what a GPU has computed may be off, by its mean and std or by the value, where that is larger."""


@dataclass(frozen=True)
class Compared:
    """What was found of one parameter, or one block of it."""

    label: str
    verdict: str
    """`equal` to the last bit; `close`, as far as other machines may be off, or in another dtype; `differs`; `not known`, where
    it depends on more than the plan (`keep`, `module_default`, a registered function, a parametrisation)."""
    note: str = ""


def compare(
    plan: Plan, stored: Mapping[str, Stored], seen: Callable[[int], None] = lambda size: None
) -> tuple[list[Compared], list[str]]:
    """Compare the tensors of a checkpoint, or of a model, with the values of a plan.

    Args:
        plan: as `compile` made it, or `Plan.load`.
        stored: tensors by name; each is read when it is its turn, and then let go.
        seen: hears how many values were gone through.

    Returns:
        A row for each entry that is written, in the plan's order; and notes, such as tensors that the plan does not know.

    Raises InitConfError where none of the plan's names is there.
    """
    prefix = _prefix(plan, stored)
    where = _where(plan, stored, prefix)
    rows: list[Compared] = []
    used: set[str] = set()
    source = Source()
    with files.held_open():
        for entry in plan.entries:
            names = (entry.name, *entry.aliases)
            used.update(prefix + name for name in names)
            keys = next((where[name] for name in names if name in where), ())
            used.update(keys)
            there = stored[keys[0]] if keys else None
            if there is None:
                rows.append(Compared(entry.name, OTHER, "it is not there"))
            elif ".parametrizations." in keys[0]:
                rows += [Compared(leaf.label, UNKNOWN, _PARAMETRISED) for leaf in entry.leaves()]
            elif there.fault:
                rows.append(Compared(entry.name, OTHER, f"it {there.fault}"))
            elif there.shape != entry.shape:
                rows.append(Compared(entry.name, OTHER, f"its shape is {there.shape}, and the plan's {entry.shape}"))
            else:
                with torch.no_grad():
                    tensor = there.read()
                    rows += (own := list(_rows(plan, entry, tensor, source)))
                    if all(row.verdict != OTHER for row in own):
                        more = [name for name in names if len(where.get(name, ())) == 1 and where[name] != keys]
                        tied = {name: stored[where[name][0]] for name in more if ".parametrizations." not in where[name][0]}
                        rows += _apart(plan, entry, tensor, tied, source)
            if keys:
                seen(entry.numel)
    notes = [f"the names there begin with {prefix!r}"] if prefix else []
    if others := [name for name in stored if name not in used]:
        notes.append(f"the plan does not know {listed(others)}")
    return rows, notes


def of_model(parameters: Mapping[str, Tensor]) -> dict[str, Stored]:
    """The parameters of a model as if they were stored."""

    def read(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor.detach().cpu()

    return {n: Stored(tuple(p.shape), str(p.dtype).removeprefix("torch."), read(p)) for n, p in parameters.items()}


def _prefix(plan: Plan, stored: Mapping[str, Stored]) -> str:
    """What stands in front of most names of the plan: of a wrapper whose state was saved, `module.` say."""
    names = [name for entry in plan.entries for name in (entry.name, *entry.aliases)]
    if not names or any(name in stored for name in names):
        return ""
    wanted = {plain(name) for name in names}
    found: dict[str, set[str]] = defaultdict(set)
    for key in stored:
        for start in (0, *(i + 1 for i, letter in enumerate(key) if letter == ".")):
            if (name := plain(key[start:])) in wanted:
                found[key[:start]].add(name)
    best = max(found, key=lambda prefix: (len(found[prefix]), len(prefix)), default="")
    if 2 * len(found[best]) > len(plan.entries):
        return best
    raise InitConfError(f"none of the plan's parameters is there: it has {listed(names)}, and there are {listed(stored)}")


def _where(plan: Plan, stored: Mapping[str, Stored], prefix: str) -> dict[str, tuple[str, ...]]:
    """The keys that are stored for each name of the plan: several of a parametrised weight."""
    names = [name for entry in plan.entries for name in (entry.name, *entry.aliases)]
    where: dict[str, tuple[str, ...]] = {name: (prefix + name,) for name in names if prefix + name in stored}
    wrapped: dict[str, list[str]] = defaultdict(list)
    for key in stored:
        if key.startswith(prefix) and key.removeprefix(prefix) not in where:
            wrapped[plain(key.removeprefix(prefix))].append(key)
    alike = Counter(plain(name) for name in names)
    for name in names:
        keys = wrapped.get(plain(name), []) if name not in where and alike[plain(name)] == 1 else []
        if len(keys) == 1 or (keys and all(".parametrizations." in key for key in keys)):
            where[name] = tuple(keys)
    return where


def _rows(plan: Plan, entry: Entry, tensor: Tensor, source: Source) -> Iterator[Compared]:
    for leaf in entry.leaves():
        part, zero = tensor, leaf.zero_row
        if leaf.block is not None:
            part = tensor.narrow(leaf.axis, leaf.start, leaf.shape[leaf.axis])
        if leaf.effective is not None:
            yield Compared(leaf.label, UNKNOWN, _PARAMETRISED)
        elif isinstance(leaf.law, (Constant, Construction, Values)) or leaf.law.elementwise:
            yield _in_its_dtype(plan, leaf, part, zero, source)
        else:
            yield Compared(leaf.label, UNKNOWN, f"{leaf.initializer} depends on more than the plan")


def _apart(plan: Plan, entry: Entry, tensor: Tensor, others: Mapping[str, Stored], source: Source) -> Iterator[Compared]:
    """Where what is stored for other names of a tied parameter has other values than the plan."""
    for name, there in others.items():
        if there.fault or there.shape != entry.shape:
            yield Compared(name, OTHER, f"it {there.fault}" if there.fault else f"its shape is {there.shape}")
            continue
        other = there.read()
        if other.dtype == tensor.dtype and torch.equal(_comparable(other), _comparable(tensor)):
            continue
        for row in _rows(plan, entry, other, source):
            if row.verdict == OTHER:
                yield Compared(row.label.replace(entry.name, name, 1), OTHER, f"{row.note}; it is tied to {entry.name}")


def _in_its_dtype(plan: Plan, leaf: Entry, part: Tensor, zero: int | None, source: Source) -> Compared:
    """The plan's values as they are stored: where that is in another dtype, cast to it, or made in it."""
    planned, there = getattr(torch, leaf.dtype, part.dtype), part.dtype
    found = _held(plan, leaf, part, zero, source, planned)
    if planned == there:
        return found
    said = f"stored in {_named(there)}, planned in {_named(planned)}"
    how = "rounded to it" if _eps(there) > _eps(planned) else "as they are"
    own = working_dtype(there) != working_dtype(planned)  # float64 has a stream of its own
    if found.verdict != EQUAL and _eps(there) and (own or _eps(there) < _eps(planned)):
        made = _held(plan, leaf, part, zero, source, there)
        if made.verdict == EQUAL or found.verdict == OTHER != made.verdict:
            found, how = made, f"as made in {_named(there)}, whose stream is another" if own else "before they are rounded"
    if found.verdict == OTHER:
        return Compared(leaf.label, OTHER, f"{found.note}; {said}")
    return Compared(leaf.label, CLOSE, f"{said}: the plan's values {how}{found.note and ', ' + found.note}")


def _held(plan: Plan, leaf: Entry, part: Tensor, zero: int | None, source: Source, dtype: torch.dtype) -> Compared:
    """The values that the plan makes in a dtype against those that are stored."""
    law, worst, far, size, said = leaf.law, 0.0, 0.0, 0.0, ""
    scale = max(abs(law.mean or 0.0), law.std or 0.0)
    # Integers are brought to the plan's dtype: cast the other way, all small values were zeros.
    common = part.dtype if _eps(part.dtype) and (part.is_complex() or not dtype.is_complex) else dtype
    coarse = max(dtype, common, key=_eps)
    equal, by_gpu, flat = True, True, part.reshape(-1)
    for first, count, made in _made(law, sampling.key(plan.seed, leaf.name, law.stream or leaf.block), part, source, dtype):
        found = _comparable(flat[first : first + count].to(common))
        if zero is not None:
            made = _with_zeros(made, leaf.shape, zero, first)
        made = _comparable(made.to(dtype).to(common))
        if torch.equal(made, found):
            continue
        equal = False
        ulps, apart = _off(made, found, law.mean or 0.0, _eps(coarse))
        if float(ulps.max()) > worst:
            worst, place = float(ulps.max()), int(ulps.argmax())
            x, y = (t.reshape(-1)[place].item() for t in (_real(found), _real(made)))
            said = f"element {first + place // (2 if made.is_complex() else 1)} is {x:.9g}, and the plan's is {y:.9g}"
        sizes = _real(made).abs()
        far, size = max(far, float(apart.max())), max(size, float(sizes.max()))
        by_gpu = by_gpu and bool((apart <= _GPU * sizes.clamp(min=scale)).all())
    if equal:
        return Compared(leaf.label, EQUAL)
    if worst <= (_ULPS if coarse in _WHOLE else 1):
        return Compared(leaf.label, CLOSE, f"to {worst:.3g} units in the last place")
    if isinstance(law, Construction) and far <= _CONSTRUCTED * size:
        return Compared(leaf.label, CLOSE, f"to {far:.2g}, as matrices are from machine to machine")
    if law.elementwise and plan.rng_device == "auto" and by_gpu:
        return Compared(leaf.label, CLOSE, f"to {far:.2g}, as a GPU computes them")
    return Compared(leaf.label, OTHER, said)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _eps(dtype: torch.dtype) -> float:
    """The last place of 1; of integers 0."""
    return torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0


def _comparable(values: Tensor) -> Tensor:
    """The same values; of float8, which torch can hardly compute with, in float32."""
    return values.float() if values.is_floating_point() and values.element_size() == 1 else values


def _made(law: Law, key: bytes, part: Tensor, source: Source, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """(first, count, values) of all that a law makes, chunk by chunk where it can."""
    n = part.numel()
    if isinstance(law, Construction):
        yield 0, n, sampling.construct(law, key, dtype).reshape(-1)
    elif isinstance(law, Values):
        yield 0, n, files.contents(law.path)[law.key].read().reshape(-1)
    else:
        for first in range(0, n, sampling.CHUNK):
            count = min(sampling.CHUNK, n - first)
            yield first, count, sampling.values(law, key, first, count, dtype, source)


def _with_zeros(made: Tensor, shape: tuple[int, ...], row: int, first: int) -> Tensor:
    """The values with those of the row that stays zero."""
    width = made.new_empty(shape[1:]).numel()
    low, high = max(row * width - first, 0), min((row + 1) * width - first, made.numel())
    if low < high:
        made = made.clone()
        made[low:high] = 0
    return made


def _off(made: Tensor, found: Tensor, mean: float, eps: float) -> tuple[Tensor, Tensor]:
    """How far each value is off: in units of its last place (of the mean's where that is larger), and as it is."""
    made, found = _real(made), _real(found)
    if not made.dtype.is_floating_point:
        apart = (made != found).double()
        return apart * torch.inf, apart
    wide, there = made.double(), found.double()
    apart = (wide - there).abs().nan_to_num(torch.inf, posinf=torch.inf)
    size = torch.maximum(wide.abs(), there.abs()).nan_to_num(1.0)
    size = size.clamp(max(abs(mean), torch.finfo(made.dtype).smallest_normal), torch.finfo(made.dtype).max)
    return apart / torch.exp2(size.log2().floor()) / eps, apart


def _real(tensor: Tensor) -> Tensor:
    """Complex values as twice as many real ones."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)
