"""Arguments and options that commands about networks share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NETWORK = "A .safetensors, .safetensors.index.json, .pt, .pth or .bin file, or a folder with model.safetensors (or its shards)."
NETWORKS, DATA_PANEL, OUTPUT = "What the networks are", "Data", "Output"

Network = Annotated[Path, typer.Argument(help=NETWORK, show_default=False)]
NetworkA = Annotated[Path, typer.Argument(metavar="A", help=f"The reference. {NETWORK}", show_default=False)]
NetworkB = Annotated[Path, typer.Argument(metavar="B", help="The network whose units are moved.", show_default=False)]

Arch = Annotated[
    str | None,
    typer.Option(
        help="Code of the networks: module:factory or file.py:factory (which is run), with arguments as in models:resnet(width=64), or the "
        "name of a timm or transformers model. Plain chains (MLP, CNN, VGG) need none.",
        rich_help_panel=NETWORKS,
    ),
]  # fmt: skip
Input = Annotated[
    str | None,
    typer.Option(
        help="An input of that code: 1x3x32x32, or 1x16@1000 for whole numbers below 1000; several with commas, by keyword with name=.",
        rich_help_panel=NETWORKS,
    ),
]  # fmt: skip
Spec = Annotated[Path | None, typer.Option(help="File of a spec (.yaml, .json), for networks without code.", rich_help_panel=NETWORKS)]
Fixed = Annotated[
    list[str] | None,
    typer.Option(help="An operator or module path through which nothing may move; may be repeated.", rich_help_panel=NETWORKS),
]

Method = Annotated[str, typer.Option(help="How units are aligned; see graphalign methods.")]
Init = Annotated[str | None, typer.Option(help="A method that runs first.")]
Refine = Annotated[list[str] | None, typer.Option(help="A method that goes on from the result; may be repeated.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method, such as restarts=4; may be repeated.")
]

Data = Annotated[
    str | None,
    typer.Option(
        help="Held-out batches on which networks are measured: the name of an image data set with an optional split (digits, cifar10:train), "
        "a .safetensors or .npz file with inputs and targets, or module:factory of a loader.",
        rich_help_panel=DATA_PANEL,
    ),
]  # fmt: skip
AlignData = Annotated[
    str | None,
    typer.Option(help="Training batches that methods see, labelled or not as they need; named as --data.", rich_help_panel=DATA_PANEL),
]
DataRoot = Annotated[
    Path | None, typer.Option(envvar="GRAPHALIGN_DATA", help="Folder with image data sets; the digits need none.", rich_help_panel=DATA_PANEL)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples in a batch.", rich_help_panel=DATA_PANEL)]
Loss = Annotated[str, typer.Option(help="What labels are judged by: cross_entropy or mse.", rich_help_panel=DATA_PANEL)]
ResetBatchNorm = Annotated[
    str | None, typer.Option(help="Training batches for BatchNorm statistics on the line; named as --data.", rich_help_panel=DATA_PANEL)
]
Points = Annotated[int, typer.Option(min=3, max=1001, help="Points on the line between two networks.", rich_help_panel=DATA_PANEL)]

Report = Annotated[Path | None, typer.Option(help="Write a report with figures to this .html file.", rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist. Inputs are never changed.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and the result.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what is going on, with times.", rich_help_panel=OUTPUT)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
