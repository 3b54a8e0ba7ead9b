"""Writes the Grafana dashboards beside this file, byte for byte the same each time: `make grafana` runs it."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, common, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shown
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
HERE = 'instance=~"$instance"'
"""What keeps an expression to the daemons that were chosen."""
FULL, HALF, THIRD, QUARTER, SIXTH = 24, 12, 8, 6, 4
"""Widths, in the 24 columns of the grid."""
TALL, LOW = 8, 4

Steps = Sequence[tuple[float | None, str]]
CALM: Steps = ((None, "green"),)
ANY_IS_ORANGE: Steps = ((None, "green"), (1, "orange"))
ANY_IS_RED: Steps = ((None, "green"), (1, "red"))
NONE_IS_RED: Steps = ((None, "red"), (1, "green"))


@dataclass(frozen=True)
class Ask:
    """One expression, and what its series are called."""

    expr: str
    legend: str = "{{instance}}"
    exemplars: bool = False
    """Whether the trace ids that hang on a histogram's buckets are drawn as well."""


Panel = timeseries.Panel | stat.Panel | statetimeline.Panel | table.Panel | heatmap.Panel | bargauge.Panel


def thresholds(steps: Steps) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )


def told(panel: Panel, title: str, about: str, unit: str, width: int, height: int) -> None:
    """What every panel has: a title, a sentence that says how to read it, a unit, its source and its size."""
    panel.title(title).description(about).unit(unit).datasource(SOURCE).span(width).height(height)


def chart(
    title: str,
    about: str,
    asks: Sequence[Ask],
    unit: str,
    *,
    width: int = HALF,
    lines: Steps = (),
    stacked: bool = False,
    bars: bool = False,
) -> timeseries.Panel:
    panel = timeseries.Panel()
    told(panel, title, about, unit, width, TALL)
    panel.min(0).line_width(1).fill_opacity(60 if stacked or bars else 10).show_points(shown.VisibilityMode.AUTO)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(shown.LegendDisplayMode.LIST)
        .placement(shown.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(common.VizTooltipOptions().mode(shown.TooltipDisplayMode.MULTI).sort(shown.SortOrder.DESCENDING))
    if bars:
        panel.draw_style(shown.GraphDrawStyle.BARS)
    if stacked:
        panel.stacking(common.StackingConfig().mode(shown.StackingMode.NORMAL))
    if lines:
        panel.thresholds(thresholds(lines))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shown.GraphThresholdsStyleMode.DASHED),
        )
    for number, ask in enumerate(asks):
        panel.with_target(
            Dataquery()
            .expr(ask.expr)
            .legend_format(ask.legend)
            .range()
            .exemplar(ask.exemplars)
            .datasource(SOURCE)
            .ref_id(chr(ord("A") + number))
        )
    return panel


def number(title: str, about: str, expr: str, unit: str, steps: Steps, *, width: int = SIXTH) -> stat.Panel:
    panel = stat.Panel()
    told(panel, title, about, unit, width, LOW)
    panel.thresholds(thresholds(steps)).graph_mode(shown.BigValueGraphMode.AREA)
    panel.color_mode(shown.BigValueColorMode.VALUE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.no_value("none")
    panel.with_target(Dataquery().expr(expr).legend_format("").range().datasource(SOURCE).ref_id("A"))
    return panel


def states(title: str, about: str, ask: Ask, names: Mapping[str, tuple[str, str]], *, width: int = HALF) -> Panel:
    """A band for each series; ``names``: value -> what it is called, and its colour."""
    panel = statetimeline.Panel()
    told(panel, title, about, "none", width, TALL)
    panel.show_value(shown.VisibilityMode.NEVER).merge_values(True)
    panel.color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.mappings(
        [
            model.ValueMap(
                options={
                    value: model.ValueMappingResult(text=text, color=color, index=at)
                    for at, (value, (text, color)) in enumerate(names.items())
                }
            )
        ]
    )
    panel.thresholds(thresholds(CALM))
    panel.with_target(
        Dataquery().expr(ask.expr).legend_format(ask.legend).range().datasource(SOURCE).ref_id("A"),
    )
    return panel


def rows(title: str, about: str, columns: Mapping[str, str], *, width: int = FULL, units: Mapping[str, str]) -> Panel:
    """A table of what is now: column -> expression. Series with the same labels share a row."""
    panel = table.Panel()
    told(panel, title, about, "none", width, TALL)
    panel.thresholds(thresholds(CALM)).filterable(True)
    renamed: dict[str, object] = {}
    for at, (column, expr) in enumerate(columns.items()):
        letter = chr(ord("A") + at)
        panel.with_target(
            Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE).datasource(SOURCE).ref_id(letter)
        )
        renamed["Value" if len(columns) == 1 else f"Value #{letter}"] = column
        if column in units:
            panel.override_by_name(column, [model.DynamicConfigValue(id_val="unit", value=units[column])])
    panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": renamed},
        )
    )
    return panel


def spread(title: str, about: str, expr: str, *, width: int = HALF) -> heatmap.Panel:
    """How a histogram's values lie over time."""
    panel = heatmap.Panel()
    told(panel, title, about, "s", width, TALL)
    panel.calculate(False)
    panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
    panel.with_target(
        Dataquery()
        .expr(expr)
        .legend_format("{{le}}")
        .range()
        .format(PromQueryFormat.HEATMAP)
        .exemplar(True)
        .datasource(SOURCE)
        .ref_id("A")
    )
    return panel


def left(title: str, about: str, ask: Ask, steps: Steps, *, width: int = HALF) -> bargauge.Panel:
    panel = bargauge.Panel()
    told(panel, title, about, "short", width, TALL)
    panel.min(0).thresholds(thresholds(steps)).orientation(shown.VizOrientation.HORIZONTAL)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.with_target(
        Dataquery().expr(ask.expr).legend_format(ask.legend).instant().datasource(SOURCE).ref_id("A"),
    )
    return panel


class Board:
    """A dashboard that is being filled; its panels are numbered in the order they come."""

    def __init__(self, uid: str, title: str, about: str, *, since: str) -> None:
        self.uid = uid
        self.made = (
            build.Dashboard(title)
            .uid(uid)
            .description(about)
            .tags(["x0tta6bl4"])
            .refresh("30s")
            .time(since, "now")
            .timezone("browser")
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
            .with_variable(self.variable("instance", "Daemon", "label_values(x0tta6bl4_build_info, instance)"))
            .annotation(
                build.AnnotationQuery()
                .name("Daemon started")
                .datasource(SOURCE)
                .enable(True)
                .icon_color("blue")
                .expr(f"changes(process_start_time_seconds{{{HERE}}}[$__rate_interval]) > 0")
            )
            .link(
                build.DashboardLink("x0tta6bl4")
                .type(model.DashboardLinkType.DASHBOARDS)
                .tags(["x0tta6bl4"])
                .include_vars(True)
                .keep_time(True)
            )
        )
        self._panels = 0

    @staticmethod
    def variable(name: str, label: str, query: str) -> build.QueryVariable:
        return (
            build.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query({"query": query, "refId": name})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".+")
            .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
        )

    def row(self, title: str, *panels: Panel) -> None:
        self._panels += 1
        self.made.with_row(build.Row(title).id(self._panels))
        for panel in panels:
            self._panels += 1
            panel.id(self._panels)
            self.made.with_panel(panel)

    def text(self) -> str:
        return json.dumps(self.made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def quantiles(name: str, by: str = "", *, exemplars: bool = True) -> list[Ask]:
    """The median and the p95 of a histogram, from its buckets, so that exemplars can be drawn on them."""
    kept, also = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    chosen = HERE + (', fault=~"$fault"' if by == "fault" else "")
    return [
        Ask(
            f"histogram_quantile({share}, sum by ({kept}) (rate({name}_bucket{{{chosen}}}[$__rate_interval])))",
            title + also,
            exemplars=exemplars and share == 0.95,
        )
        for title, share in (("median", 0.5), ("p95", 0.95))
    ]


def overview() -> Board:
    board = Board(
        "x0tta6bl4-overview",
        "x0tta6bl4 / Overview",
        "How all daemons are, what is wrong in their care, and whether they may heal it.",
        since="now-6h",
    )
    board.row(
        "Now",
        number(
            "Daemons that answer",
            "Daemons whose last scrape worked.",
            f'sum(up{{{HERE}, job="x0tta6bl4"}})',
            "short",
            NONE_IS_RED,
        ),
        number(
            "Daemons that do not answer",
            "Daemons that Prometheus cannot scrape: nothing may be healed there.",
            'count(up{job="x0tta6bl4"} == 0) or vector(0)',
            "short",
            ANY_IS_RED,
        ),
        number(
            "Open incidents",
            "Incidents that are not closed, of every severity.",
            f"sum(x0tta6bl4_incidents_open{{{HERE}}})",
            "short",
            ((None, "green"), (1, "orange"), (5, "red")),
        ),
        number(
            "Heals proved, last hour",
            "Of all steps that were to prove themselves, the share that did. Empty while nothing was tried.",
            f'sum(instance_action_result:x0tta6bl4_steps:increase1h{{{HERE}, result="verified"}})'
            f" / sum(instance:x0tta6bl4_heals_tried:increase1h{{{HERE}}})",
            "percentunit",
            ((None, "red"), (0.5, "orange"), (0.9, "green")),
        ),
        number(
            "Approvals waiting",
            "Steps that a person has to allow before they are done.",
            f"sum(x0tta6bl4_approvals_waiting{{{HERE}}})",
            "short",
            ANY_IS_ORANGE,
        ),
        number(
            "Daemons that may not heal",
            "Daemons whose flag auto_healing is off: they watch and judge only.",
            f'count(x0tta6bl4_feature_flag{{{HERE}, flag="auto_healing"}} == 0) or vector(0)',
            "short",
            ANY_IS_RED,
        ),
        rows(
            "Daemons",
            "One line for each daemon. Progress: how long ago its loop ended a turn; a minute or two is usual.",
            {
                "up": f'max by (instance) (up{{{HERE}, job="x0tta6bl4"}})',
                "version": f"max by (instance, version) (x0tta6bl4_build_info{{{HERE}}})",
                "open incidents": f"sum by (instance) (x0tta6bl4_incidents_open{{{HERE}}})",
                "progress": f"time() - max by (instance) (x0tta6bl4_loop_last_progress_timestamp_seconds{{{HERE}}})",
                "memory": f"max by (instance) (process_resident_memory_bytes{{{HERE}}})",
                "running": f"time() - max by (instance) (process_start_time_seconds{{{HERE}}})",
                "journal failing": f"max by (instance) (x0tta6bl4_journal_failing{{{HERE}}})",
                "pauses": f"max by (instance) (x0tta6bl4_paused{{{HERE}}})",
            },
            width=16,
            units={"progress": "s", "memory": "bytes", "running": "s"},
        ),
        rows(
            "Alerts",
            "Alerts of these rules that fire or are about to. The runbook of each is config/prometheus/README.md.",
            {"since": 'max by (alertname, alertstate, severity, instance) (ALERTS{alertname=~"X0tta6bl4.+"})'},
            width=THIRD,
            units={},
        ),
    )
    board.row(
        "What is watched",
        states(
            "Subjects",
            "Green while all probes of a subject succeed, red while one fails.",
            Ask(f"x0tta6bl4_subject_up{{{HERE}}}", "{{subject}} ({{instance}})"),
            {"1": ("well", "green"), "0": ("not well", "red")},
        ),
        chart(
            "Open incidents",
            "By severity. One that stays is not being healed: `x0tta6bl4 why` says why.",
            [Ask(f"sum by (severity) (x0tta6bl4_incidents_open{{{HERE}}})", "{{severity}}")],
            "short",
            stacked=True,
        ),
    )
    board.row(
        "How well it heals",
        chart(
            "Time to detect, over a day",
            "From the onset of a fault to its finding.",
            [
                Ask(f"instance:x0tta6bl4_time_to_detect_seconds:p50_1d{{{HERE}}}", "median {{instance}}"),
                Ask(f"instance:x0tta6bl4_time_to_detect_seconds:p95_1d{{{HERE}}}", "p95 {{instance}}"),
            ],
            "s",
            width=THIRD,
        ),
        chart(
            "Time to recover, over a day",
            "From the onset of a fault to its verified heal.",
            [
                Ask(f"instance:x0tta6bl4_self_healing_mttr_seconds:p50_1d{{{HERE}}}", "median {{instance}}"),
                Ask(f"instance:x0tta6bl4_self_healing_mttr_seconds:p95_1d{{{HERE}}}", "p95 {{instance}}"),
            ],
            "s",
            width=THIRD,
        ),
        chart(
            "Steps, by result, last hour",
            "Only verified ones are heals; refuted ones were done and did not help.",
            [Ask(f"sum by (result) (instance_action_result:x0tta6bl4_steps:increase1h{{{HERE}}})", "{{result}}")],
            "short",
            width=THIRD,
            stacked=True,
        ),
    )
    board.row(
        "What holds it back",
        chart(
            "Held or denied, by check",
            "Answers of the guard other than allow, in ten minutes.",
            [
                Ask(
                    "sum by (check, answer) "
                    f'(instance_check_answer:x0tta6bl4_guard_decisions:increase10m{{{HERE}, answer!="allow"}})',
                    "{{check}}: {{answer}}",
                )
            ],
            "short",
            stacked=True,
        ),
        left(
            "Budgets left",
            "Actions that the guard still allows before it slows down. None left: look for the cause.",
            Ask(
                f"sort(min by (instance, budget, name) (x0tta6bl4_budget_left{{{HERE}}}))",
                "{{budget}} {{name}} ({{instance}})",
            ),
            ((None, "red"), (1, "orange"), (5, "green")),
        ),
        states(
            "Switches",
            "The feature flags. auto_healing off means that nothing is done.",
            Ask(f"x0tta6bl4_feature_flag{{{HERE}}}", "{{flag}} ({{instance}})"),
            {"1": ("on", "green"), "0": ("off", "text")},
            width=THIRD,
        ),
        chart(
            "Pauses in force",
            "While one is in force, actions on its target are held.",
            [Ask(f"x0tta6bl4_paused{{{HERE}}}")],
            "short",
            width=THIRD,
        ),
        chart(
            "Conditions",
            "What the daemon says of itself while it lasts: a blind monitor, a configuration with mistakes.",
            [Ask(f"x0tta6bl4_condition{{{HERE}}} > 0", "{{code}}, {{severity}} ({{instance}})")],
            "short",
            width=THIRD,
        ),
    )
    return board


def healing() -> Board:
    board = Board(
        "x0tta6bl4-healing",
        "x0tta6bl4 / Incidents and guard",
        "What went wrong, what was done about it, what was held back, and how long it took.",
        since="now-24h",
    )
    board.made.with_variable(board.variable("fault", "Fault", "label_values(x0tta6bl4_incidents_opened_total, fault)"))
    chosen = f'{HERE}, fault=~"$fault"'
    board.row(
        "Incidents",
        chart(
            "Opened, by fault",
            "Incidents opened. The same fault again and again means that the cause stays.",
            [
                Ask(
                    f"sum by (fault) (increase(x0tta6bl4_incidents_opened_total{{{chosen}}}[$__rate_interval]))",
                    "{{fault}}",
                )
            ],
            "short",
            bars=True,
            stacked=True,
            width=THIRD,
        ),
        chart(
            "Closed, by how they ended",
            "healed: by a step that was proved; recovered: by itself or by somebody else; merged: a part of another.",
            [
                Ask(
                    f"sum by (ended) (increase(x0tta6bl4_incidents_closed_total{{{chosen}}}[$__rate_interval]))",
                    "{{ended}}",
                )
            ],
            "short",
            bars=True,
            stacked=True,
            width=THIRD,
        ),
        chart(
            "Open, by severity",
            "Incidents that are not closed.",
            [Ask(f"sum by (severity) (x0tta6bl4_incidents_open{{{HERE}}})", "{{severity}}")],
            "short",
            stacked=True,
            width=THIRD,
        ),
        chart(
            "Opened in an hour, by fault",
            "Which kinds of trouble there were, and how often.",
            [
                Ask(
                    f"sum by (fault) (instance_fault:x0tta6bl4_incidents_opened:increase1h{{{chosen}}})",
                    "{{fault}}",
                )
            ],
            "short",
        ),
        chart(
            "Opened again in an hour, by subject",
            "Trouble that was over and came back. Above the line, the alert X0tta6bl4CrashLoop fires.",
            [Ask(f"instance_subject:x0tta6bl4_incidents_reopened:increase1h{{{HERE}}}", "{{subject}} ({{instance}})")],
            "short",
            lines=((None, "transparent"), (4.5, "orange")),
        ),
        chart(
            "Oldest open incident, by severity",
            "Since the onset of its fault. For major and critical ones the alert X0tta6bl4IncidentOpen fires at half"
            " an hour, for lesser ones X0tta6bl4IncidentOpenLong at six hours.",
            [
                Ask(
                    f"time() - min by (instance, severity) (x0tta6bl4_incident_open_since_timestamp_seconds{{{HERE}}})",
                    "{{severity}} ({{instance}})",
                )
            ],
            "s",
        ),
        chart(
            "Judgements, by fault",
            "How often analyzers said that a subject has a fault; one incident gathers many.",
            [
                Ask(
                    f"sum by (fault) (rate(x0tta6bl4_findings_total{{{chosen}}}[$__rate_interval]))",
                    "{{fault}}",
                )
            ],
            "cps",
        ),
    )
    board.row(
        "How long it took",
        chart(
            "Time to recover",
            "From the onset of a fault to its verified heal. A dot is a heal, with the trace id of its cycle.",
            quantiles("x0tta6bl4_self_healing_mttr_seconds", "fault"),
            "s",
        ),
        spread(
            "Times to recover",
            "How the times to recover lie: the darker, the more heals.",
            f"sum by (le) (increase(x0tta6bl4_self_healing_mttr_seconds_bucket{{{chosen}}}[$__rate_interval]))",
        ),
        chart(
            "Time to detect",
            "From the onset of a fault to its finding.",
            quantiles("x0tta6bl4_time_to_detect_seconds"),
            "s",
        ),
        spread(
            "Times to detect",
            "How the times to detect lie: the darker, the more findings.",
            f"sum by (le) (increase(x0tta6bl4_time_to_detect_seconds_bucket{{{HERE}}}[$__rate_interval]))",
        ),
        chart(
            "Time to recover, p95 over a day, by fault",
            "The slowest heals of each fault.",
            [
                Ask(
                    f"instance_fault:x0tta6bl4_self_healing_mttr_seconds:p95_1d{{{chosen}}}",
                    "{{fault}} ({{instance}})",
                )
            ],
            "s",
            width=FULL,
        ),
    )
    board.row(
        "What was done",
        chart(
            "Steps, by action and result",
            "verified: proved; refuted: done, and it did not help; failed: it could not be done.",
            [
                Ask(
                    f"sum by (action, result) (increase(x0tta6bl4_steps_total{{{HERE}}}[$__rate_interval]))",
                    "{{action}}: {{result}}",
                )
            ],
            "short",
            bars=True,
            stacked=True,
        ),
        chart(
            "Share of heals that were proved, last hour",
            "Below the line for five minutes, with four tries at least, the alert X0tta6bl4HealsFailing fires.",
            [Ask(f"instance:x0tta6bl4_heals:success_ratio1h{{{HERE}}}")],
            "percentunit",
            lines=((None, "red"), (0.5, "transparent")),
        ),
    )
    board.row(
        "What the guard said",
        chart(
            "Decisions, by check and answer",
            "The check that decided. `guard: allow` means that none had anything against it.",
            [
                Ask(
                    f"sum by (check, answer) (increase(x0tta6bl4_guard_decisions_total{{{HERE}}}[$__rate_interval]))",
                    "{{check}}: {{answer}}",
                )
            ],
            "short",
            bars=True,
            stacked=True,
        ),
        rows(
            "Why nothing was done",
            "Holds and denials in the time shown, by the check that decided.",
            {
                "times": "sort_desc(sum by (check, answer) "
                f'(increase(x0tta6bl4_guard_decisions_total{{{HERE}, answer!="allow"}}[$__range])))'
            },
            width=HALF,
            units={"times": "short"},
        ),
        left(
            "Budgets left",
            "Actions that the guard still allows before it slows down.",
            Ask(
                f"sort(min by (instance, budget, name) (x0tta6bl4_budget_left{{{HERE}}}))",
                "{{budget}} {{name}} ({{instance}})",
            ),
            ((None, "red"), (1, "orange"), (5, "green")),
        ),
        chart(
            "Approvals waiting",
            "Steps that a person has to allow. Unanswered, they expire and are asked anew.",
            [Ask(f"x0tta6bl4_approvals_waiting{{{HERE}}}")],
            "short",
        ),
    )
    return board


def internals() -> Board:
    board = Board(
        "x0tta6bl4-internals",
        "x0tta6bl4 / Internals",
        "How the daemon itself is: its loop, its endpoint, and what it costs.",
        since="now-3h",
    )
    board.row(
        "The loop",
        chart(
            "Cycles, by trigger and result",
            "schedule: about everything; wake: about what has just changed.",
            [
                Ask(
                    f"sum by (trigger, result) (rate(x0tta6bl4_mapek_cycles_total{{{HERE}}}[$__rate_interval]))",
                    "{{trigger}}: {{result}}",
                )
            ],
            "cps",
            width=THIRD,
        ),
        chart(
            "Duration of a cycle's phases (p95)",
            "monitor slow: a source is; knowledge slow: the disk is. A dot carries the trace id of a cycle.",
            quantiles("x0tta6bl4_mapek_cycle_duration_seconds", "phase")[1:],
            "s",
            width=THIRD,
        ),
        chart(
            "Since the last progress",
            "Seconds since the loop ended a turn. Above its limit, the alert X0tta6bl4LoopStuck fires.",
            [
                Ask(f"time() - x0tta6bl4_loop_last_progress_timestamp_seconds{{{HERE}}}"),
                Ask(f"120 + 3 * x0tta6bl4_loop_interval_seconds{{{HERE}}}", "limit ({{instance}})"),
            ],
            "s",
            width=THIRD,
        ),
        chart(
            "Event loop lag",
            "How late the event loop comes to what is due. Above half a second probes and heals are late too.",
            [Ask(f"x0tta6bl4_event_loop_lag_seconds{{{HERE}}}")],
            "s",
            width=THIRD,
            lines=((None, "transparent"), (0.5, "orange")),
        ),
        chart(
            "Overruns",
            "Cycles that were due while another still ran.",
            [Ask(f"increase(x0tta6bl4_mapek_overruns_total{{{HERE}}}[$__rate_interval])")],
            "short",
            width=THIRD,
            bars=True,
        ),
        chart(
            "Observations",
            "Numbers read by monitors.",
            [Ask(f"rate(x0tta6bl4_observations_total{{{HERE}}}[$__rate_interval])")],
            "cps",
            width=THIRD,
        ),
        chart(
            "Looks that saw nothing",
            "Failed looks, by monitor. A monitor that only fails is blind.",
            [
                Ask(
                    "sum by (instance, exported_instance) "
                    f"(rate(x0tta6bl4_probe_failures_total{{{HERE}}}[$__rate_interval]))",
                    "{{exported_instance}} ({{instance}})",
                )
            ],
            "cps",
            width=THIRD,
        ),
        chart(
            "Failures of plugins",
            "By plugin and kind of error; its own log lines carry the reason.",
            [
                Ask(
                    "sum by (instance, exported_instance, kind) "
                    f"(increase(x0tta6bl4_plugin_failures_total{{{HERE}}}[$__rate_interval]))",
                    "{{exported_instance}}: {{kind}} ({{instance}})",
                )
            ],
            "short",
            width=THIRD,
            bars=True,
        ),
        chart(
            "Journal failing",
            "1 while the journal cannot be written; nothing is done then.",
            [Ask(f"x0tta6bl4_journal_failing{{{HERE}}}")],
            "short",
            width=THIRD,
            lines=((None, "transparent"), (1, "red")),
        ),
    )
    board.row(
        "The endpoint",
        chart(
            "Latency, by endpoint (p95)",
            "How long an answer took. A dot carries the trace id of its request.",
            quantiles("x0tta6bl4_api_latency_seconds", "endpoint")[1:],
            "s",
            lines=((None, "transparent"), (0.25, "orange")),
        ),
        chart(
            "Requests, by code",
            "4xx is a client's mistake, 5xx the daemon's.",
            [Ask(f"sum by (code) (rate(x0tta6bl4_http_requests_total{{{HERE}}}[$__rate_interval]))", "{{code}}")],
            "reqps",
            stacked=True,
            width=QUARTER,
        ),
        chart(
            "Requests, by endpoint",
            "Who is asked most. Scrapes of /metrics are not counted.",
            [
                Ask(
                    f"sum by (endpoint) (rate(x0tta6bl4_http_requests_total{{{HERE}}}[$__rate_interval]))",
                    "{{endpoint}}",
                )
            ],
            "reqps",
            stacked=True,
            width=QUARTER,
        ),
        chart(
            "Readers of the event stream",
            "Open streams, by transport.",
            [Ask(f"sum by (transport) (x0tta6bl4_stream_readers{{{HERE}}})", "{{transport}}")],
            "short",
            width=THIRD,
        ),
        chart(
            "Lost or dropped",
            "Events that found a full queue, and readers that were dropped because they were too slow.",
            [
                Ask(f"increase(x0tta6bl4_events_dropped_total{{{HERE}}}[$__rate_interval])", "events ({{instance}})"),
                Ask(
                    "sum by (instance, reason) "
                    f"(increase(x0tta6bl4_stream_readers_dropped_total{{{HERE}}}[$__rate_interval]))",
                    "readers, {{reason}} ({{instance}})",
                ),
            ],
            "short",
            width=THIRD,
            bars=True,
        ),
        chart(
            "Sign-ins, by result",
            "Attempts of people to sign in on the page.",
            [
                Ask(
                    f"sum by (result) (increase(x0tta6bl4_sign_ins_total{{{HERE}}}[$__rate_interval]))",
                    "{{result}}",
                )
            ],
            "short",
            width=THIRD,
            bars=True,
        ),
        chart(
            "A scrape",
            "How long Prometheus waits for the daemon's numbers.",
            [Ask(f'scrape_duration_seconds{{{HERE}, job="x0tta6bl4"}}')],
            "s",
            width=THIRD,
        ),
        chart(
            "Series",
            "Samples in one scrape.",
            [Ask(f'scrape_samples_scraped{{{HERE}, job="x0tta6bl4"}}')],
            "short",
            width=THIRD,
        ),
        chart(
            "TLS certificate, time left",
            "Below the line, the alert X0tta6bl4CertificateExpires fires. Empty without TLS.",
            [Ask(f"x0tta6bl4_tls_certificate_expiry_timestamp_seconds{{{HERE}}} - time()")],
            "s",
            width=THIRD,
            lines=((None, "orange"), (14 * 86400, "transparent")),
        ),
    )
    board.row(
        "What it costs",
        chart(
            "Memory",
            "Resident memory. Above the line for 15 minutes, the alert X0tta6bl4MemoryHigh fires.",
            [Ask(f"process_resident_memory_bytes{{{HERE}}}")],
            "bytes",
            width=THIRD,
            lines=((None, "transparent"), (128 * 2**20, "orange")),
        ),
        chart(
            "CPU",
            "Share of one core.",
            [Ask(f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval])")],
            "percentunit",
            width=THIRD,
            lines=((None, "transparent"), (0.5, "orange")),
        ),
        chart(
            "File descriptors",
            "Share of the limit that is open.",
            [Ask(f"process_open_fds{{{HERE}}} / process_max_fds{{{HERE}}}")],
            "percentunit",
            width=THIRD,
            lines=((None, "transparent"), (0.8, "orange")),
        ),
        chart(
            "Configuration taken over",
            "1 after a reload that worked, 0 after one that was refused.",
            [Ask(f"x0tta6bl4_config_last_reload_successful{{{HERE}}}")],
            "short",
        ),
        chart(
            "Numbers that were not counted",
            "By reason: too many series, or a mistake in the daemon. Since it started.",
            [
                Ask(
                    f"sum by (instance, reason) (x0tta6bl4_meter_errors_total{{{HERE}}})",
                    "{{reason}} ({{instance}})",
                )
            ],
            "short",
        ),
    )
    return board


BOARDS: Sequence[Callable[[], Board]] = (overview, healing, internals)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, metavar="DIR", help=f"where they go; default {FOLDER}")
    folder: Path = parser.parse_args().to
    folder.mkdir(parents=True, exist_ok=True)
    for made in BOARDS:
        board = made()
        path = folder / f"{board.uid.removeprefix('x0tta6bl4-')}.json"
        path.write_text(board.text(), encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
