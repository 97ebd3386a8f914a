//! What can be counted, as OpenMetrics, computed when it is asked for.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use proxy_ebpf::Reason;

use crate::cluster::condition::Ask;
use crate::cluster::{Cluster, ClusterView};
use crate::origin::OriginView;
use crate::plane::kernel::{Kernel, KernelView};
use crate::plane::{Leg, StreamEngine, StreamPlane, StreamsView};
use crate::session::flow::{Dropped, Drops};
use crate::session::http::{Counts as HttpCounts, StatusClass};
use crate::session::{End, Protocol, Role, Sessions};
use crate::stream::Kind;

/// A registry with everything in [`TABLE`]; the drops are those of WebRTC and of SRT.
pub fn registry(
    sessions: Arc<Sessions>,
    cluster: Arc<Cluster>,
    http: Arc<HttpCounts>,
    drops: [Arc<Drops>; 2],
    kernel: Kernel,
    streams: StreamPlane,
) -> Registry {
    let mut registry = Registry::default();
    let snapshot = Snapshot { sessions, cluster, http, drops, kernel, streams };
    registry.register_collector(Box::new(snapshot));
    registry
}

/// Media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The registry as OpenMetrics text.
pub fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    Ok(text)
}

/// One metric family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name without the suffix that OpenMetrics adds to a counter.
    pub name: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// Counter, gauge or histogram.
    pub kind: MetricType,
    /// What it says.
    pub help: &'static str,
}

const SESSIONS: Family = Family {
    name: "srs_proxy_sessions",
    labels: &["protocol"],
    kind: MetricType::Gauge,
    help: "Live sessions",
};
const SETUPS: Family = Family {
    name: "srs_proxy_session_setups",
    labels: &["protocol", "role"],
    kind: MetricType::Counter,
    help: "Sessions whose origin has said yes to publish or play",
};
const ENDS: Family = Family {
    name: "srs_proxy_session_ends",
    labels: &["protocol", "reason"],
    kind: MetricType::Counter,
    help: "Ended sessions, each with its one reason",
};
const BYTES: Family = Family {
    name: "srs_proxy_bytes",
    labels: &["protocol", "direction"],
    kind: MetricType::Counter,
    help: "Bytes written to the sockets of origins and clients",
};
const HTTP_REQUESTS: Family = Family {
    name: "srs_proxy_http_requests",
    labels: &["kind", "status"],
    kind: MetricType::Counter,
    help: "Answered HTTP requests, for live streams, playlists, pieces of media and the proxy's own pages",
};
const ORIGINS: Family = Family {
    name: "srs_proxy_origins",
    labels: &["state"],
    kind: MetricType::Gauge,
    help: "Registered origins, as operators want them; down ones could not be connected by RTMP or HTTP last time, or by several proxies",
};
const ROUTES: Family = Family {
    name: "srs_proxy_routes",
    labels: &["state"],
    kind: MetricType::Gauge,
    help: "Streams that have an origin; idle ones have no client",
};
const DATAGRAMS_DROPPED: Family = Family {
    name: "srs_proxy_datagrams_dropped",
    labels: &["protocol", "reason"],
    kind: MetricType::Counter,
    help: "Datagrams of clients and origins that went nowhere",
};
const DATAGRAMS_LOST: Family = Family {
    name: "srs_proxy_datagrams_lost",
    labels: &["protocol"],
    kind: MetricType::Counter,
    help: "Datagrams of sessions that a full socket did not take, or the way not by their size",
};
const KERNEL_PACKETS: Family = Family {
    name: "srs_proxy_kernel_packets",
    labels: &["reason"],
    kind: MetricType::Counter,
    help: "Packets that came by the programs in the kernel, by what became of them",
};
const KERNEL_FLOWS: Family = Family {
    name: "srs_proxy_kernel_flows",
    labels: &["state"],
    kind: MetricType::Gauge,
    help: "Room for flows in the kernel, carried there and free",
};
const KERNEL_INTERFACES: Family = Family {
    name: "srs_proxy_kernel_interfaces",
    labels: &["interface", "engine"],
    kind: MetricType::Gauge,
    help: "Always 1: what forwards media that comes by this interface",
};
const STREAM_SESSIONS: Family = Family {
    name: "srs_proxy_stream_sessions",
    labels: &["engine"],
    kind: MetricType::Gauge,
    help: "Live sessions of RTMP and HTTP by what carries them, or between two requests has carried them last",
};
const STREAM_ENGINE: Family = Family {
    name: "srs_proxy_stream_engine",
    labels: &["engine"],
    kind: MetricType::Gauge,
    help: "1 for the engine that carries streams here, 0 for the others",
};
const STREAM_THREADS: Family = Family {
    name: "srs_proxy_stream_threads",
    labels: &[],
    kind: MetricType::Gauge,
    help: "Threads of that engine; the relay has none of its own",
};
const STREAM_BYTES: Family = Family {
    name: "srs_proxy_stream_bytes",
    labels: &["by"],
    kind: MetricType::Counter,
    help: "Bytes that these threads have written, by splice(2) or by a copy",
};
const PROXIES: Family = Family {
    name: "srs_proxy_proxies",
    labels: &[],
    kind: MetricType::Gauge,
    help: "Proxies that share the store, this one included",
};
const CONFLICTS: Family = Family {
    name: "srs_proxy_stream_conflicts",
    labels: &[],
    kind: MetricType::Gauge,
    help: "Streams that are published at several origins, as far as any proxy sees",
};
const STORE_ROUTES: Family = Family {
    name: "srs_proxy_store_routes",
    labels: &[],
    kind: MetricType::Gauge,
    help: "Streams whose origin is known by the word of the store",
};
const STORE_DEGRADED: Family = Family {
    name: "srs_proxy_store_degraded",
    labels: &[],
    kind: MetricType::Gauge,
    help: "1 while the store does not answer, or has something that cannot be used, else 0",
};
const STORE_STALENESS: Family = Family {
    name: "srs_proxy_store_staleness_seconds",
    labels: &[],
    kind: MetricType::Gauge,
    help: "Since what others have done was last known",
};
const STORE_WAITING: Family = Family {
    name: "srs_proxy_store_waiting",
    labels: &[],
    kind: MetricType::Gauge,
    help: "What this proxy has to tell the store and has not yet",
};
const STORE_ERRORS: Family = Family {
    name: "srs_proxy_store_errors",
    labels: &["reason"],
    kind: MetricType::Counter,
    help: "What was asked of the store in vain",
};
const STORE_SECONDS: Family = Family {
    name: "srs_proxy_store_seconds",
    labels: &["ask"],
    kind: MetricType::Histogram,
    help: "Time for the store to answer, errors included",
};
const BUILD_INFO: Family = Family {
    name: "srs_proxy_build_info",
    labels: &["version"],
    kind: MetricType::Gauge,
    help: "Always 1",
};

/// Every family, in the order in which they are written.
pub const TABLE: [Family; 25] = [
    SESSIONS,
    SETUPS,
    ENDS,
    BYTES,
    HTTP_REQUESTS,
    DATAGRAMS_DROPPED,
    DATAGRAMS_LOST,
    KERNEL_PACKETS,
    KERNEL_FLOWS,
    KERNEL_INTERFACES,
    STREAM_SESSIONS,
    STREAM_ENGINE,
    STREAM_THREADS,
    STREAM_BYTES,
    ORIGINS,
    ROUTES,
    PROXIES,
    CONFLICTS,
    STORE_ROUTES,
    STORE_DEGRADED,
    STORE_STALENESS,
    STORE_WAITING,
    STORE_ERRORS,
    STORE_SECONDS,
    BUILD_INFO,
];

/// Reads the tables at each scrape: nothing is counted twice.
#[derive(Debug)]
struct Snapshot {
    sessions: Arc<Sessions>,
    cluster: Arc<Cluster>,
    http: Arc<HttpCounts>,
    /// Of WebRTC and SRT.
    drops: [Arc<Drops>; 2],
    kernel: Kernel,
    streams: StreamPlane,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let totals = self.sessions.totals();
        let protocols = Protocol::ALL.map(Protocol::as_str);
        let live = protocols.iter().zip(totals.live).map(|(p, n)| ([*p, ""], n));
        write(&mut encoder, SESSIONS, live)?;
        write(&mut encoder, SETUPS, by_protocol(&totals.setups, Role::ALL.map(Role::as_str)))?;
        write(&mut encoder, ENDS, by_protocol(&totals.ends, End::ALL.map(End::as_str)))?;
        let directions = Leg::ALL.map(Leg::inwards);
        write(&mut encoder, BYTES, by_protocol(&totals.bytes, directions))?;
        let kinds = Kind::ALL.map(Kind::as_str);
        let classes = StatusClass::ALL.map(StatusClass::as_str);
        write(&mut encoder, HTTP_REQUESTS, crossed(kinds, &self.http.read(), classes))?;
        let protocols = [Protocol::Webrtc, Protocol::Srt].map(Protocol::as_str);
        let drops = self.drops.each_ref().map(|drops| drops.read());
        let reasons = Dropped::ALL.map(Dropped::as_str);
        write(&mut encoder, DATAGRAMS_DROPPED, crossed(protocols, &drops, reasons))?;
        let udp = [Protocol::Webrtc, Protocol::Srt];
        let lost = udp.map(|it| totals.lost.get(it as usize).copied().unwrap_or_default());
        write(
            &mut encoder,
            DATAGRAMS_LOST,
            protocols.iter().zip(lost).map(|(p, n)| ([*p, ""], n)),
        )?;
        let KernelView { interfaces, flows, capacity, packets, .. } = self.kernel.view();
        let reasons = Reason::ALL.iter().map(|reason| [reason.as_str(), ""]);
        write(&mut encoder, KERNEL_PACKETS, reasons.zip(packets))?;
        let free = usize::try_from(capacity).unwrap_or(usize::MAX).saturating_sub(flows);
        write(&mut encoder, KERNEL_FLOWS, by_state([("carried", flows), ("free", free)]))?;
        let interfaces = interfaces.iter().map(|view| ([view.name.as_str(), view.engine], 1));
        write(&mut encoder, KERNEL_INTERFACES, interfaces)?;
        let engines = StreamEngine::ALL.map(|engine| [engine.as_str(), ""]);
        write(&mut encoder, STREAM_SESSIONS, engines.into_iter().zip(totals.streams))?;
        let StreamsView { engine, threads, spliced_bytes, copied_bytes, .. } = self.streams.view();
        let engines = engines.map(|labels @ [name, _]| (labels, u64::from(name == engine)));
        write(&mut encoder, STREAM_ENGINE, engines)?;
        write(&mut encoder, STREAM_THREADS, [(["", ""], threads.len() as u64)])?;
        let bytes = [(["splice", ""], spliced_bytes), (["copy", ""], copied_bytes)];
        write(&mut encoder, STREAM_BYTES, bytes)?;
        let counts = self.cluster.balancer().counts(Instant::now());
        let states = OriginView::STATES.into_iter().zip(counts.origins);
        write(&mut encoder, ORIGINS, by_state(states))?;
        let states = [("in_use", counts.routes_in_use), ("idle", counts.routes_idle)];
        write(&mut encoder, ROUTES, by_state(states))?;
        self.encode_store(&mut encoder)?;
        write(&mut encoder, BUILD_INFO, [([env!("CARGO_PKG_VERSION"), ""], 1)])
    }
}

impl Snapshot {
    fn encode_store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let condition = self.cluster.condition();
        let ClusterView { store, proxies, conflicts, .. } = self.cluster.view(Instant::now());
        let counts = [
            (PROXIES, proxies.len()),
            (CONFLICTS, conflicts.len()),
            (STORE_ROUTES, store.known_routes),
            (STORE_DEGRADED, usize::from(condition.reason().is_some())),
        ];
        for (family, count) in counts {
            write(encoder, family, by_state([("", count)]))?;
        }
        let staleness = ConstGauge::new(store.staleness_seconds);
        write_metrics(encoder, STORE_STALENESS, [(["", ""], staleness)])?;
        write(encoder, STORE_WAITING, by_state([("", store.waiting)]))?;
        let errors = condition.errors().map(|(reason, count)| ([reason, ""], count));
        write(encoder, STORE_ERRORS, errors)?;
        let seconds = Ask::ALL
            .into_iter()
            .filter_map(|ask| Some(([ask.as_str(), ""], condition.seconds(ask)?.clone())));
        write_metrics(encoder, STORE_SECONDS, seconds)
    }
}

/// Values of a family's labels, the second unused where it has one.
type Labels = [&'static str; 2];

fn by_protocol<const N: usize>(
    rows: &[[u64; N]; Protocol::ALL.len()],
    second: [&'static str; N],
) -> impl Iterator<Item = (Labels, u64)> {
    crossed(Protocol::ALL.map(Protocol::as_str), rows, second)
}

fn crossed<const M: usize, const N: usize>(
    first: [&'static str; M],
    rows: &[[u64; N]; M],
    second: [&'static str; N],
) -> impl Iterator<Item = (Labels, u64)> {
    first.into_iter().zip(*rows).flat_map(move |(one, row)| {
        second.into_iter().zip(row).map(move |(other, n)| ([one, other], n))
    })
}

fn by_state(
    states: impl IntoIterator<Item = (&'static str, usize)>,
) -> impl Iterator<Item = (Labels, u64)> {
    states.into_iter().map(|(state, n)| ([state, ""], u64::try_from(n).unwrap_or(u64::MAX)))
}

/// Whole numbers of a counter or a gauge.
fn write<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: Family,
    samples: impl IntoIterator<Item = ([&'a str; 2], u64)>,
) -> fmt::Result {
    let samples = samples.into_iter();
    if matches!(family.kind, MetricType::Counter) {
        let counters = samples.map(|(labels, n)| (labels, ConstCounter::new(n)));
        write_metrics(encoder, family, counters)
    } else {
        let gauges = samples.map(|(labels, n)| (labels, ConstGauge::new(n)));
        write_metrics(encoder, family, gauges)
    }
}

fn write_metrics<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    family: Family,
    metrics: impl IntoIterator<Item = ([&'a str; 2], impl EncodeMetric)>,
) -> fmt::Result {
    let Family { name, help, kind, labels } = family;
    let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
    for (values, metric) in metrics {
        let labels: Vec<_> = labels.iter().copied().zip(values).collect();
        metric.encode(descriptor.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listen::TrustedProxies;
    use crate::origin::{BalancerSettings, Listener, Origin};
    use crate::plane::StreamStanding;
    use crate::proto::proxy_protocol::Ends;
    use crate::session::SessionLimits;

    #[test]
    fn a_scrape_shows_sessions_origins_and_every_reason() {
        let sessions = Sessions::new(SessionLimits {
            total: 1,
            per_client: 1,
            shared: TrustedProxies::default(),
        });
        let fixed = Origin::fixed("127.0.0.1", &[(Listener::Rtmp, "1935")]).unwrap();
        let settings = BalancerSettings { fixed: Some(fixed), ..Default::default() };
        let cluster = Cluster::alone(settings);
        let registry = registry(
            Arc::clone(&sessions),
            cluster,
            Arc::default(),
            Default::default(),
            Kernel::off("a test"),
            StreamPlane::none("a test"),
        );
        let client = "192.0.2.1:5000".parse().unwrap();
        let ends = Ends { source: client, destination: client };
        let live = sessions.admit(ends, Protocol::Rtmp).unwrap();
        assert!(sessions.admit(ends, Protocol::Rtmp).is_err());
        live.established(Role::Publish);
        live.session().meter.wrote(Leg::Origin, 1500);
        live.session().carried_by(StreamStanding::now(StreamEngine::UringSplice, None));
        let text = text(&registry).unwrap();
        for line in [
            "# TYPE srs_proxy_sessions gauge",
            "srs_proxy_sessions{protocol=\"rtmp\"} 1",
            "# TYPE srs_proxy_session_setups counter",
            "srs_proxy_session_setups_total{protocol=\"rtmp\",role=\"publish\"} 1",
            "srs_proxy_session_setups_total{protocol=\"rtmp\",role=\"play\"} 0",
            "srs_proxy_session_ends_total{protocol=\"rtmp\",reason=\"too_many_sessions\"} 1",
            "srs_proxy_bytes_total{protocol=\"rtmp\",direction=\"to_origin\"} 1500",
            "srs_proxy_http_requests_total{kind=\"live\",status=\"2xx\"} 0",
            "srs_proxy_stream_sessions{engine=\"uring-splice\"} 1",
            "srs_proxy_stream_sessions{engine=\"relay\"} 0",
            "srs_proxy_stream_engine{engine=\"relay\"} 1",
            "srs_proxy_stream_engine{engine=\"uring-splice\"} 0",
            "srs_proxy_stream_threads{} 0",
            "srs_proxy_stream_bytes_total{by=\"splice\"} 0",
            "srs_proxy_origins{state=\"active\"} 1",
            "srs_proxy_origins{state=\"down\"} 0",
            "srs_proxy_origins{state=\"draining\"} 0",
            "srs_proxy_origins{state=\"maintenance\"} 0",
            "srs_proxy_routes{state=\"in_use\"} 0",
            "srs_proxy_proxies{} 0",
            "srs_proxy_stream_conflicts{} 0",
            "srs_proxy_store_routes{} 0",
            "srs_proxy_store_degraded{} 0",
            "srs_proxy_store_waiting{} 0",
            "# TYPE srs_proxy_store_staleness_seconds gauge",
            "srs_proxy_store_errors_total{reason=\"late\"} 0",
            "# TYPE srs_proxy_store_seconds histogram",
            "srs_proxy_store_seconds_bucket{le=\"0.2\",ask=\"claim\"} 0",
            "srs_proxy_store_seconds_count{ask=\"recall\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for end in End::ALL {
            let label = format!("reason=\"{}\"", end.as_str());
            assert!(text.contains(&label), "{label} is not in\n{text}");
        }
        for family in TABLE {
            assert!(text.contains(&format!("# HELP {} {}\n", family.name, family.help)), "{text}");
        }
    }

    #[test]
    fn the_documentation_lists_every_metric_as_it_is() {
        let page = include_str!("../../../docs/metrics.md");
        let documented: Vec<&str> = page.lines().filter(|l| l.starts_with("| `srs_")).collect();
        let rows = TABLE.map(|family| {
            let kind = family.kind.as_str();
            let suffix = if kind == "counter" { "_total" } else { "" };
            let labels = family.labels.join(", ");
            format!("| `{}{suffix}` | {kind} | {labels} | {} |", family.name, family.help)
        });
        assert_eq!(documented, rows, "docs/metrics.md differs from metrics::TABLE");
    }
}
