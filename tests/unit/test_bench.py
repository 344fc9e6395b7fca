"""The parts of the bench that do no I/O: medians, goals, tables, the picture."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from bench.harness import Plan as BenchPlan
from bench.harness import Record, in_turns
from bench.picture import curves, picture
from bench.results import Goal, Row, figures_tables, goals_table, spread


def a_row(*goals: Goal, ours: tuple[float, ...] = (300, 310, 290), theirs: float = 100) -> Row:
    row = Row("get", "GET <cached>", goals, "rate by connections", 32)
    for rate in ours:
        row.add("ours", "in place", {"rate": rate, "cpu_us": 10.0, "p99_ms": 0.4}, {"200": 7})
    row.add("reference", "release", {"rate": theirs, "cpu_us": 32.0, "p99_ms": 1.0})
    return row


@pytest.mark.parametrize(
    ("goal", "measured", "met"),
    [
        (Goal("rate", "times", 3.0), 3.0, True),
        (Goal("rate", "times", 3.1), 3.0, False),
        (Goal("cpu_us", "times fewer", 3.0), 3.2, True),
        (Goal("p99_ms", "share", 0.5), 0.4, True),
        (Goal("p99_ms", "share", 0.3), 0.4, False),
        (Goal("rate", "at least", 301), 300, False),
        (Goal("p99_ms", "at most", 0.4), 0.4, True),
    ],
)
def test_a_goal_is_judged_on_medians(goal: Goal, measured: float, met: bool) -> None:
    (verdict,) = a_row(goal).verdicts()
    assert verdict.measured == pytest.approx(measured)
    assert verdict.met is met
    assert (verdict.margin >= 1) is met


@pytest.mark.parametrize(
    "goal",
    [Goal("rate", "times", 10.0), Goal("rate", "times fewer", 0.1), Goal("rate", "share", 2)],
)
def test_against_a_peer_that_did_nothing_right_no_goal_is_met(goal: Goal) -> None:
    row = a_row(goal, theirs=0)
    (verdict,) = row.verdicts()
    assert not verdict.met
    assert "| - | **no** |" in goals_table([row])
    assert "missed" in picture([row], "nothing")
    assert row.to_json()["verdicts"][0]["measured"] is None


def test_a_goal_against_somebody_who_was_not_measured_is_not_judged() -> None:
    row = a_row(Goal("rate", "times", 3.5, against="iroh-dns-server"))
    assert row.verdicts() == []
    assert goals_table([row]) == ""


def test_the_median_is_told_with_the_least_and_the_greatest() -> None:
    assert spread([3.0, 1.0, 2.0], 1) == "2.0 (1.0 to 3.0)"
    assert spread([1234.0, 1234.0], 0) == "1,234"


def test_the_goals_table_says_what_was_missed() -> None:
    table = goals_table([a_row(Goal("rate", "times", 3.0), Goal("p99_ms", "at most", 0.1))])
    lines = table.splitlines()
    assert len(lines) == 4
    assert "reference: 100" in lines[2]
    assert lines[2].endswith("| 3.00 times | yes |")
    assert lines[3].endswith("| 0.40 | **no** |")
    assert {line.count("|") for line in lines} == {7}


def test_rows_of_one_form_share_a_table_and_others_begin_one() -> None:
    other = Row("memory", "memory")
    other.add("ours", "in place", {"rss_mib": 40.0})
    tables = figures_tables([a_row(), a_row(), other]).split("\n\n")
    assert [len(table.splitlines()) for table in tables] == [6, 3]


def test_statuses_add_up_over_the_rounds() -> None:
    assert a_row().statuses["ours"] == {"200": 21}


def test_a_row_survives_json() -> None:
    row = a_row(Goal("rate", "times", 3.0))
    again = Row.from_json(json.loads(json.dumps(row.to_json())))
    assert again.values == row.values
    assert again.verdicts() == row.verdicts()


def test_curves_have_a_line_for_each_subject_in_the_order_of_x() -> None:
    late, early = a_row(), a_row(ours=(50,))
    early.x = 1
    assert curves([late, early]) == {
        "good/s by connections": {
            "ours": [(1, 50), (32, 300)],
            "reference": [(1, 100), (32, 100)],
        }
    }


def test_the_picture_is_well_formed_and_shows_goals_and_lines() -> None:
    early = a_row(Goal("rate", "times", 3.0), ours=(0,))
    early.x = 1
    root = ElementTree.fromstring(picture([a_row(Goal("rate", "times", 3.0)), early], "a & b"))  # noqa: S314
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("rect") == 3  # the paper and two goals
    assert tags.count("polyline") == 2
    assert "a & b" in "".join(root.itertext())


def test_a_run_without_goals_and_curves_is_an_empty_page() -> None:
    row = Row("memory", "memory")
    row.add("ours", "in place", {"rss_mib": 40.0})
    assert ElementTree.fromstring(picture([row], "nothing")) is not None  # noqa: S314


def test_turns_are_reversed_from_round_to_round() -> None:
    plan = BenchPlan(rounds=3, seconds=1.0)
    assert list(in_turns(plan, ["a", "b"])) == ["a", "b", "b", "a", "a", "b"]


def test_a_record_is_packed_as_the_load_generator_reads_it() -> None:
    assert Record(b"GET", 200, b"hi").packed() == (
        b"\x03\0\0\0GET" + (200).to_bytes(2, "little") + b"\x02\0\0\0hi"
    )
    assert Record(b"GET", 200, None).packed().endswith(b"\xff\xff\xff\xff")
