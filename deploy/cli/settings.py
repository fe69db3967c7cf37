"""`perdure settings`: what is set, and where that comes from."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from ...entities.duration import seconds
from ...entities.settings import Settings, load_with_sources
from .options import NO_OPTIONS, Common
from .output import compact
from .trouble import SUCCESS, UsageError

DEFAULT = "default"
"""The source of what isn't set anywhere."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, as `--json` prints it."""

    setting: str
    value: Any
    """Durations in seconds, secrets as `***`."""
    source: str
    default: Any


def settings(
    *names: str,
    changed: Annotated[bool, Parameter(negative="")] = False,
    common: Common = NO_OPTIONS,
) -> int:
    """Print the settings that a command here would have, each with where it comes from.

    An argument beats `PERDURE_<NAME>`, that beats `NATS_URL` and the NATS context, that beats
    `perdure.toml` in the current folder, that beats the default. Secrets are never printed.

    For instance:

    * `perdure settings --changed`
    * `perdure settings url namespace --json`
    * `PERDURE_SHARDS=32 perdure settings shards`

    Parameters
    ----------
    names
        Only these: `url`.
    changed
        Only what isn't at its default.
    """
    try:
        found, sources = load_with_sources(url=common.url, namespace=common.namespace)
    except ValueError as error:
        raise UsageError(f"settings: {error}", "correct it where the line says") from None
    for name in names:
        if name not in sources:
            raise UsageError(f"no setting {name!r}", "perdure settings lists them all")
    chosen = [
        one
        for one in shown(found, sources)
        if (not names or one.setting in names) and not (changed and one.source == DEFAULT)
    ]
    output = common.output()
    for one in chosen if output.json else ():
        output.result(one)
    output.table(
        ("SETTING", "VALUE", "SOURCE"),
        [(one.setting, _text(one.value), one.source) for one in chosen],
    )
    return SUCCESS


def shown(found: Settings, sources: dict[str, str]) -> list[Setting]:
    """Every setting, with secrets hidden wherever `repr` of the settings hides them."""
    hidden = {name: str(text) for name, text in found.__rich_repr__()}
    listed: list[Setting] = []
    for field in msgspec.structs.fields(found):
        value = getattr(found, field.name)
        text = hidden.get(field.name)
        plain = value if text is None or text == repr(value) else text.strip("'")
        listed.append(
            Setting(
                setting=field.name,
                value=_plain(plain),
                source=sources[field.name],
                default=_plain(field.default),
            )
        )
    return listed


def _plain(value: Any) -> Any:
    return seconds(value) if isinstance(value, timedelta) else msgspec.to_builtins(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else compact(value)
