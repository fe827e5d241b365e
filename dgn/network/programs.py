"""Exported programs from files: ``torch.export`` (``.pt2``) and TorchScript, read only where they are plain arithmetic.

``torch.export.load`` unpickles whatever an archive marks as pickled, evaluates the strings of its symbolic shapes and
looks up the functions that its nodes name. An archive is therefore read here first, as JSON and bytes, and refused
where it holds anything beyond tensors and PyTorch's own operators. TorchScript runs in PyTorch's own interpreter, which
knows no Python; programs that touch files are refused.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dgn.errors import DgnError

_FILES = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|extra/.*"
    r"|serialized_exported_program\.json|serialized_(state_dict|constants|example_inputs)\.pt|extra_files/.*"
)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.(__(and|or|xor|lshift|rshift)__|\w+)(\.\w+)?"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_(int|float|max|min|not|sqrt|sum|ite)|math\.(ceil|floor|trunc|sqrt)"
)
_FILE_OPERATOR = re.compile(r"\.(save|from_file)\b")
_PLAIN = re.compile(r"[\w.:-]*")
_SHAPE = re.compile(r"[\w\s(),=!+*/<>.'-]*")
_SHAPE_CALLS = re.compile(
    "Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|ModularIndexing|CeilDiv|CleanDiv|Where|Abs"
    "|floor|ceiling|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|(Strict)?LessThan|(Strict)?GreaterThan|And|Or|Not|Identity"
    "|TruncToInt|TruncToFloat|CeilToInt|FloorToInt|RoundToInt|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow"
)
_GUARD = re.compile(r"[\w\s(),\[\]=!+*/<>.'%-]*")
_GUARD_WORDS = re.compile(
    r"L|args|kwargs|size|stride|torch|sym_(max|min|int|float|not|sqrt|ite|sum)|math|isnan|inf|floor|ceil|and|or|not"
    r"|int|float|max|min|None|True|False|[su]\d+"
)
_TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
          "torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict")  # fmt: skip
_PROGRAM = ("models/model.json", "serialized_exported_program.json")


def load_export(path: Path) -> torch.export.ExportedProgram:
    """A ``torch.export`` program from its file.

    Raises:
        DgnError: no such file, no such program, or one that holds more than tensors and PyTorch's operators.
    """
    data = _bytes(path)
    try:
        reason = _beyond_arithmetic(data)
    except Exception as error:
        raise DgnError(f"{str(path)!r} is no torch.export program") from error
    if reason:
        raise DgnError(f"{str(path)!r} is no plain torch.export program: it holds {reason}; dgn does not open it")
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch.export logs a traceback before it raises
    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:
        raise DgnError(f"{str(path)!r} is no torch.export program that this PyTorch can load") from error
    finally:
        logging.disable(quiet)


def load_script(path: Path) -> nn.Module:
    """A TorchScript program from its file.

    Raises:
        DgnError: no such file, no such program, or one that reads or writes files.
    """
    data = _bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sources = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")]
        touches = any(_FILE_OPERATOR.search(source) for source in sources)
        module = None if touches or not sources else torch.jit.load(io.BytesIO(data), map_location="cpu")
    except Exception as error:
        raise DgnError(f"{str(path)!r} is no torch.export or TorchScript program") from error
    if touches:
        raise DgnError(f"{str(path)!r} is a TorchScript program that reads or writes files; dgn does not open it")
    if module is None:
        raise DgnError(f"{str(path)!r} is no torch.export or TorchScript program")
    return module


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise DgnError(f"no file {str(path)!r}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DgnError(f"can't read {str(path)!r}: {error.strerror}") from error


def _beyond_arithmetic(data: bytes) -> str:
    """What an archive holds beyond tensors and PyTorch's operators; empty where nothing."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len({name.casefold() for name in names}) != len(names):  # PyTorch's reader does not tell case apart
            return "two files of one name"
        top = names[0].split("/", 1)[0] + "/"
        top = top if all(name.startswith(top) for name in names) else ""
        inside = {name.removeprefix(top): name for name in names}
        stray = next((name for name in inside if not _FILES.fullmatch(name)), None)
        if stray is not None:
            return f"the file {stray!r}"
        if sum(name in inside for name in _PROGRAM) != 1:
            return "no program" if not any(name in inside for name in _PROGRAM) else "two programs"
        for name, whole in inside.items():
            content = archive.read(whole)
            if name in _PROGRAM:
                reason = _beyond_operators(json.loads(content))
                if reason:
                    return reason
            elif name.endswith(".pt") or _pickled(inside, archive, name):
                try:
                    torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                except Exception:
                    return f"pickled objects in {name!r}"
    return ""


def _pickled(inside: dict[str, str], archive: zipfile.ZipFile, name: str) -> bool:
    """Whether the archive's tables mark this tensor as one that PyTorch would unpickle."""
    folder, _, file = name.rpartition("/")
    kind = folder.rpartition("/")[2]
    table = f"{folder}/model_{kind}_config.json"
    if table == name or table not in inside or kind not in ("weights", "constants"):
        return False
    entries = json.loads(archive.read(inside[table]))["config"].values()
    return any(entry["path_name"] == file and entry["use_pickle"] for entry in entries)


def _beyond_operators(program: Any) -> str:
    for key, value in _strings(program, ""):
        if key == "target":
            fine = bool(_OPERATOR.fullmatch(value)) and not _FILE_OPERATOR.search(value)
        elif key == "expr_str":
            calls = re.findall(r"(\w+)\s*\(", value)
            fine = bool(_SHAPE.fullmatch(value)) and not re.search(r"__|\.\s*[A-Za-z_]|[)']\s*\(", value)
            fine = fine and all(_SHAPE_CALLS.fullmatch(call) for call in calls)
        elif key == "guards_code":
            words = re.findall(r"[A-Za-z_]\w*", re.sub(r"\['\w+'\]", "", value))
            fine = bool(_GUARD.fullmatch(value)) and all(_GUARD_WORDS.fullmatch(word) for word in words)
        elif key in ("in_spec", "out_spec"):
            fine = not value or all(kind in _TREES for kind in _tree_types(json.loads(value)))
        elif key in ("as_string", "as_strings"):
            fine = True  # PyTorch writes these with repr()
        elif key in ("as_custom_obj", "custom_obj_values", "treespec_namedtuple_fields"):
            fine = False
        else:
            fine = bool(_PLAIN.fullmatch(value))
        if not fine:
            return f"{value[:60]!r} as {key or 'a name'}"
    return ""


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string of the program with the key it stands under, keys of tables themselves included; no metadata."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in ("metadata", "torch_version"):
                yield ("expr_str" if key == "range_constraints" else ""), str(name)
                yield from _strings(item, str(name))


def _tree_types(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "type" in node:
            yield node["type"]
        for item in node.values():
            yield from _tree_types(item)
    elif isinstance(node, list):
        for item in node:
            yield from _tree_types(item)
