"""What a learner tells Prometheus; the registry is passed in, nothing is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from learner.errors import SettingsError
from learner.loop import Learner, StepReport
from stream.arrivals import SubscriberStats

_STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class LearnerMetrics:
    """Counters and gauges of one learner under `babyagent_learner_` and, for what it receives, `babyagent_stream_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"babyagent_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"babyagent_{name}", text, labels, registry=registry)

        self.steps = counter("learner_steps_total", "Training steps taken or refused.")
        self.samples = counter("learner_samples_total", "Pairs trained on, with repetition.")
        self.refused = counter(
            "learner_refused_steps_total", "Steps refused because a loss or gradient was not finite."
        )
        self.busy = counter("learner_busy_seconds_total", "Time spent receiving and training.")
        self.waited = counter("learner_waited_seconds_total", "Time spent waiting for pairs, the budget being spent.")
        self.step_seconds = Histogram(
            "babyagent_learner_step_seconds",
            "Time from one step's report to the next, waiting excluded.",
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self.loss = gauge("learner_loss", "Mean loss of the last step's pairs.")
        self.grad_norm = gauge("learner_gradient_norm", "Norm of the last step's gradient before clipping.")
        self.rate = gauge("learner_learning_rate", "Learning rate of the last step.")
        self.gauges = gauge("learner_objective", "Gauges of the objective, by name.", "gauge")
        self.memory = gauge("buffer_pairs", "Pairs in memory, by tier.", "tier")
        self.untrained = gauge("buffer_untrained_pairs", "Pairs dropped before their first training step, ever.")
        self.probe = gauge("learner_probe_accuracy_ratio", "Accuracy of the last probe.", "control", "encoder", "probe")
        self.received = gauge("stream_pairs_received", "Pairs received since the start.")
        self.lost = gauge("stream_pairs_lost", "Holes in the sequence numbers since the start.")
        self.repeated = gauge("stream_pairs_repeated", "Pairs received twice and dropped since the start.")
        self.malformed = gauge("stream_messages_malformed", "Messages refused since the start, by reason.", "reason")
        self.suppressed = gauge(
            "stream_pairs_suppressed", "Pairs the devices suppressed as seen before, as headers tell."
        )
        self.backlog = gauge("stream_backlog_pairs", "Pairs received and not yet taken by the learner.")

    def step(self, report: StepReport, learner: Learner) -> None:
        """Record a step."""
        self.steps.inc()
        self.busy.inc(report.busy_s)
        self.waited.inc(report.waited_s)
        self.step_seconds.observe(report.busy_s)
        if report.refused:
            self.refused.inc()
            return
        self.samples.inc(learner.config.pacing.batch_size)
        self.loss.set(report.loss)
        self.grad_norm.set(report.grad_norm)
        self.rate.set(report.learning_rate)
        for name, value in report.gauges.items():
            self.gauges.labels(name).set(value)
        self.memory.labels("fresh").set(learner.memory.fresh)
        self.memory.labels("reservoir").set(len(learner.memory.reservoir))
        self.untrained.set(learner.memory.untrained)
        self.suppressed.set(learner.suppressed)

    def stream(self, stats: SubscriberStats, backlog: int) -> None:
        """Record what the subscriber counted."""
        self.received.set(stats.received)
        self.lost.set(stats.lost)
        self.repeated.set(stats.repeated)
        self.backlog.set(backlog)
        for reason, count in stats.malformed.items():
            self.malformed.labels(reason).set(count)

    def probed(self, control: str, encoder: str, accuracies: dict[str, float]) -> None:
        """Record a probe's accuracies by name."""
        for probe, accuracy in accuracies.items():
            self.probe.labels(control, encoder, probe).set(accuracy)


def serve_metrics(registry: CollectorRegistry, port: int) -> None:
    """Serve /metrics on the loopback. Raises SettingsError in one line where the port is taken."""
    try:
        start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise SettingsError(
            f"metrics port {port} cannot be used ({error.strerror}): choose another --metrics-port, 0 for none"
        ) from error
