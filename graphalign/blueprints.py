"""The code of a network by name: a factory of the user, a model of timm or transformers, or the folder of such a model."""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphalign.errors import InvalidInput, first_line
from graphalign.named_code import call_named, parse_call

CONFIG = "config.json"
MOST_LAYERS = 10_000
IMAGE_SIZE = 224
"""Height and width of images for models of transformers that do not say one."""
EXPECTED = "expected module:factory, file.py:factory, or the name of a timm or transformers model"


@dataclass(frozen=True)
class Blueprint:
    """The code of a network.

    Attributes:
        module: with any weights.
        example_input: an input of it, where the code says one.
    """

    module: nn.Module
    example_input: Any = None


def blueprint(name: str) -> Blueprint:
    """The network of a name, built without downloading weights.

    Args:
        name: - "module:factory" or "file.py:factory", with arguments in parentheses if needed; the factory returns a module, or a
              module and an example input. This runs the code of that file.
            - the name of a model that timm knows, such as "resnet18(num_classes=10)".
            - the name of a model of the Hugging Face hub, or a folder with its config.json, built by transformers.

    Raises:
        InvalidInput: no such code, a library that is not installed, or code that raises.
    """
    with torch.random.fork_rng(devices=[]):
        if ":" in name:
            return _by_factory(name)
        if (Path(name) / CONFIG).is_file():
            return from_folder(Path(name))
        model, args, options = parse_call(name, "arch")
        if args:
            raise InvalidInput(f"arch: found {name!r}, expected arguments with their names, such as {model}(num_classes=10)")
        tried = []
        for library, build in (("timm", _by_timm), ("transformers", _by_transformers)):
            if find_spec(library) is None:
                tried.append(f"{library} is not installed")
                continue
            try:
                if (found := build(model, options)) is not None:
                    return found
                tried.append(f"{library} knows no such model")
            except Exception as error:  # noqa: BLE001 (a library of its own)
                tried.append(f"{library}: {first_line(error)}")
    raise InvalidInput(f"arch: found {name!r}, {EXPECTED}:\n" + "\n".join(f"  - {t}" for t in tried))


def from_folder(folder: Path) -> Blueprint:
    """The network of a folder in the layout of transformers, by its config.json; no code of the folder is run.

    Raises:
        InvalidInput: transformers is not installed, or does not know the architecture.
    """
    if find_spec("transformers") is None:
        raise InvalidInput(f"{folder / CONFIG} describes a model of transformers, which is not installed; pip install transformers, or pass arch")
    try:
        found = _by_transformers(str(folder), {}, local=True)
    except Exception as error:  # noqa: BLE001 (a library of its own)
        raise InvalidInput(f"{folder / CONFIG}: transformers cannot build this network: {first_line(error)}; pass arch module:factory") from None
    assert found is not None
    return found


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder has a config.json that names a model of transformers."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "model_type" in content


def _check_size(config: Any, build: Any, folder: Path) -> None:
    """Returns nothing if a network is no larger than the weights beside its configuration, which may claim anything."""
    stored = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin") and file.is_file())
    layers = [value for key, value in config.to_dict().items() if "layer" in key and isinstance(value, int)]
    if max(layers, default=0) > MOST_LAYERS:
        raise InvalidInput(f"found {max(layers)} layers, expected {MOST_LAYERS} at most")
    with torch.device("meta"):
        claimed = sum(p.numel() for p in build(config).parameters())
    if claimed > 8 * stored + (1 << 20):  # a byte holds 8 weights at most
        raise InvalidInput(f"found a network of {claimed} parameters beside {stored} bytes of weights; the two do not belong together")


def _by_factory(name: str) -> Blueprint:
    made = call_named(name, "arch")
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InvalidInput(f"arch: {name} returned {type(module).__name__}, expected a torch.nn.Module, alone or with an example input")
    return Blueprint(module.eval(), example)


def _by_timm(name: str, options: dict[str, Any]) -> Blueprint | None:
    timm: Any = import_module("timm")
    if not timm.is_model(name):
        return None
    module = timm.create_model(name, pretrained=False, **options).eval()
    size = getattr(module, "pretrained_cfg", {}).get("input_size")
    if size is None:
        return Blueprint(module)
    channels, *positions = size  # of the model as it was published; arguments may change both
    asked = options.get("img_size", positions)
    return Blueprint(module, torch.zeros(1, options.get("in_chans", channels), *(asked if isinstance(asked, (tuple, list)) else (asked, asked))))


def _by_transformers(name: str, options: dict[str, Any], local: bool = False) -> Blueprint | None:
    transformers: Any = import_module("transformers")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what goes wrong is said once, by the exception
    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, local_files_only=local, **options)
    kind = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None) or transformers.AutoModel.from_config
    if local:
        _check_size(config, kind, Path(name))
    module = kind(config)
    return Blueprint(module.eval(), _example(module, config))


def _example(module: Any, config: Any) -> dict[str, Any] | None:
    """An input that transformers would make for a model; None if it makes none for its main argument."""
    name = getattr(module, "main_input_name", "")
    if name == "pixel_values":
        size, channels = getattr(config, "image_size", None) or IMAGE_SIZE, getattr(config, "num_channels", 3)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return {name: torch.zeros(1, channels, height, width)}
    taken = inspect.signature(module.forward).parameters
    example = {key: value for key, value in module.dummy_inputs.items() if key in taken}
    if name not in example:
        return None
    return {**example, "use_cache": False} if "use_cache" in taken else example
