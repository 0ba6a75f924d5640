"""Checks of a pruned checkpoint before its weights are read: its files are those saved, its config fits the model.

A copy of this file goes into every checkpoint, beside that of `modeling_trimformer`; it needs torch and transformers
only. Each check raises `ValueError` with one line that says what is wrong and where.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import safe_open
from torch import nn

from .trimformer_modules import BiasOnly, Projection, module_at, projection_at, sizes_of_projection

FORMAT = 2
"""Version of the checkpoint format; 1 had no checksums and named no format."""
MANIFEST = "trimformer.json"
ENTRY, OWN = "checkpoint", "sha256"
"""The manifest's entry with the format and every file's SHA-256, and in it, the digest of the manifest without that."""
CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
SETTINGS, PASSING = "tokenizer_config.json", ("is_local", "local_files_only")
"""A file in which transformers notes where it was read from, by these entries: saving it again is no change."""
FREE = ("*.md", "*.html", "*.py", "generation_config.json", "chat_template*")
"""Files that may be edited: nothing that a model computes depends on them."""
CHUNK = 2**20
MOST_AXES = 4
"""Axes of whatever attention gets for every head."""


def digest_of_file(file: Path) -> str:
    """Compute the SHA-256 of a file, read piece by piece; of `SETTINGS`, that of its entries but the passing ones."""
    settings = _settings(file) if file.name == SETTINGS else None
    if settings is not None:
        return digest_of_facts({name: value for name, value in settings.items() if name not in PASSING})
    found = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(CHUNK):
            found.update(piece)
    return found.hexdigest()


def _settings(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def digest_of_facts(facts: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of facts as JSON, the same for every indentation and order of keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def with_digest(facts: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Add the entry with the files' digests, and the digest of it all, to a manifest."""
    entry = {"format": FORMAT, "files": dict(sorted(files.items()))}
    return {**facts, ENTRY: {**entry, OWN: digest_of_facts({**facts, ENTRY: entry})}}


def listed_files(folder: Path) -> dict[str, str] | None:
    """Read the digest of every file of a checkpoint from its manifest; None where it lists none, as in format 1.

    Raises:
        ValueError: the manifest was damaged or changed, or is of a format that is not known here.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} cannot be read ({(str(error).splitlines() or [''])[0]})") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{MANIFEST} must be an object")
    misnamed = [name for name, value in facts.items() if name != ENTRY and isinstance(value, dict) and OWN in value]
    if misnamed:
        raise ValueError(f"{MANIFEST} is not as it was saved: it has {misnamed[0]!r} for {ENTRY!r}")
    return None if ENTRY not in facts else _checked_entry(facts)


def _checked_entry(facts: Mapping[str, Any]) -> dict[str, str]:
    entry = facts[ENTRY]
    if not isinstance(entry, dict) or not isinstance(entry.get("files"), dict) or not _is_size(entry.get("format")):
        raise ValueError(f"{MANIFEST} has no list of files in its entry {ENTRY!r}")
    if entry["format"] > FORMAT:
        raise ValueError(f"{MANIFEST} is of format {entry['format']}, known is {FORMAT}: update trimformer")
    rest = {name: value for name, value in entry.items() if name != OWN}
    if entry.get(OWN) != digest_of_facts({**facts, ENTRY: rest}):
        raise ValueError(f"{MANIFEST} is not as it was saved")
    for name in entry["files"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{MANIFEST} lists {name!r}, which is not in this folder")
    return dict(entry["files"])


def is_of(name: str, kinds: Iterable[str]) -> bool:
    """Tell whether a file is of some kinds, given as patterns."""
    return any(fnmatch(name, kind) for kind in kinds)


def check_files(folder: Path, concerns: Callable[[str], bool]) -> None:
    """Compare the files of a checkpoint that a reader depends on with their digests; no manifest lists none.

    Args:
        folder: of the checkpoint.
        concerns: tells by its name whether a file matters.

    Raises:
        ValueError: one was changed or is missing, or weights are there that go before those listed.
    """
    listed = listed_files(folder)
    for name, digest in (listed or {}).items():
        if concerns(name) and not (folder / name).is_file():
            raise ValueError(f"{name} is missing, which {MANIFEST} lists")
        if concerns(name) and digest_of_file(folder / name) != digest:
            raise ValueError(f"{name} is not as it was saved: its SHA-256 is not the one in {MANIFEST}")
    for name in ("model.safetensors", "model.safetensors.index.json") if listed else ():
        if concerns(name) and name not in (listed or ()) and (folder / name).is_file():
            raise ValueError(f"{name} was added: {MANIFEST} lists other weights")


def forget_files(folder: Path) -> None:
    """Take the digests out of a manifest, because its folder is about to get other files; the rest stays."""
    try:
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(facts, dict) and ENTRY in facts:
        del facts[ENTRY]
        (folder / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def field(name: str, given: Any, empty: Any, fits: Callable[[Any], bool]) -> Any:
    """Check a field that was read from JSON: of the type of `empty`, with entries that fit; None is empty."""
    found = empty if given is None else given
    if not isinstance(found, type(empty)):
        raise ValueError(f"quantization_config.{name} of config.json is of a wrong type: {found!r:.100}")
    for place, entry in found.items() if isinstance(found, dict) else enumerate(found):
        if not fits(entry):
            raise ValueError(
                f"quantization_config.{name} of config.json has at {place!r} what cannot be: {entry!r:.100}"
            )
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_positive(value: Any) -> bool:
    """Tell whether a value is a whole number above zero."""
    return _is_size(value) and value > 0


def are_sizes(value: Any) -> bool:
    """Tell whether a value is a list of whole numbers, zero included."""
    return isinstance(value, list) and all(map(_is_size, value))


def is_shape(value: Any) -> bool:
    """Tell whether a value is the inputs and outputs of a projection."""
    return are_sizes(value) and len(value) == len(("in_features", "out_features"))


def is_selection(value: Any) -> bool:
    """Tell whether a value is what `HeadSelection` takes."""
    if not isinstance(value, dict) or value.keys() != {"kept", "of", "arguments"}:
        return False
    axes = isinstance(value["arguments"], dict) and list(value["arguments"].values())
    named = isinstance(axes, list) and all(_is_size(axis) and axis < MOST_AXES for axis in axes)
    return named and _is_size(value["of"]) and are_sizes(value["kept"]) and _are_indices(value["kept"], value["of"])


def are_names(value: Any) -> bool:
    """Tell whether a value is a text, a list of texts, or nothing."""
    return value is None or is_text(value) or (isinstance(value, list) and all(map(is_text, value)))


def is_text(value: Any) -> bool:
    """Tell whether a value is a text."""
    return isinstance(value, str)


def _are_indices(numbers: list[int], of: int) -> bool:
    return len(set(numbers)) == len(numbers) and max(numbers, default=-1) < of


SITE = re.compile(r"(.+\.)?\d+\.\w+")
"""Name of a site: path of its block, which ends with a number, and of the sublayer."""


def check_kept(kept: Mapping[str, list[int]], units: Mapping[str, int]) -> None:
    """Refuse kept units that the original cannot have had.

    Raises:
        ValueError: names the site.
    """
    for name, numbers in kept.items():
        if not SITE.fullmatch(name) or name not in units or not _are_indices(numbers, units[name]):
            raise ValueError(f"quantization_config of config.json keeps units of {name} that it cannot have had")


HEADS = re.compile(r"(\w+_)?heads?")
WIDTHS = ("attention_head_size", "head_dim")
COUNTS = re.compile(rf"(\w+_)?(heads?|groups)|all_head_size|embed_dim|split_size|{'|'.join(WIDTHS)}")
"""Names of sizes of attention that get smaller: those that count heads, groups or features, and the width of a head."""


def check_sizes(
    base: nn.Module, linears: Mapping[str, list[int]], attributes: Mapping[str, int], kept: Mapping[str, list[int]]
) -> None:
    """Refuse sizes that cutting a freshly built model cannot give, before any memory is taken for them.

    A projection loses inputs or outputs, never both, and gains none. What an attention module counts shrinks as the
    projections in it do, heads less where each is narrower too.

    Raises:
        ValueError: names the projection, or the size of a module.
    """
    shares: dict[str, set[Fraction]] = {}
    for path, sizes in linears.items():
        dense = sizes_of_projection(projection_at(base, path))
        if any(now > before for now, before in zip(sizes, dense, strict=True)):
            raise ValueError(f"the checkpoint gives {path} the sizes {sizes}, of a projection that has {dense}")
        if sizes[0] != dense[0] and sizes[1] != dense[1]:
            raise ValueError(f"the checkpoint cuts inputs and outputs of {path}: {sizes}, of {dense}")
        shares[path] = {Fraction(now, before) for now, before in zip(sizes, dense, strict=True) if before}
    by_path = {path: Fraction(value, _size(base, path)) for path, value in attributes.items()}
    for path, share in by_path.items():
        core = _core(path)
        inside = {share for each, found in shares.items() if each.startswith(f"{core}.") for share in found}
        beside = [other for each, other in by_path.items() if _core(each) == core and _multiplies(each, path)]
        possible = inside | {one / other for one in inside for other in inside if other}
        if beside:
            possible = {one for one in inside if one < 1 and _keeps(kept, attributes, core)}
        if share * min(beside, default=1) not in possible or share > 1:
            was = f"which does not fit its projections (it was {_size(base, path)})"
            raise ValueError(f"the checkpoint sets {path} to {attributes[path]}, {was}")


def _keeps(kept: Mapping[str, list[int]], attributes: Mapping[str, int], core: str) -> bool:
    """Tell whether a core has as many heads as are kept in its block."""
    block = re.match(r"(.+\.)?\d+\.", core)
    numbers = [len(units) for site, units in kept.items() if block and site.startswith(block[0])]
    heads = [
        value for path, value in attributes.items() if _core(path) == core and HEADS.fullmatch(path.split(".")[-1])
    ]
    return all(value in numbers for value in heads)


def _core(path: str) -> str:
    """Give the path of the module that a size is of."""
    return path.rpartition(".")[0].removesuffix(".config")


def _multiplies(one: str, other: str) -> bool:
    """Tell whether one of two sizes is a width of heads and the other a number of them: projections have both."""
    names = [path.rpartition(".")[2] for path in (one, other)]
    return any(name in WIDTHS for name in names) and any(HEADS.fullmatch(name) for name in names)


def _size(base: nn.Module, path: str) -> int:
    """Read a size of a freshly built module, or of its config.

    Raises:
        ValueError: it has none of that name, or none that may shrink.
    """
    owner, _, name = path.rpartition(".")
    module: Any = module_at(base, _core(path))
    dense = getattr(getattr(module, "config", None) if owner.endswith(".config") else module, name, None)
    if not COUNTS.fullmatch(name) or not is_positive(dense):
        raise ValueError(f"the checkpoint sets {path}, which is no size that {type(module).__name__} has")
    return int(dense)  # type: ignore[arg-type]


def check_attention(base: nn.Module, path: str, owned: list[str], linears: Mapping[str, list[int]]) -> None:
    """Refuse to empty a module that is no attention, or whose output projection is not empty too.

    Raises:
        ValueError: names the module.
    """
    module = module_at(base, path)
    inside = dict(module.named_children())
    projections = [name for name, child in inside.items() if isinstance(child, Projection | BiasOnly)]
    block = re.match(r"(.+\.)?\d+\.", path)
    emptied = [each for each, sizes in linears.items() if block and each.startswith(block[0]) and sizes[0] == 0]
    if not projections or not set(owned) <= inside.keys() or not set(owned[:1]) <= set(projections) or not emptied:
        raise ValueError(f"the checkpoint says that {path} has no heads, which is a {type(module).__name__}")


def check_stored(model: Any, files: Iterable[Any]) -> None:
    """Refuse weights that a model of the checkpoint's sizes has no place for, by the headers of their files.

    Raises:
        ValueError: names the first of them.
    """
    for file in files:
        if str(file).endswith(".safetensors"):
            with safe_open(str(file), framework="pt") as stored:
                refuse_unplaced(model, stored.keys())


def refuse_unplaced(model: Any, names: Iterable[str]) -> None:
    """Refuse names of weights of the model without its head that it has no place for; weights of a head are ignored.

    Buffers that some files hold, and whole modules that a class leaves out, such as a pooler, are ignored as well.

    Raises:
        ValueError: names the first, and the number of all.
    """
    ignored = [re.compile(each) for each in model._keys_to_ignore_on_load_unexpected or ()]
    absent = [name for name in names if _is_unplaced(model, name) and not any(each.search(name) for each in ignored)]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(f"there are weights {absent[0]}{more}, for which config.json leaves no place")


def _is_unplaced(model: Any, name: str) -> bool:
    """Tell whether a weight belongs to a block that the base model lacks, or to a module that lacks that parameter."""
    *path, parameter = name.removeprefix(f"{model.base_model_prefix}.").split(".")
    module: nn.Module = model.base_model
    for part in path:
        inside = dict(module.named_children())
        if part not in inside:
            return isinstance(module, nn.ModuleList) and part.isdigit()
        module = inside[part]
    holds = any(True for _ in module.parameters(recurse=False))
    return bool(path) and holds and parameter in ("weight", "bias") and getattr(module, parameter, None) is None
