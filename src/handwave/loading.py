"""Make a model and its inputs from what stands on a command line."""

import contextlib
import difflib
import importlib
import inspect
import os
import random
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OWN = str(Path(__file__).parent)


class CouldNotTellError(Exception):
    """Say in one line why there is no report; of its own kind, to be told from a model's errors."""


def find_model(target: str, seed: int = 0) -> nn.Module:
    """Import a module, or call the function that makes it.

    Args:
        target: "package.module:factory"; dots may follow the colon.
        seed: of torch's, Python's and numpy's generators: before the import, and again before
            the call, whatever the import drew.

    Returns:
        The module, in the mode, dtype and device that its maker gave it.

    Raises:
        CouldNotTellError: nothing there, nothing that makes a module, or it raised.

    Examples:
        >>> find_model("torch:nn.Tanh")
        Tanh()
    """
    _seed_all(seed)
    with calling(target):
        found = _find(target)
    if isinstance(found, nn.Module):
        return found
    model = _made(found, target, seed) if callable(found) else found
    if not isinstance(model, nn.Module):
        does = "returned" if callable(found) else "is"
        raise CouldNotTellError(
            f"{target} {does} {type(model).__name__}, expected a torch.nn.Module or a function "
            "without arguments that returns one"
        )
    return model


def draw_inputs(
    shapes: Sequence[tuple[int, ...]], model: nn.Module, high: int | None = None
) -> tuple[Tensor, ...]:
    """Draw an input of each shape, where the model's weights are.

    The numbers go on where the model's weights ended: from the same seed anew they would be the
    numbers that the weights were made of.

    Args:
        shapes: one a positional argument, the batch first.
        model: gives dtype and device.
        high: draw whole numbers from 0 to high - 1, each as likely, instead of standard normals.

    Raises:
        CouldNotTellError: more numbers than the memory holds.

    Examples:
        >>> [x.dtype for x in draw_inputs([(8, 3)], nn.Linear(3, 4).double())]
        [torch.float64]
    """
    dtype, device = _home(model)
    try:
        if high:
            return tuple(torch.randint(high, shape).to(device) for shape in shapes)
        return tuple(torch.randn(shape).to(device, dtype) for shape in shapes)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise CouldNotTellError(f"cannot draw inputs of these shapes: {error}") from None


def read_inputs(path: str, model: nn.Module, dtype: torch.dtype | None = None) -> Any:
    """Read what torch.save wrote: a tensor, a tuple or list of arguments, or a dict by name.

    Args:
        path: where it lies; read with weights_only=True, so that it cannot run code.
        model: gives the device.
        dtype: of the floating tensors; None leaves them as they are.

    Raises:
        CouldNotTellError: no such file, another kind of file, or another kind of content.
    """
    name = shown(path)
    try:
        found = torch.load(path, map_location=_home(model)[1], weights_only=True)
    except OSError as error:
        raise CouldNotTellError(f"--inputs {name}: {error.strerror or error}") from None
    except Exception as error:  # whatever a file of another kind makes unpickling raise
        raise CouldNotTellError(
            f"--inputs {name}: expected a file of torch.save that holds nothing but tensors, "
            f"numbers, strings, tuples, lists and dicts; reading it raised {type(error).__name__}"
        ) from None
    by_name = isinstance(found, dict) and all(isinstance(key, str) for key in found)
    if not by_name and not isinstance(found, Tensor | tuple | list):
        raise CouldNotTellError(
            f"--inputs {name} holds {type(found).__name__}, expected a tensor, a tuple or list of "
            "arguments, or a dict of arguments by name"
        )
    found = tuple(found) if isinstance(found, list) else found
    return _converted(found, dtype) if dtype else found


@contextlib.contextmanager
def current_folder_importable() -> Iterator[None]:
    """Look for modules in the current folder first, as `python -m` does."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def calling(what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever is raised inside into one line that names its place, and what to do.

    Raises:
        CouldNotTellError: anything was raised; a KeyboardInterrupt passes as it is.
    """
    try:
        yield
    except (CouldNotTellError, KeyboardInterrupt):
        raise
    except BaseException as error:  # of any kind: one line is all that a model may make of it
        told = f"{type(error).__name__}: {_message(error)}"
        place = _place(error)
        message = f"{what} raised {told} ({place})" if place else f"{what} was refused: {told}"
        raise CouldNotTellError(f"{message}; {advice}" if advice else message) from None


def _find(target: str) -> Any:
    """Import the module, and follow the dots after the colon."""
    name, _, attributes = target.partition(":")
    parts = [*name.split("."), *attributes.split(".")]
    if not all(part.isidentifier() for part in parts) or name.endswith(".py"):
        message = f"expected package.module:factory, as in model:make, got {target!r}"
        raise CouldNotTellError(message)
    found = _imported(name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            near = difflib.get_close_matches(attribute, dir(found), n=3)
            like = f"; near it: {', '.join(near)}" if near else ""
            raise CouldNotTellError(f"{target}: no {attribute!r} in {name}{like}")
        found = getattr(found, attribute)
        name = f"{name}.{attribute}"
    return found


def _imported(name: str) -> Any:
    with calling(f"importing {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Another name than the one asked for is missing inside the module: its own error.
            if not error.name or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise CouldNotTellError(
                f"no module named {error.name!r}, neither in this folder nor installed: change to "
                "the folder that holds it"
            ) from None


def _made(factory: Callable[..., Any], target: str, seed: int) -> Any:
    """Call the factory, with the same random numbers whatever its import has drawn."""
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        message = f"{target}: {error}; name a function that needs no arguments"
        raise CouldNotTellError(message) from None
    except ValueError:  # written in C, without a signature: the call itself will tell
        pass
    _seed_all(seed)
    with calling(target):
        return factory()


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _home(model: nn.Module) -> tuple[torch.dtype, torch.device]:
    """Return dtype and device of the model's first floating parameter."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return like.dtype, like.device


def _converted(inputs: Any, dtype: torch.dtype) -> Any:
    """Bring floating tensors to a dtype, also those inside."""
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {name: _converted(value, dtype) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(_converted(value, dtype) for value in inputs)
    return inputs


def _place(error: BaseException) -> str:
    """Name file and line of the last step in code that is neither ours nor a library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    folders = sysconfig.get_paths()
    libraries = (folders["stdlib"], folders["purelib"], folders["platlib"], _OWN, "<")
    users = [frame for frame in frames if not frame.filename.startswith(libraries)]
    last = (users or frames)[-1]
    return "" if last.filename.startswith(_OWN) else f"{shown(last.filename)}:{last.lineno}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"(its message raised {type(second).__name__})"


def shown(name: str | Path) -> str:
    """Name a file as seen from the current folder, if it lies there."""
    path = Path(name)
    with contextlib.suppress(OSError):  # the folder has gone
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return str(path)
