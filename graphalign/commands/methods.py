"""`graphalign methods`: what there is to align networks by."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphalign.commands.options import Json, Quiet, Verbose


def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to see its settings.", show_default=False)] = None,
    json: Json = False, quiet: Quiet = False, verbose: Verbose = False,
) -> None:  # fmt: skip
    """List the alignment methods, or the settings of one."""
    from graphalign.commands.session import session, table

    with session(json, quiet, verbose) as out:
        from graphalign.errors import InvalidInput
        from graphalign.methods import METHODS, list_methods

        if name is not None and name not in METHODS:
            raise InvalidInput(f"methods: found {name!r}, expected one of {', '.join(list_methods())}")
        chosen = list_methods() if name is None else [name]
        content = {key: _content(METHODS[key]) for key in chosen}
        if name is None:
            text = table(("method", "needs"), [(key, ", ".join(METHODS[key].needs) or "-") for key in chosen])
            text = "\n".join(f"{key:<18}{METHODS[key].description}" for key in chosen)
            out.result({"methods": content}, f"{text}\n\ngraphalign methods NAME shows the settings of one.")
            return
        method, settings = METHODS[name], content[name]["settings"]
        lines = [f"{name}: {method.description}", f"source: {method.source}", f"needs: {', '.join(method.needs) or 'weights alone'}"]
        lines.append(f"starts from the result of another method: {'yes' if method.starts else 'no'}")
        listed = table(("setting", "default"), [(key, str(value)) for key, value in settings.items()]) if settings else "It has no settings."
        out.result({"methods": content}, "\n".join([*lines, "", listed]))


def _content(method: Any) -> dict[str, Any]:
    import dataclasses

    defaults = method.settings()
    settings = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(method.settings) if f.init}
    plain = {key: value if isinstance(value, (int, float, str, bool, type(None))) else str(value) for key, value in settings.items()}
    return {"description": method.description, "source": method.source, "needs": list(method.needs), "starts": method.starts, "settings": plain}
