"""The text that Prometheus scrapes: to the byte what its own library writes, and never so much of it at once that calls would wait."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from proxy.exchange import Caller
from proxy.record.figures import FIGURES, PREFIX, Figure
from proxy.record.metrics import Metrics
from proxy.record.process import process_text
from proxy.record.series import SLICE, Series, Spread, number_text, text_of

BOUNDS = (0.0005, 0.05, 1.0, 600.0)
LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['a"b', "a\\b", "a\nb", "%s", "{}", "é"])
NUMBERS = st.integers(0, 2**70) | st.floats(allow_nan=False)


class Theirs:
    """The same figures by the families of Prometheus' own library."""

    def __init__(self, figure, held):
        self.figure, self.held = figure, held

    def collect(self):
        figure = self.figure
        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        family = kinds[figure.type](PREFIX + figure.name, figure.help, labels=figure.labels)
        for labels, value in self.held.items():
            family.add_metric(labels, *value) if figure.buckets else family.add_metric(labels, value)
        yield family


def by_their_library(figure, held):
    registry = CollectorRegistry()
    registry.register(Theirs(figure, held))
    return generate_latest(registry)


@given(
    st.sampled_from(["counter", "gauge"]),
    st.lists(st.sampled_from(["zone", "caller", "model"]), max_size=3, unique=True).flatmap(
        lambda names: st.tuples(st.just(tuple(names)), st.dictionaries(st.tuples(*[LABELS] * len(names)), NUMBERS, max_size=4))
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_counters_and_gauges_read_as_their_library_writes_them(type_, labelled, text):
    names, held = labelled
    figure = Figure("x_total", type_, names, text)
    series = Series(figure, 10)
    for labels, value in held.items():
        series.set(labels, value)
    assert b"".join(text_of([series])) == by_their_library(figure, held or ({} if names else {(): 0}))


@given(st.dictionaries(st.tuples(LABELS, LABELS), st.lists(st.floats(0, 1000), max_size=20), min_size=1, max_size=3))
def test_histograms_read_as_their_library_writes_them(observed):
    figure = Figure("x_seconds", "histogram", ("provider", "operation"), "help", BOUNDS)
    series, held = Series(figure, 10), {}
    for labels, seconds in observed.items():
        cell = series.cell(labels)
        for number, one in enumerate(seconds):
            cell.append(one)
            if number == 7:
                cell.sort_in()  # some are in their buckets before the rest comes
        below = [(str(bound), float(sum(one <= bound for one in seconds))) for bound in BOUNDS]
        total = sum(seconds[8:], sum(seconds[:8], 0.0))
        held[labels] = ([*below, ("+Inf", float(len(seconds)))], total)
    assert b"".join(text_of([series])) == by_their_library(figure, held)


@given(st.lists(st.sampled_from(BOUNDS) | st.floats(0, 1000), max_size=50))
def test_what_is_sorted_in_at_once_falls_where_each_would_fall(seconds):
    cell = Spread(BOUNDS)
    cell.extend(seconds)
    *below, count, total = cell.numbers()
    assert below == [sum(one <= bound for one in seconds) for bound in BOUNDS] + [len(seconds)]
    assert (count, total) == (len(seconds), sum(seconds))
    assert cell.numbers() == [*below, count, total]


def test_all_of_it_can_be_parsed(clock, tell):
    metrics = Metrics(lambda kind, name: True, clock)
    metrics.told(tell(caller=Caller('b"o\\t\n', "key")))
    text = b"".join(metrics.exposition()).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {(PREFIX + figure.name).removesuffix("_total") for figure in FIGURES} <= families.keys()
    assert families["sluice_requests"].samples[0].labels["caller"] == 'b"o\\t\n'
    assert "process_resident_memory_bytes" in families
    assert not [name for name in families if name.startswith("sluice_") and name.endswith("_created")]


def with_ten_thousand_series(clock, tell):
    metrics = Metrics(lambda kind, name: True, clock)
    for number in range(2500):
        metrics.told(tell(caller=Caller(f"caller-{number}", "key", "tier", "team")))
    return metrics


def test_ten_thousand_series_come_in_slices_of_bounded_length(clock, tell):
    metrics = with_ten_thousand_series(clock, tell)
    slices = list(metrics.exposition())
    lines = [one.count(b"\n") for one in slices]
    assert sum(lines) > 10_000
    most_of_one_series = max(len(figure.buckets) for figure in FIGURES) + 3
    assert max(lines[1:]) <= SLICE + most_of_one_series + 2 * len(FIGURES)
    assert len(lines) > 10_000 / max(lines)


def test_what_is_counted_during_a_scrape_breaks_nothing_and_no_series_is_torn(clock, tell):
    metrics = with_ten_thousand_series(clock, tell)
    text = b""
    for number, one in enumerate(metrics.exposition()):
        text += one
        metrics.told(tell(caller=Caller(f"late-{number}", "key"), operation=f"o{number}"))
    counts, buckets = {}, {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name == "sluice_request_duration_seconds_count":
                counts[sample.labels["operation"]] = sample.value
            elif sample.name == "sluice_request_duration_seconds_bucket" and sample.labels["le"] == "+Inf":
                buckets[sample.labels["operation"]] = sample.value
    assert counts == buckets and counts
    assert b"late-" in b"".join(metrics.exposition())


@given(NUMBERS | st.floats())
def test_a_number_reads_as_their_library_writes_it(value):
    assert number_text(value) == floatToGoString(value)


def test_what_is_said_of_the_process_is_what_their_library_says_of_it():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs, ours = (list(text_string_to_metric_families(text.decode())) for text in (generate_latest(registry), process_text()))
    assert [(one.name, one.type, one.documentation) for one in ours] == [(one.name, one.type, one.documentation) for one in theirs]
    values = [{one.name: one.samples[0].value for one in families} for families in (theirs, ours)]
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert values[0][name] == values[1][name]
    for name in ("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds"):
        assert 0.5 * values[0][name] <= values[1][name] <= 2 * values[0][name]


def test_where_there_is_no_proc_nothing_is_said_of_the_process(monkeypatch, tmp_path):
    monkeypatch.setattr("proxy.record.process._PROC", tmp_path)
    assert process_text() == b""
