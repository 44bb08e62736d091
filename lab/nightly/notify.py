"""Telling people: a webhook, a mail, a chat, through Apprise."""

from __future__ import annotations

from lab.config_fields import reveal
from lab.errors import InfrastructureError, ToolMissing
from lab.nightly.config import Notify


def notify(config: Notify, title: str, body: str, *, good: bool) -> None:
    """Send a summary to every address; all are tried, whatever becomes of the others.

    Args:
        config: who is told. The addresses hold secrets and are never shown.
        title: one line.
        body: Markdown.
        good: whether the night was a good one.

    Raises:
        ToolMissing: Apprise is not installed.
        InfrastructureError: an address is none, or the message could not be delivered; says to which kind of service.
    """
    try:
        import apprise
    except ImportError as error:
        raise ToolMissing("notify: needs the package apprise", hint="pip install 'hil-lab[notify]'") from error
    failed = []
    for number, url in enumerate(config.urls, 1):
        service = apprise.Apprise.instantiate(reveal(url), suppress_exceptions=True)
        name = f"address {number} ({type(service).__name__.removeprefix('Notify') or 'unknown'})"
        if service is None:
            failed.append(f"address {number} is no address that Apprise knows")
        elif not service.notify(
            title=title,
            body=body,
            body_format=apprise.NotifyFormat.MARKDOWN,
            notify_type=apprise.NotifyType.SUCCESS if good else apprise.NotifyType.FAILURE,
        ):
            failed.append(f"{name} did not take it")
    if failed:
        raise InfrastructureError(
            f"the summary reached {len(config.urls) - len(failed)} of {len(config.urls)} addresses: "
            + "; ".join(failed),
            hint="try the address by hand: apprise -vv -t test -b test URL",
        )
