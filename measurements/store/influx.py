"""The InfluxDB mirror: sends what the outbox holds.

Blocks are sent through influxdb-client's synchronous write service, gzip as they were stored. Its batching
mode drops data without an error when retries are exhausted or the process dies, and its write API hides the status of
an answer; only 204 means that the server has the points. A block may be sent twice (a kill between the answer and the
removal): its timestamps are fixed, so the second copy overwrites the first.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from lab.errors import ConfigError, ToolMissing
from measurements.store.local import OutboxBlock, Store

if TYPE_CHECKING:
    from influxdb_client.client.influxdb_client import InfluxDBClient

_REFUSED = (400, 413, 422)
_ACCEPTED = 204
_BUSY = (429, 503)
_SHORTEST_PAUSE_S = 1.0
_PAGE = 32
# InfluxDB works on each connection's block on a core of its own; with two, one is parsed while one is on its way.
_CONNECTIONS = 2
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


def flush(
    store: Store,
    config: InfluxConfig,
    timeout_s: float = 10.0,
    *,
    patience_s: float = 30.0,
    wait: Callable[[float], None] = time.sleep,
) -> FlushResult:
    """Send what waits in the outbox, oldest first, until it is empty or the server stops taking it.

    Several processes may flush one store at once; a block they both send is stored once.

    Args:
        store: the local store.
        config: where to.
        timeout_s: for the server's next sign of life, seconds; a block's whole answer may take twice as long.
        patience_s: how long to wait in all where the server answers 429 or 503 and says when to come back, seconds.
        wait: how to wait so many seconds.

    Raises:
        ToolMissing: influxdb-client is not installed.
        StoreError: the outbox cannot be read or written.
    """
    require_client()
    sent, refused, waited_s, problem, last = 0, 0, 0.0, "", 0
    with _Senders(config, timeout_s) as senders:
        # The first block goes alone: a server that is not there is asked once.
        while not problem and (page := store.pending(_PAGE if sent else 1, after=last)):
            answers = senders.send(page)
            confirmed = [answer.block for answer in answers if answer.status == _ACCEPTED]
            store.confirm(confirmed)
            sent += len(confirmed)
            for answer in answers:
                if answer.status in _REFUSED:
                    store.refuse(answer.block, f"{answer.status}: {answer.words}")
                    refused += 1
            kept = [answer for answer in answers if answer.status not in (_ACCEPTED, *_REFUSED)]
            if not kept:
                last = page[-1].block
            elif (pause_s := _pause(kept)) is not None and waited_s + pause_s <= patience_s:
                wait(pause_s)
                waited_s += pause_s
            else:
                problem = f"{config.url}: {kept[0].problem}"
    return FlushResult(sent, refused, store.outbox_sizes()[0], problem)


def require_client() -> None:
    """Check that influxdb-client is there.

    Raises:
        ToolMissing: it is not.
    """
    try:
        import influxdb_client.client.influxdb_client  # noqa: F401
    except ImportError as error:
        raise ToolMissing(
            "the InfluxDB mirror needs the package influxdb-client, which is not installed",
            hint="pip install 'hil-lab[influx]'",
        ) from error


def open_client(config: InfluxConfig, timeout_s: float) -> InfluxDBClient:
    """A client that tries nothing twice and follows no redirect: an answer from somewhere else confirms nothing."""
    from influxdb_client.client.influxdb_client import InfluxDBClient

    timeout_ms = round(timeout_s * 1000)
    return InfluxDBClient(url=config.url, token=config.token, org=config.org, timeout=timeout_ms, retries=False)


def without_token(config: InfluxConfig, words: str) -> str:
    """A server's words, without the token that it may have echoed."""
    return words.strip().replace(config.token, "***")[:_ANSWER_CHARACTERS]


@dataclass(frozen=True)
class _Answer:
    """Status of the server's answer to a block (0 where there was none), its words, and when to come back, seconds."""

    block: int
    status: int
    words: str = ""
    retry_after_s: float | None = None

    @property
    def problem(self) -> str:
        """What is wrong, for people."""
        later = "" if self.retry_after_s is None else f" (asks to come back in {self.retry_after_s:.0f} s)"
        return f"{f'answered {self.status}{later}: ' if self.status else ''}{self.words}"


class _Senders:
    """Connections to the server, each with one block under way.

    Each has a thread, so that a server that answers drop by drop cannot hold the flush: its answer is not waited for
    beyond twice the time-out, and the thread ends with the process.
    """

    def __init__(self, config: InfluxConfig, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._jobs: SimpleQueue[OutboxBlock | None] = SimpleQueue()
        self._answers: SimpleQueue[_Answer | BaseException | None] = SimpleQueue()
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        for _ in range(_CONNECTIONS):
            threading.Thread(target=self._work, daemon=True).start()
        return self

    def __exit__(self, *ending: object) -> None:
        for _ in range(_CONNECTIONS):
            self._jobs.put(None)

    def send(self, blocks: Sequence[OutboxBlock]) -> list[_Answer]:
        """Send blocks; after the first that the server does not take, no other is begun.

        Returns:
            The answers; blocks that were not begun have none.
        """
        self._stop.clear()
        for block in blocks:
            self._jobs.put(block)
        answers: list[_Answer] = []
        for block in blocks:
            try:
                answer = self._answers.get(timeout=2 * self._timeout_s)
            except Empty:
                self._stop.set()
                return [*answers, _Answer(block.block, 0, "cannot be reached: no whole answer came in time")]
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                answers.append(answer)
        return answers

    def _work(self) -> None:
        try:
            with open_client(self._config, self._timeout_s) as client:
                while (block := self._jobs.get()) is not None:
                    answer = None if self._stop.is_set() else _send(client, self._config, block)
                    if answer is not None and answer.status not in (_ACCEPTED, *_REFUSED):
                        self._stop.set()
                    self._answers.put(answer)
        except BaseException as error:  # raised again where the answer is waited for
            self._answers.put(error)


def _pause(kept: Sequence[_Answer]) -> float | None:
    """How long the server asks to wait, seconds; None where one of the answers does not say."""
    pauses = [answer.retry_after_s for answer in kept]
    return max((pause for pause in pauses if pause is not None), default=None) if None not in pauses else None


def _send(client: InfluxDBClient, config: InfluxConfig, block: OutboxBlock) -> _Answer:
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
        return _Answer(block.block, int(status))
    except ApiException as error:
        status = int(error.status or 0)
        pause_s = retry_after_s(error.headers or {}) if status in _BUSY else None
        return _Answer(block.block, status, without_token(config, str(error.body or error.reason or "")), pause_s)
    except (HTTPError, UnicodeDecodeError) as error:
        return _Answer(block.block, 0, without_token(config, f"cannot be reached: {error}"))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """When to come back by the header ``Retry-After`` (RFC 9110, 10.2.3), in seconds, at least 1; None without one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return max(_SHORTEST_PAUSE_S, float(value))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(_SHORTEST_PAUSE_S, (moment - datetime.now(UTC)).total_seconds())
