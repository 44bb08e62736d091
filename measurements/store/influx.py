"""The InfluxDB mirror: sends what the outbox holds.

Blocks are sent one by one through influxdb-client's synchronous write service, gzip as they were stored. Its batching
mode drops data without an error when retries are exhausted or the process dies, and its write API hides the status of
an answer; only 204 means that the server has the points. A block may be sent twice (a kill between the answer and the
removal): its timestamps are fixed, so the second copy overwrites the first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from lab.errors import ConfigError, ToolMissing
from measurements.store.local import OutboxBlock, Store

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient

_REFUSED = (400, 413, 422)
_ACCEPTED = 204
_PAGE = 50
_ANSWER_CHARACTERS = 2000


@dataclass(frozen=True)
class InfluxConfig:
    """Where the mirror is.

    Attributes:
        url: address of the server, without credentials.
        bucket: bucket; ``database`` or ``database/retention policy`` on InfluxDB 1.8 and later 1.x.
        token: API token (``user:password`` on 1.x); in no message and no representation.
        org: organisation of InfluxDB 2; ``-`` elsewhere.
    """

    url: str
    bucket: str
    token: str = field(repr=False)
    org: str = "-"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            hint = "put them into LAB_INFLUX_TOKEN as user:password"
            raise ConfigError("LAB_INFLUX_URL holds credentials", hint=hint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"LAB_INFLUX_URL is {self.url!r}; it must be like http://host:8086")

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """The configuration in ``LAB_INFLUX_URL``, ``_BUCKET``, ``_TOKEN`` and ``_ORG``; None where there is no URL.

        Raises:
            ConfigError: the URL is set and something else is missing or malformed.
        """
        url = environment.get("LAB_INFLUX_URL", "")
        if not url:
            return None
        missing = [name for name in ("LAB_INFLUX_BUCKET", "LAB_INFLUX_TOKEN") if not environment.get(name)]
        if missing:
            raise ConfigError(
                f"LAB_INFLUX_URL is set but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not",
                hint="set them, or unset LAB_INFLUX_URL to keep results in the local store only",
            )
        return cls(
            url=url,
            bucket=environment["LAB_INFLUX_BUCKET"],
            token=environment["LAB_INFLUX_TOKEN"],
            org=environment.get("LAB_INFLUX_ORG") or "-",
        )


@dataclass(frozen=True)
class FlushResult:
    """What became of the outbox.

    Attributes:
        sent: blocks that the server confirmed; they are out of the outbox.
        set_aside: blocks that it refused; they stay, with its answer, and are not sent again.
        kept: blocks still waiting.
        problem: why the flush stopped early, empty where it did not; never holds the token.
    """

    sent: int
    set_aside: int
    kept: int
    problem: str = ""


def flush(store: Store, config: InfluxConfig, timeout_s: float = 10.0) -> FlushResult:
    """Send what waits in the outbox, oldest first, until it is empty or the server stops taking it.

    Several processes may flush one store at once; a block they both send is stored once.

    Args:
        store: the local store.
        config: where to.
        timeout_s: for one block, seconds.

    Raises:
        ToolMissing: influxdb-client is not installed.
        StoreError: the outbox cannot be read or written.
    """
    try:
        from influxdb_client.client.influxdb_client import InfluxDBClient
    except ImportError as error:
        raise ToolMissing(
            "the InfluxDB mirror needs the package influxdb-client, which is not installed",
            hint="pip install 'hil-lab[influx]'",
        ) from error
    sent, refused, problem, last = 0, 0, "", 0
    timeout_ms = round(timeout_s * 1000)
    # Without retries the client follows no redirects either: an answer from somewhere else confirms nothing.
    with InfluxDBClient(
        url=config.url, token=config.token, org=config.org, timeout=timeout_ms, retries=False
    ) as client:
        while not problem and (page := store.pending(_PAGE, after=last)):
            for block in page:
                status, answer = _send(client, config, block)
                if status == _ACCEPTED:
                    store.confirm(block.block)
                    sent += 1
                elif status in _REFUSED:
                    store.refuse(block.block, f"{status}: {answer}")
                    refused += 1
                else:
                    problem = f"{config.url}: {f'answered {status}: ' if status else ''}{answer}"
                    break
                last = block.block
    return FlushResult(sent, refused, store.outbox_sizes()[0], problem)


def _send(client: InfluxDBClient, config: InfluxConfig, block: OutboxBlock) -> tuple[int, str]:
    """Status of the server's answer (0 where there was none) and its words, without the token."""
    from influxdb_client.rest import ApiException
    from influxdb_client.service.write_service import WriteService
    from urllib3.exceptions import HTTPError

    try:
        service = WriteService(client.api_client)  # type: ignore[no-untyped-call]
        _, status, _ = service.post_write_with_http_info(  # type: ignore[no-untyped-call]
            org=config.org,
            bucket=config.bucket,
            body=block.lines,
            precision="ns",
            content_encoding="gzip",
            content_type="text/plain; charset=utf-8",
        )
        return int(status), ""
    except ApiException as error:
        return int(error.status or 0), _without(config.token, str(error.body or error.reason or ""))
    except (HTTPError, UnicodeDecodeError) as error:
        return 0, _without(config.token, f"cannot be reached: {error}")


def _without(token: str, words: str) -> str:
    return words.strip().replace(token, "***")[:_ANSWER_CHARACTERS]
