"""Options: those that several verbs share, and how a dataclass becomes the options of a verb.

The options of a verb are the fields of one dataclass, made by `opt` and `arg`; its `__post_init__` checks them once:

    @dataclass(frozen=True, kw_only=True)
    class StatusOptions:
        index: IndexUri
        content: bool = opt(False, "Also read all video files.")

    @takes(StatusOptions)
    def command(options: StatusOptions) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from clipvip.jobs import Engine

T = TypeVar("T")
LAST = ("videos", "split", "engine", "address", "workers", "as_json", "device", "dtype")
"""In every help text these come after the options that a verb has for itself, in this order."""
TYPER = "typer"
"""Where the metadata of a field has what makes an option for typer. It gets the names of a flag that has no others."""


def opt(default: Any, help: str, *names: str, **settings: Any) -> Any:
    """A field that is an option. default: `...` if it has to be given. names, settings: those of `typer.Option`."""
    metadata = {TYPER: lambda flags: typer.Option(*(names or flags), help=help, **settings)}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


def arg(default: Any, metavar: str, help: str = "") -> Any:
    """A field that is an argument. default: `...` if it has to be given."""
    metadata = {TYPER: lambda _: typer.Argument(metavar=metavar, help=help or None)}
    return field(metadata=metadata) if default is ... else field(default=default, metadata=metadata)


IndexUri = Annotated[str, typer.Option("--index", metavar="URI", help="An index made by `clipvip index`.")]
Model = Annotated[str, typer.Option(help="Model folder or hub id (clipvip, or plain CLIP).")]
MovedModel = Annotated[str | None, typer.Option("--model", help="Where the model of the index is, if it has moved.")]
Manifest = Annotated[Path, typer.Argument(metavar="MANIFEST")]
JoinCaptions = Annotated[
    bool, typer.Option("--join-captions", help="One query per clip: its captions joined (paragraph retrieval).")
]
OnDecodeError = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="A clip that cannot be decoded: raise, or skip it (N is then smaller, and reported)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Which clips of a manifest, and where their files are."""

    videos: Path | None = opt(
        None, "Folder that media paths are relative to (default: the manifest's folder).", metavar="ROOT"
    )
    split: str | None = opt(None, "Only the clips of this split (default: all).")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What a model computes on, and in which precision."""

    device: str = opt("auto", "auto (CUDA, then MPS, then CPU), cpu, cuda, ...")
    dtype: str = opt(
        "auto", "float32, bfloat16 (several times faster where the hardware has it), or auto (bfloat16 on CUDA)."
    )


@dataclass(frozen=True, kw_only=True)
class JobOptions(DeviceOptions):
    """Who does the parts of a job."""

    engine: str = opt("local", "Processes of this machine, or actors of a Ray cluster.", metavar="local|ray")
    address: str | None = opt(None, "The Ray cluster (default: one started on this machine).", metavar="auto|HOST:PORT")
    workers: int | None = opt(
        None, "Processes that hold the model (default: 1; with --engine ray: one per GPU, or CPU).", min=1
    )


def takes(options: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a command of a function that takes the dataclass `options`, whose fields are what the command line has.

    A field `given` is no option: it gets the names of those that are on the command line, whatever their values are.
    """
    hints = get_type_hints(options, include_extras=True)
    declared: list[Field[Any]] = sorted(fields(options), key=_place)  # type: ignore[arg-type]
    parameters = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=_annotation(field, hints[field.name]),
        )
        for field in declared
        if field.name != "given"
    ]
    if "given" in hints:
        parameters.append(Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context))

    def decorate(run: Callable[[T], None]) -> Callable[..., None]:
        def command(*, context: typer.Context | None = None, **values: Any) -> None:
            if context is not None:
                values["given"] = _given(context)
            run(options(**values))

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _place(field: Field[Any]) -> int:
    return LAST.index(field.name) if field.name in LAST else -1


def _annotation(field: Field[Any], hint: Any) -> Any:
    if TYPER not in field.metadata:
        return hint  # a shared option, annotated as typer has it
    return Annotated[hint, field.metadata[TYPER]([option(field.name)] if hint is bool else [])]  # no --no-...


def _given(context: typer.Context) -> frozenset[str]:
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def option(name: str) -> str:
    """An option as it is written on the command line: "as_json" -> "--json"."""
    return "--" + name.removeprefix("as_").strip("_").replace("_", "-")


def crew(engine: str, address: str | None, workers: int | None, *, wants_gpu: bool = True) -> tuple[Engine, int]:
    """What `--engine`, `--address` and `--workers` ask for, for `run_job`. Raises: UsageError."""
    from clipvip.errors import UsageError
    from clipvip.jobs import local

    if engine == "local":
        if address is not None:
            raise UsageError(f"--address {address}: goes with --engine ray only")
        return local, workers or 1
    if engine != "ray":
        raise UsageError(f"--engine {engine}: choose local or ray")
    try:
        from clipvip.jobs import on_ray
    except ModuleNotFoundError:
        raise UsageError('--engine ray needs Ray: install it with `pip install "clipvip[scale]"`') from None
    return on_ray.join(address, workers, wants_gpu=wants_gpu)
