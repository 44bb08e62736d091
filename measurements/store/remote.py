"""Reading the mirror back by InfluxQL, which every InfluxDB from 1.x to 3 Core answers at ``/query``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from lab.errors import StoreError
from measurements.store.influx import InfluxConfig, open_client, require_client, without_token
from measurements.store.lines import measurement
from measurements.store.local import Store
from measurements.store.selection import Selection, When, nanoseconds

if TYPE_CHECKING:
    import pandas as pd
    from influxdb_client.client.influxdb_client import InfluxDBClient

# InfluxDB 3 Core reads at most 432 files, about three days, per query.
WINDOW_NS = 2 * 86_400 * 10**9
_OK = 200


@dataclass(frozen=True)
class Series:
    """One series of an answer: its name, and its columns, all of one length; ``time`` is in nanoseconds."""

    name: str
    columns: dict[str, list[object]]


def query(config: InfluxConfig, text: str, timeout_s: float = 30.0) -> list[Series]:
    """The answer to an InfluxQL query.

    Args:
        config: where the mirror is.
        text: one statement.
        timeout_s: for the server's next sign of life, seconds.

    Raises:
        ToolMissing: influxdb-client is not installed.
        StoreError: the server gave no whole answer, refused the query, or cut its answer short.
    """
    require_client()
    with open_client(config, timeout_s) as client:
        return _query(client, config, text)


def read(
    config: InfluxConfig, metric: str, *, since: When, until: When, timeout_s: float = 30.0
) -> pd.DataFrame:
    """The points of a metric in the mirror: one row per record, with its tags and fields, by time.

    Args:
        config: where the mirror is.
        metric: the metric.
        since, until: runs that start at or after, and before; text is ISO 8601, and UTC where it names no zone.
        timeout_s: for the server's next sign of life, seconds.

    Raises:
        ConfigError: ``since`` or ``until`` is no time.
        ToolMissing, StoreError: as :func:`query`.
    """
    import pandas as pd

    asked = Selection(since=since, until=until)
    begin_ns, end_ns = cast(int, nanoseconds(asked.since)), cast(int, nanoseconds(asked.until))
    require_client()
    frames = []
    with open_client(config, timeout_s) as client:
        for start_ns, stop_ns in _windows(begin_ns, end_ns):
            text = f"SELECT * FROM {_identifier(metric)} WHERE {_between(start_ns, stop_ns)}"
            frames += [pd.DataFrame(series.columns) for series in _query(client, config, text)]
    if not frames:
        return pd.DataFrame({"time": pd.to_datetime([], utc=True)})
    frame = pd.concat(frames, ignore_index=True)
    frame["time"] = pd.to_datetime(frame["time"].astype("int64"), unit="ns", utc=True)
    return frame


def missing(
    store: Store,
    config: InfluxConfig,
    timeout_s: float = 30.0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Runs whose figures the mirror confirmed once and does not hold, oldest first.

    Args:
        store: the local store.
        config: where the mirror is.
        timeout_s: for the server's next sign of life, seconds.
        tell: called with the days asked for and the days there are.

    Raises:
        ToolMissing, StoreError: as :func:`query`.
    """
    require_client()
    expected = _expected(store)
    windows = sorted({start_ns // WINDOW_NS for start_ns, _ in expected.values()})
    found: Counter[tuple[str, str]] = Counter()
    metrics = sorted({metric for _, counts in expected.values() for metric in counts})
    with open_client(config, timeout_s) as client:
        for done, window in enumerate(windows):
            tell(done, len(windows))
            within = _between(window * WINDOW_NS, (window + 1) * WINDOW_NS)
            for metric in metrics:
                for series in _query(client, config, f"SELECT n, run FROM {_identifier(metric)} WHERE {within}"):
                    found.update((str(run_id), metric) for run_id in series.columns["run"])
    return [
        run_id
        for run_id, (_, counts) in expected.items()
        if any(found[run_id, metric] < count for metric, count in counts.items())
    ]


def _expected(store: Store) -> dict[str, tuple[int, Counter[str]]]:
    """Start and points per metric of every run of which nothing waits in the outbox."""
    rows = store.table(
        """SELECT run_id, started_ns, metric, count(*) AS points FROM runs JOIN records USING (run_id)
        WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.run_id = runs.run_id)
        GROUP BY run_id, metric ORDER BY started_ns, run_id""",
        {},
    )
    expected: dict[str, tuple[int, Counter[str]]] = {}
    for row in rows:
        _, counts = expected.setdefault(row["run_id"], (row["started_ns"], Counter()))
        counts[measurement(row["metric"])] += row["points"]
    return expected


def _windows(begin_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
    for start_ns in range(begin_ns, end_ns, WINDOW_NS):
        yield start_ns, min(start_ns + WINDOW_NS, end_ns)


def _between(start_ns: int, stop_ns: int) -> str:
    return f"time >= {start_ns} AND time < {stop_ns}"


def _identifier(metric: str) -> str:
    return '"' + measurement(metric).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _query(client: InfluxDBClient, config: InfluxConfig, text: str) -> list[Series]:
    from influxdb_client.rest import ApiException
    from urllib3.exceptions import HTTPError

    database, _, policy = config.bucket.partition("/")
    asked = [("db", database), ("q", text), ("epoch", "ns"), *([("rp", policy)] if policy else [])]
    try:
        # influxdb-client has no call for InfluxQL; this is the one that its calls are made of.
        response = client.api_client.call_api(  # type: ignore[no-untyped-call]
            "/query", "GET", path_params={}, query_params=asked, header_params={"Accept": "application/json"},
            post_params=[], files={}, body=None, auth_settings=[], _return_http_data_only=True, _preload_content=False,
        )  # fmt: skip
        status, body = int(response.status), bytes(response.data)
    except ApiException as error:
        words = error.body if isinstance(error.body, bytes) else str(error.reason).encode()
        raise _failed(config, f"answered {error.status}: {words.decode(errors='replace')}") from error
    except HTTPError as error:
        raise _failed(config, f"cannot be reached: {error}") from error
    if status != _OK:
        raise _failed(config, f"answered {status}: {body.decode(errors='replace')}")
    return _series(config, body)


def _series(config: InfluxConfig, body: bytes) -> list[Series]:
    try:
        (result,) = json.loads(body)["results"]
        problem = result.get("error")
        cut_short = any(one.get("partial") for one in (result, *result.get("series", ())))
        answer = [Series(one["name"], _columns(one["columns"], one["values"])) for one in result.get("series", ())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = body[:200].decode(errors="replace")
        raise _failed(config, f"answered what is no InfluxQL result: {words}") from error
    if problem is not None:
        raise _failed(config, f"refused the query: {problem}")
    if cut_short:
        raise _failed(config, "cut its answer short (max-row-limit)")
    return answer


def _columns(names: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, list[object]]:
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _failed(config: InfluxConfig, words: str) -> StoreError:
    return StoreError(
        f"{config.url}: {without_token(config, words)}",
        hint="the local store holds every figure; check LAB_INFLUX_URL, _BUCKET and _TOKEN",
        transient=True,
    )


