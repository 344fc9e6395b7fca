"""The Grafana dashboard: what Grafana asks of the file, names that exist, and its picture.

Grafana is not run here. The rules are those of its documentation ("Dashboard JSON model", "Import
dashboards") and of its own schema for dashboards, kinds/dashboard/dashboard_kind.cue in its
repository, whose definitions of what is used here stand below as Python types. `python -m
bench.dashboard` asks a real Prometheus every query.
"""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from prometheus_client.process_collector import ProcessCollector

from bench.dashboard_picture import Series, draw, unit
from relay.metrics.families import FAMILIES, PREFIX
from tests.support.peers import ROOT

FILE = ROOT / "docs" / "grafana" / "pkarr-relay.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in DRAWN for target in panel["targets"]]
LABELS = {PREFIX + family.name: {*family.labels} for family in FAMILIES} | {
    metric.name: set[str]() for metric in ProcessCollector(registry=None).collect()
}
"""Labels by name; a counter's without its suffix."""
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


# ---- Grafana's schema: names and types; a name with a question mark may be left out ----

OPEN: dict[str, Any] = {"...": object}
GRID = {"h": int, "w": int, "x": int, "y": int}
SOURCE_REF = {"type": str, "uid": str}
THRESHOLDS = {"mode": str, "steps": [{"value": (int, float, type(None)), "color": str}]}
FIELDS = {
    "unit?": str,
    "min?": (int, float),
    "max?": (int, float),
    "mappings?": [{"type": str, "options": OPEN}],
    "thresholds?": THRESHOLDS,
    "custom?": OPEN,
}
PANEL = {
    "id?": int,
    "type": str,
    "title?": str,
    "description?": str,
    "datasource?": SOURCE_REF,
    "gridPos?": GRID,
    "targets?": [OPEN],
    "options": OPEN,
    "fieldConfig": {"defaults": FIELDS, "overrides": [OPEN]},
}
ROW = {
    "id": int,
    "type": str,
    "title?": str,
    "collapsed": bool,
    "gridPos?": GRID,
    "panels": [PANEL],
}
VARIABLE = {
    "type": str,
    "name": str,
    "label?": str,
    "hide": int,
    "skipUrlSync": bool,
    "query?": (str, dict),
    "datasource?": SOURCE_REF,
    **OPEN,
}
SPEC = {
    "id?": (int, type(None)),
    "uid?": str,
    "title?": str,
    "description?": str,
    "tags?": [str],
    "style": str,
    "timezone?": str,
    "editable": bool,
    "graphTooltip": int,
    "time?": {"from": str, "to": str},
    "timepicker?": OPEN,
    "fiscalYearStartMonth?": int,
    "liveNow?": bool,
    "weekStart?": str,
    "refresh?": str,
    "schemaVersion": int,
    "version?": int,
    "panels?": [OPEN],
    "templating?": {"list?": [VARIABLE]},
    "annotations?": {"list?": [OPEN]},
    "links?": [OPEN],
    # Not in the schema: what "export" adds for whoever imports.
    "__inputs?": [OPEN],
    "__requires?": [OPEN],
}


def faults(value: object, schema: Any, place: str) -> list[str]:
    """Return where a value is not as a schema wants it."""
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{place} is no list"]
        parts = [faults(part, schema[0], f"{place}[{at}]") for at, part in enumerate(value)]
        return [fault for part in parts for fault in part]
    if not isinstance(schema, dict):
        wrong = not isinstance(value, schema) or (isinstance(value, bool) and schema is not bool)
        return [f"{place} = {value!r}"] if wrong else []
    if not isinstance(value, dict):
        return [f"{place} is no object"]
    known = {name.rstrip("?"): kind for name, kind in schema.items()}
    missing = {name for name in schema if not name.endswith("?")} - {"...", *value}
    extra = set() if "..." in schema else value.keys() - known.keys()
    found = [f"{place}.{name} is missing" for name in missing]
    found += [f"{place}.{name} is unknown" for name in extra]
    for name in value.keys() & known.keys():
        found += faults(value[name], known[name], f"{place}.{name}")
    return found


def test_it_keeps_to_grafanas_schema() -> None:
    assert faults(DASHBOARD, SPEC, "dashboard") == []
    for panel in PANELS:
        schema = ROW if panel["type"] == "row" else PANEL
        assert faults(panel, schema, panel["title"]) == []


@pytest.mark.parametrize(
    ("spoilt", "fault"),
    [
        ({**PANELS[1], "gridPos": {"h": 1, "w": 1, "x": 0}}, "p.gridPos.y is missing"),
        ({**PANELS[1], "targets": {}}, "p.targets is no list"),
        ({**PANELS[1], "id": "7"}, "p.id = '7'"),
        ({**PANELS[1], "legend": True}, "p.legend is unknown"),
    ],
)
def test_the_schema_finds_fault(spoilt: dict[str, Any], fault: str) -> None:
    assert faults(spoilt, PANEL, "p") == [fault]


# ---- What it says ----


def test_it_can_be_imported() -> None:
    assert DASHBOARD["id"] is None  # given by the Grafana that it is imported into
    assert re.fullmatch(r"[a-zA-Z0-9_-]{8,40}", DASHBOARD["uid"])
    assert DASHBOARD["title"]
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert DASHBOARD["schemaVersion"] >= 36  # from there on sources are named by type and uid
    assert DASHBOARD["time"].keys() == {"from", "to"}
    assert {part["id"] for part in DASHBOARD["__requires"] if part["type"] == "panel"} == {
        panel["type"] for panel in DRAWN
    }


def test_it_asks_for_its_data_source_and_which_relay() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == (
        "datasource",
        "prometheus",
    )
    for name in ("job", "instance"):
        assert variables[name]["type"] == "query"
        assert variables[name]["datasource"] == SOURCE
        assert variables[name]["query"]["query"].startswith("label_values(pkarr_relay_build_info")
        assert variables[name]["allValue"] == ".*"


def test_panels_have_their_place() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]


@pytest.mark.parametrize(("panel", "target"), TARGETS, ids=lambda part: str(part.get("title", "")))
def test_queries_name_what_there_is(panel: dict[str, Any], target: dict[str, Any]) -> None:
    assert panel["datasource"] == target["datasource"] == SOURCE
    query = target["expr"]
    assert query.count("(") == query.count(")")
    used = set()
    for name, selector in re.findall(r"\b((?:pkarr_relay|process)_\w+)(?:\{([^}]*)\})?", query):
        base = name if name in LABELS else re.sub(r"_(bucket|sum|count|total)$", "", name)
        assert base in LABELS, name
        keys = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
        assert keys - {"job", "instance"} <= LABELS[base], query
        assert {"job", "instance"} <= keys, query
        used |= LABELS[base]
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    grouped = set(re.split(r",\s*", ",".join(re.findall(r"by \(([^)]*)\)", query)))) - {"", "le"}
    assert shown == grouped <= used
    unit(panel["fieldConfig"]["defaults"]["unit"])(1.0)  # the picture can write it


def test_each_query_of_a_panel_has_a_letter_of_its_own() -> None:
    for panel in DRAWN:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0


def test_the_picture_is_of_this_dashboard() -> None:
    """Redraw it with `python -m bench.dashboard` after a change."""
    picture = FILE.with_suffix(".svg").read_text()
    words = {element.text for element in ElementTree.fromstring(picture).iter()}  # noqa: S314 -- ours
    assert {panel["title"] for panel in DRAWN} <= words
    assert "No data" not in words
    assert any("not by Grafana" in (text or "") for text in words)


def test_the_picture_shows_what_was_found() -> None:
    times = [1000.0 + at for at in range(60)]
    series = {
        panel["id"]: [Series("a & b", [(at, at - 999.5) for at in times]), Series("c", [(1000, 1)])]
        for panel in DRAWN[:-1]
    }
    drawn = draw(DASHBOARD, series, (1000.0, 1059.0), "note <1>")
    root = ElementTree.fromstring(drawn)  # noqa: S314 -- ours
    words = [element.text for element in root.iter() if element.text]
    charts = sum(panel["type"] == "timeseries" for panel in DRAWN[:-1])
    assert words.count("a & b") == words.count("c") == charts
    assert words.count("No data") == 1
    assert "note <1>" in words
    box = root.attrib
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for pair in line.attrib["points"].split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= float(box["width"])
            assert 0 <= y <= float(box["height"])
