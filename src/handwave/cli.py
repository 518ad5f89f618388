"""Audit a model from the command line: `handwave audit package.module:factory --shape 32,784`."""

import argparse
import importlib.metadata
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch
from torch import nn

from handwave.auditing import audit
from handwave.loading import (
    CouldNotTellError,
    calling,
    current_folder_importable,
    draw_inputs,
    find_model,
    read_inputs,
    shown,
)
from handwave.reports import Report
from handwave.stdout import stdout_apart

_HEALTHY, _FAILURES, _COULD_NOT_TELL, _INTERRUPTED = 0, 1, 2, 130

_FLOATING = {str(d)[6:]: d for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
_INTEGER = "int64"

_ADVICE = "if its inputs do not fit it, see --shape, --high, --dtype, --inputs and --forward-only"
_EPILOG = """\
exit status:
  0  healthy
  1  failures: what would stop training, named in the report
  2  could not tell: the one line on stderr says why

examples:
  handwave audit model:make --shape 32,784
  handwave audit package.gpt:GPT.small --shape 4,128 --high 50257 --dtype float16
  handwave audit model:net --inputs batch.pt --json --plot report.svg
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CouldNotTellError(f"{message}; {self.prog} --help lists what there is")

    def _print_message(self, message: str, file: Any = None) -> None:
        _say(message.rstrip("\n"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command `handwave`.

    Args:
        arguments: what follows the command's name; by default what the shell gave, and then
            stdout is not given back: what is written there from now on goes to stderr.

    Returns:
        The exit status: 0 healthy, 1 failures, 2 could not tell, 130 interrupted.

    Raises:
        SystemExit: after --help and --version.

    Examples:
        >>> main(["audit", "torch:nn.Tanh", "--shape", "eight"])  # says why on stderr
        2

    References:
        Lesson 15, "your network".
    """
    try:
        options = _parser().parse_args(arguments)
        with stdout_apart(arguments is None) as out, current_folder_importable():
            return _audit(options, out)
    except CouldNotTellError as error:
        # An exception of the model may have a message of many lines.
        print("handwave:", " ".join(str(error).split()), file=sys.stderr)
        return _COULD_NOT_TELL
    except KeyboardInterrupt:
        print("handwave: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    about = "Which layer of a torch network lets its signal explode, vanish or die, and why."
    parser = _Parser(prog="handwave", description=about)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "audit",
        help="run a model once, forward and backward, and hold every layer to what is expected",
        description=f"{about} Runs the model once on random or given inputs; changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "target",
        metavar="MODULE:FACTORY",
        help="a function without arguments that returns a torch.nn.Module, or such a module; "
        "the current folder is searched first",
    )
    _add_model(command.add_argument_group("the model and its inputs"))
    _add_answer(command.add_argument_group("the answer"))
    return parser


def _add_model(group: Any) -> None:
    group.add_argument(
        "--shape",
        action="append",
        type=_shape,
        metavar="32,784",
        help="an input of standard normal numbers, the batch first; again for a second argument",
    )
    group.add_argument(
        "--high", type=_high, metavar="N", help="inputs are whole numbers from 0 to N - 1 instead"
    )
    group.add_argument(
        "--inputs",
        metavar="FILE.pt",
        help="inputs kept by torch.save: a tensor, a tuple or list of arguments, or a dict of "
        "arguments by name",
    )
    group.add_argument(
        "--dtype",
        choices=[*_FLOATING, _INTEGER],
        help="of the floating inputs and the model (default: the model's own); int64: of the "
        "inputs alone, needs --high",
    )
    group.add_argument(
        "--seed", type=_seed, default=0, help="of the weights and inputs drawn (default: 0)"
    )
    modes = group.add_mutually_exclusive_group()
    modes.add_argument("--train", action="store_true", help="call model.train() first")
    modes.add_argument("--eval", action="store_true", help="call model.eval() first")
    group.add_argument("--forward-only", action="store_true", help="leave out the gradients")


def _add_answer(group: Any) -> None:
    group.add_argument("--json", action="store_true", help="print JSON, and nothing else, instead")
    group.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the report as well; .svg, .png, .pdf and what else matplotlib writes",
    )


def _version() -> str:
    try:
        return f"handwave {importlib.metadata.version('handwave')}"
    except importlib.metadata.PackageNotFoundError:
        return "handwave, not installed: run from its source"


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.removesuffix(",").split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes):
        message = f"expected whole numbers above 0 with commas between, as in 32,784, got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return tuple(map(int, sizes))


def _high(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    # numpy takes no others.
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to 2**32 - 1, got {text!r}"
        )
    return int(text)


def _audit(options: argparse.Namespace, out: TextIO) -> int:
    """Do what the command asks; return its status."""
    _check(options)
    # Files are those of the folder that we are in now: the model may go to another.
    options.plot = options.plot and options.plot.absolute()
    options.inputs = options.inputs and str(Path(options.inputs).absolute())
    model = _prepared(find_model(options.target, options.seed), options)
    inputs = _inputs(options, model)
    with calling("the model", _ADVICE):
        report = audit(model, inputs, backward=not options.forward_only)
    if options.json:
        _say(json.dumps(report.to_dict(), indent=2, allow_nan=False), out)
    else:
        _say(str(report), out)
    if options.plot:
        _draw(report, options.plot)
    return _HEALTHY if report.ok else _FAILURES


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything takes time."""
    if not options.shape and not options.inputs:
        raise CouldNotTellError("no inputs: give --shape 32,784 or --inputs file.pt")
    for name in ("shape", "high"):
        if options.inputs and getattr(options, name):
            raise CouldNotTellError(f"--inputs and --{name} both say what the inputs are: drop one")
    if options.dtype == _INTEGER and not options.high:
        raise CouldNotTellError(f"--dtype {_INTEGER} needs --high N, to draw numbers below N")
    if options.plot:
        _check_plot(options.plot)


def _check_plot(path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it
    except ImportError:
        message = "--plot needs matplotlib, which is not installed: pip install matplotlib"
        raise CouldNotTellError(message) from None
    known = [f".{kind}" for kind in sorted(Figure().canvas.get_supported_filetypes())]
    if path.suffix.lower() not in known:
        got = f"got {str(path)!r}"
        raise CouldNotTellError(f"--plot: expected a name that ends in {', '.join(known)}, {got}")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "stands in a folder that does not exist"
        raise CouldNotTellError(f"--plot: {str(path)!r} {what}; name a file in one that does")


def _prepared(model: nn.Module, options: argparse.Namespace) -> nn.Module:
    """Bring the model to the dtype and into the mode asked for."""
    with calling("the model"):
        if options.dtype in _FLOATING:
            model = model.to(_FLOATING[options.dtype])
        return model.train(options.train) if options.train or options.eval else model


def _inputs(options: argparse.Namespace, model: nn.Module) -> Any:
    if options.inputs:
        return read_inputs(options.inputs, model, _FLOATING.get(options.dtype))
    return draw_inputs(options.shape, model, options.high)


def _draw(report: Report, path: Path) -> None:
    """Write the picture whole or not at all."""
    picture = io.BytesIO()
    report.plot().savefig(picture, format=path.suffix[1:].lower())
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(picture.getvalue())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CouldNotTellError(f"--plot {shown(path)}: {error.strerror or error}") from None


def _say(text: str, out: TextIO | None = None) -> None:
    """Print; that whoever reads has gone, as `head` does, is no error."""
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        return
    except (OSError, ValueError) as error:  # a full disk; it was closed
        why = getattr(error, "strerror", None) or error
        raise CouldNotTellError(f"the report cannot be written: {why}") from None
