"""The shipped dashboard and tasks: every query run against the real influxd, answers compared with what was stored."""

from __future__ import annotations

import json
import re
import statistics
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers.influx_gateway import DATABASE, Gateway, InfluxServer, influxd
from helpers.nights import DAY_NS, START_NS, Made, run_of, runs_of, trace_of

import measurements
from measurements.record import Run
from measurements.store import Store
from measurements.store.influx import InfluxConfig, flush

pytestmark = pytest.mark.skipif(influxd() is None, reason="influxd is not installed (Debian package influxdb)")

FOLDER = Path(measurements.__file__).parent / "dashboards"
NIGHTS = 5
MATRIX = [Made("m4f", steps=((3, 1.02),)), Made("rack-1", "nucleo-f446re"), Made("m4f", workload="anomaly, v2")]
TRACED = (0, 1)
Tags = tuple[tuple[str, str], ...]
Table = Mapping[str, list[object]]


@dataclass(frozen=True)
class Mirrored:
    """A server that holds the mirror of a store."""

    server: InfluxServer
    runs: tuple[Run, ...]

    def series(self, query: str) -> dict[Tags, Table]:
        """Answer of a query: its series by measurement and tags."""
        body = urllib.parse.urlencode({"db": DATABASE, "q": query, "epoch": "ns"}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}/query", body, timeout=60) as response:
            answer = json.load(response)["results"][0]
        assert "error" not in answer, f"{query}\n{answer}"
        return {
            (("measurement", one["name"]), *sorted(one.get("tags", {}).items())): dict(
                zip(one["columns"], map(list, zip(*one["values"], strict=True)), strict=True)
            )
            for one in answer.get("series", ())
        }

    def expected(self, metric: str, figure: str, region: str = "inference") -> dict[Tags, list[float]]:
        """What the runs hold: a figure of a metric, night by night, by series."""
        found: dict[Tags, list[float]] = {}
        for run in self.runs:
            for record in run.records:
                if (record.metric, record.region) == (metric, region):
                    p = run.provenance
                    tags = {"device": p.device, "workload": p.workload, "variant": p.variant or "-",
                            "region": region, "source": record.source}  # fmt: skip
                    key = (("measurement", metric), *sorted(tags.items()))
                    found.setdefault(key, []).append(float(getattr(record, figure)))
        return found


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    folder = tmp_path_factory.mktemp("dashboards")
    runs = tuple(runs_of(MATRIX, NIGHTS))
    with InfluxServer(folder / "influxd") as server, Gateway(server) as gateway:
        with Store(folder / "store", mirror_traces=True) as store:
            for number, run in enumerate(runs):
                store.save(run, trace_of(run) if number in TRACED else None)
            result = flush(store, InfluxConfig(url=gateway.url, bucket=DATABASE, token="user:word"))
            assert (result.kept, result.set_aside, result.problem) == (0, 0, "")
        yield Mirrored(server, runs)


@pytest.fixture(scope="module")
def dashboard() -> dict[str, object]:
    loaded: dict[str, object] = json.loads((FOLDER / "grafana.json").read_text())
    return loaded


def panels(dashboard: Mapping[str, object]) -> dict[str, list[dict[str, str]]]:
    """Targets by the title of their panel."""
    found = dashboard["panels"]
    assert isinstance(found, list)
    return {panel["title"]: panel["targets"] for panel in found}


def asked(query: str, **chosen: str) -> str:
    """A query as Grafana sends it: variables as regular expressions, the time range in milliseconds."""
    begin, end = (START_NS - DAY_NS) // 10**6, (START_NS + NIGHTS * DAY_NS) // 10**6
    for name in ("device", "workload", "variant", "source", "region"):
        query = query.replace(f"${name}$/", f"{chosen.get(name, '.*')}$/")
    query = query.replace("$timeFilter", f"time >= {begin}ms and time <= {end}ms").replace("$__interval", "10m")
    assert "$" not in re.sub(r"/\^.*?\$/", "", query), query
    return query


# the dashboard


@pytest.mark.parametrize(
    ("title", "target", "metric", "region"),
    [
        ("Latency over the nights", 0, "latency", "inference"),
        ("Energy over the nights", 0, "energy", "inference"),
        ("Peak RAM and flash", 0, "peak_ram", "run"),
        ("Peak RAM and flash", 1, "flash", "run"),
        ("Accuracy", 0, "accuracy", "run"),
    ],
)
def test_figures_over_the_nights_are_those_of_the_store(
    mirrored: Mirrored, dashboard: dict[str, object], title: str, target: int, metric: str, region: str
) -> None:
    seen = mirrored.series(asked(panels(dashboard)[title][target]["query"], region="inference"))
    expected = mirrored.expected(metric, "median", region)
    assert set(seen) == set(expected)
    for tags, table in seen.items():
        assert table["median"] == pytest.approx(expected[tags], rel=1e-12)
        assert len(table["time"]) == NIGHTS


def test_instructions_come_from_their_own_metric(mirrored: Mirrored, dashboard: dict[str, object]) -> None:
    (target,) = panels(dashboard)["Instructions over the nights"]
    assert mirrored.series(asked(target["query"])) == {}, "none of these runs counted instructions"
    counted = mirrored.series(asked(target["query"].replace('"instructions"', '"cycles"')))
    assert {tags: table["median"] for tags, table in counted.items()} == mirrored.expected("cycles", "median")


def test_the_interval_and_the_latest_figures(mirrored: Mirrored, dashboard: dict[str, object]) -> None:
    titles = panels(dashboard)
    (bounds,) = titles["Latency, 95 % confidence interval"]
    for figure in ("ci_low", "ci_high"):
        seen = {tags: table[figure] for tags, table in mirrored.series(asked(bounds["query"])).items()}
        assert seen == {tags: pytest.approx(values) for tags, values in mirrored.expected("latency", figure).items()}
    (latest,) = titles["Latest figures"]
    table = mirrored.series(asked(latest["query"]))
    expected = mirrored.expected("latency", "median")
    assert set(table) == set(expected)
    last = {made.device: run_of(made, NIGHTS - 1).provenance.git_commit for made in MATRIX}
    for tags, row in table.items():
        assert row["latency"] == [pytest.approx(expected[tags][-1])]
        assert row["commit"] == [last[dict(tags)["device"]]]
        assert row["n"] in ([20], [40])


def test_variables_narrow_what_is_shown(mirrored: Mirrored, dashboard: dict[str, object]) -> None:
    query = panels(dashboard)["Latency over the nights"][0]["query"]
    (tags,) = mirrored.series(asked(query, device="m4f", workload="(anomaly, v2|nothing)"))
    assert dict(tags)["workload"] == "anomaly, v2"
    assert len(mirrored.series(asked(query, source="hardware"))) == 1
    assert mirrored.series(asked(query, region="idle")) == {}


def test_the_choices_of_the_variables(mirrored: Mirrored, dashboard: dict[str, object]) -> None:
    choices = {}
    for variable in dashboard["templating"]["list"]:  # type: ignore[index]
        if variable["type"] == "query":
            tables = mirrored.series(asked(variable["query"]))
            choices[variable["name"]] = {value for table in tables.values() for value in table["value"]}
    assert choices == {
        "device": {"m4f", "rack-1"},
        "workload": {"keyword-digits", "anomaly, v2"},
        "variant": {"-"},
        "source": {"emulated", "modelled", "hardware"},
        "region": {"inference", "run"},
    }


def test_traces_runs_and_losses(mirrored: Mirrored, dashboard: dict[str, object]) -> None:
    titles = panels(dashboard)
    traced = [mirrored.runs[number] for number in TRACED]
    (current,), (energy,) = titles["Current"], titles["Energy of the trace"]
    shown = mirrored.series(asked(current["query"]))
    sums = mirrored.series(asked(energy["query"]))
    assert len(shown) == len(sums) == len(traced)
    by_device = {(run.provenance.device, run.provenance.workload): trace_of(run) for run in traced}
    for tags, table in shown.items():
        trace = by_device[dict(tags)["device"], dict(tags)["workload"]]
        assert table["greatest"] == [pytest.approx(float(trace.current_a.max()), rel=1e-6)]
        assert table["least"] == [pytest.approx(float(trace.current_a.min()), rel=1e-6)]
        assert table["mean"] == [pytest.approx(float(trace.current_a.astype(np.float64).mean()), rel=1e-6)]
        joules = float(trace.current_a.astype(np.float64).sum()) * trace.voltage_v * trace.dt_s
        assert sums[tags]["sum"] == [pytest.approx(joules, rel=1e-9)]
    (a_day,) = titles["Runs a day"]
    counts = mirrored.series(asked(a_day["query"]))
    assert [table["count"] for table in counts.values()] == [[1] * NIGHTS] * len(MATRIX)
    (lost,) = titles["Lost samples"]
    assert {value for table in mirrored.series(asked(lost["query"])).values() for value in table["max"]} == {0}


def test_the_marks_of_commits(mirrored: Mirrored, dashboard: dict[str, object]) -> None:
    (marks,) = dashboard["annotations"]["list"]  # type: ignore[index]
    (table,) = mirrored.series(asked(marks["target"]["query"], region="inference")).values()
    assert set(table[marks["textColumn"]]) == {run.provenance.git_commit for run in mirrored.runs}
    assert set(table[marks["tagsColumn"]]) == {run.run_id for run in mirrored.runs}


def test_the_dashboard_is_whole(dashboard: dict[str, object]) -> None:
    """What Grafana needs of it: unique ids, no overlaps in the 24 columns, legends that name tags of the query."""
    found = dashboard["panels"]
    assert isinstance(found, list)
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        spots = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not spots & taken, panel["title"]
        assert max(x for x, _ in spots) < 24
        taken |= spots
        assert panel["datasource"] == {"type": "influxdb", "uid": "${datasource}"}
        for target in panel["targets"]:
            grouped = set(re.findall(r'"(\w+)"', target["query"].partition("GROUP BY")[2]))
            assert set(re.findall(r"\$tag_(\w+)", target["alias"])) <= grouped, panel["title"]
            assert {"device", "source"} <= grouped, "emulated and hardware figures are never one series"


# the tasks


def statements(name: str) -> list[str]:
    """Statements of a file of InfluxQL, without its comments."""
    text = "\n".join(line for line in (FOLDER / name).read_text().splitlines() if not line.startswith("--"))
    return [part.strip() for part in text.split(";") if part.strip()]


def test_one_median_a_day_is_kept_for_good(mirrored: Mirrored) -> None:
    for statement in statements("nightly_median.influxql"):
        mirrored.series(statement)
    kept = mirrored.series('SELECT "median", "runs" FROM "years"."latency" GROUP BY device, workload, source, region')
    assert len(kept) == len(MATRIX)
    for tags, table in kept.items():
        named = dict(tags)
        values = [
            run.records[0].median
            for run in mirrored.runs
            if (run.provenance.device, run.provenance.workload) == (named["device"], named["workload"])
        ]
        assert table["median"] == pytest.approx(values, rel=1e-12)
        assert table["runs"] == [1] * NIGHTS
    assert set(mirrored.series('SHOW MEASUREMENTS')[(("measurement", "measurements"),)]["name"]) >= {"energy", "flash"}


def test_traces_are_kept_by_the_second(mirrored: Mirrored) -> None:
    for statement in statements("current_seconds.influxql"):
        mirrored.series(statement)
    kept = mirrored.series('SELECT "min", "max", "mean", "energy" FROM "years"."current" GROUP BY device, workload')
    traced = {
        (run.provenance.device, run.provenance.workload): trace_of(run)
        for run in (mirrored.runs[number] for number in TRACED)
    }
    assert len(kept) == len(traced)
    for tags, table in kept.items():
        trace = traced[dict(tags)["device"], dict(tags)["workload"]]
        joules = float(trace.current_a.astype(np.float64).sum()) * trace.voltage_v * trace.dt_s
        assert sum(map(float, map(str, table["energy"]))) == pytest.approx(joules, rel=1e-9)
        assert max(map(float, map(str, table["max"]))) == pytest.approx(float(trace.current_a.max()), rel=1e-6)
        assert statistics.median(map(float, map(str, table["mean"]))) > 0.0


@pytest.mark.parametrize("name", ["nightly_median", "current_seconds"])
def test_the_server_goes_on_by_itself_with_the_same_query(mirrored: Mirrored, name: str) -> None:
    policy, continuous, before = statements(f"{name}.influxql")
    assert policy.startswith('CREATE RETENTION POLICY "years"')
    mirrored.series(policy)
    mirrored.series(continuous)
    listed = mirrored.series("SHOW CONTINUOUS QUERIES")[(("measurement", DATABASE),)]
    assert name in listed["name"]
    inner = continuous.partition(" BEGIN ")[2].removesuffix(" END")
    assert before.replace(" WHERE time < now()", "").removesuffix(" fill(none)") == inner


@pytest.mark.parametrize("name", ["nightly_median", "current_seconds"])
def test_the_flux_twin_reads_what_the_influxql_one_reads(name: str) -> None:
    """Debian's server has no Flux: its two tasks were checked by hand with InfluxData's own checker, see the docs."""
    flux = (FOLDER / f"{name}.flux").read_text()
    assert f'option task = {{name: "{name}"' in flux
    influxql = (FOLDER / f"{name}.influxql").read_text()
    measured = re.search(r"\./\^\((.*?)\)\$/", influxql)
    if measured is not None:
        assert f"/^({measured.group(1)})$/" in flux
    else:
        assert 'r._measurement == "current"' in flux
        for field in ("min", "max", "mean", "energy"):
            assert f'rolled(field: "{field}", fn: {"sum" if field == "energy" else field})' in flux
