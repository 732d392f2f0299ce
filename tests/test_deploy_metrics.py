"""What watches the service: every expression parses, and asks for metrics and labels that a running service has."""

import json
import re
from typing import get_args

import promql_parser as promql
import pytest
import yaml
from conftest import ROOT
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families
from serving import OFFER, serving

from extractor.cells import Decision
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.service.served import Limits

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
SCRAPING = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
ADAPTER = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter.yaml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGET = {"job", "instance"}  # Prometheus knows whom it asked
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def exposed():
    """Sample name -> its labels -> the values that were seen, of a service that has answered and failed; the routes."""
    with serving(ScriptedEngine(lambda r: "?" if "fails" in r.messages[-1]["content"] else first_words(r))) as running:
        running.extract(OFFER, OFFER | {"title": "fails"})
        text = running.http.get("/metrics").text
        routes = set(running.http.get("/openapi.json").json()["paths"])
        declared = [m for m in vars(running.service.metrics).values() if isinstance(m, MetricWrapperBase)]
        empty = {m._name: m._labelnames for m in declared}  # a counter that has counted nothing shows no labels
    found = {}
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES[family.type]:
            name = family.name + suffix
            samples = [s.labels for s in family.samples if s.name == name]
            names = {*empty.get(family.name, ()), *(label for s in samples for label in s)}
            found[name] = {label: {s[label] for s in samples} for label in names}
    return found, routes


@pytest.fixture(scope="module")
def known(exposed):
    """The labels of all that can be asked for: what is exposed, what is recorded, what Prometheus adds."""
    names = {name: set(labels) | TARGET for name, labels in exposed[0].items()} | {"up": TARGET}
    for rule in rules("record"):
        names[rule["record"]] = labels_of(parsed(rule["expr"]), names)
    return names


def rules(kind):
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def parsed(expression):
    for variable in ("$__rate_interval", "$__range"):
        expression = expression.replace(variable, "5m")
    return promql.parse(expression)


def labels_of(node, known):
    """Those of the result; None for a number. Fails for what is unknown, and for sides that do not match."""
    match node:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.VectorSelector():
            assert node.name in known, f"no metric {node.name}"
            asked = {matcher.name for matcher in node.matchers.matchers}
            assert asked <= known[node.name], f"{node.name} has no {asked - known[node.name]}"
            return known[node.name]
        case promql.MatrixSelector():
            return labels_of(node.vector_selector, known)
        case promql.AggregateExpr():
            within = labels_of(node.expr, known)
            kept = set(node.modifier.labels) if node.modifier else set()
            assert kept <= within, f"by {kept} of {within}"
            return kept
        case promql.Call():
            return set().union(*(labels_of(argument, known) or () for argument in node.args))
        case promql.BinaryExpr():
            left, right = labels_of(node.lhs, known), labels_of(node.rhs, known)
            if left is None or right is None:
                return right if left is None else left
            if str(node.op) == "or":
                return left | right
            assert left == right or node.modifier, f"{left} {node.op} {right}"
            return left
    return labels_of(node.expr, known)


def selectors(expression):
    return re.findall(r'(\w+)(=|!=|=~|!~)"([^"]*)"', expression)


def expressions():
    for rule in rules("expr"):
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize("expression", [e for _, e in EXPRESSIONS], ids=[name for name, _ in EXPRESSIONS])
def test_an_expression_asks_for_what_there_is(expression, known, exposed):
    assert labels_of(parsed(expression), known) is not None
    values, routes = exposed
    of = {
        "route": routes,
        "kind": values["shelfwise_tokens_total"]["kind"],
        "decision": {*get_args(Decision), "undone"},
    }
    of |= {"job": {job["job_name"] for job in SCRAPING["scrape_configs"]}}
    for label, _, value in selectors(expression):
        assert label not in of or set(value.split("|")) <= of[label], (label, value)


def test_what_is_exposed_is_watched(exposed):
    """Every metric of the service is on the dashboard, or under an alert."""
    text = " ".join(expression for _, expression in EXPRESSIONS)
    families = {re.sub(r"_(bucket|sum|count)$", "", n) for n in exposed[0] if not n.endswith("_created")}
    assert {name for name in families if name not in text} == set()


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule, known):
    labels = labels_of(parsed(rule["expr"]), known)
    assert set(rule["annotations"]) == {"summary", "action"} and rule["labels"]["severity"] in ("critical", "warning")
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= labels


def test_the_queue_s_alert_knows_its_bound():
    (rule,) = [r for r in rules("alert") if r["alert"] == "ShelfwiseQueueNearlyFull"]
    assert float(parsed(rule["expr"]).rhs.lhs.val) < 1 and parsed(rule["expr"]).rhs.rhs.val == Limits().queue


def test_a_panel_shows_what_its_expression_gives(known):
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasources.yaml").read_text())["datasources"]
    for panel in PANELS:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert 0 <= panel["gridPos"]["x"] <= 24 - panel["gridPos"]["w"]
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            assert shown <= labels_of(parsed(target["expr"]), known), panel["title"]
    variables = DASHBOARD["templating"]["list"]
    asked = {name for _, expression in EXPRESSIONS for name in re.findall(r'"\$(\w+)"', expression)}
    assert asked == {variable["name"] for variable in variables}
    for variable in variables:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
        assert label in known[metric]


def test_the_autoscaler_s_metric_is_exposed_and_served_by_the_adapter(known):
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes" / "api.yaml").read_text())
    (scaler,) = [m for m in manifests if m["kind"] == "HorizontalPodAutoscaler"]
    wanted = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
    assert wanted == {rule["name"]["as"] for rule in ADAPTER["rules"]["custom"]}
    for rule in ADAPTER["rules"]["custom"]:
        series = promql.parse(rule["seriesQuery"]).name
        assert series in known
        query = rule["metricsQuery"].replace("<<.Series>>", series)
        query = query.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="x", pod=~"a|b"')
        labels_of(promql.parse(query), {series: known[series] | set(rule["resources"]["overrides"])})


def test_prometheus_reads_files_that_are_there_and_asks_who_is_there():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert all((DEPLOY / name).is_file() for name in SCRAPING["rule_files"])
    ports = {"shelfwise": "8000", "vllm": "8000"}
    for job in SCRAPING["scrape_configs"]:
        for target in (t for config in job["static_configs"] for t in config["targets"]):
            host, port = target.split(":")
            assert host in compose["services"] and ports[host] == port
    (own,) = [job for job in SCRAPING["scrape_configs"] if job["job_name"] == "shelfwise"]
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert own["authorization"] == {"type": "Bearer", "credentials_file": f"/run/secrets/{secret}"}
