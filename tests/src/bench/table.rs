//! Figures of all rounds, beside each other.

use super::load::Sums;
use super::{Case, Contender, Run};

/// One figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// CPU seconds per GiB that clients got; none if they got nothing.
    CpuPerGib,
    /// CPU time per request, microseconds.
    CpuPerRequest,
    /// Requests per second of all clients together.
    Requests,
    /// CPU seconds of the whole machine per GiB that clients got.
    MachinePerGib,
    /// What the relay adds to that.
    AddedPerGib,
    /// Gigabits per second that clients got, all together.
    Gigabits,
    /// Memory per client, KiB.
    Memory,
    /// What the relay adds to the kernel's slab per client, KiB.
    AddedSlab,
    /// Bytes between the ends of the session of which most are, KiB.
    MostHeld,
    /// Time that half of the messages do not exceed from end to end, microseconds.
    LatencyP50,
    /// The same of 99 in 100.
    LatencyP99,
    /// CPU time per packet that arrived, microseconds.
    CpuPerPacket,
    /// Packets that arrived per second of CPU time.
    PacketsPerCore,
    /// Packets per second that arrived, all together.
    Packets,
    /// Percent of the packets that did not arrive.
    Lost,
    /// Round trip that half of the packets do not exceed, microseconds.
    RoundTripP50,
    /// The same of 99 in 100.
    RoundTripP99,
    /// CPU time of the whole machine per packet that arrived, microseconds.
    MachinePerPacket,
    /// What the relay adds to that, microseconds.
    AddedPerPacket,
    /// Percent of the packets that the kernel forwarded in the relay's place.
    InKernel,
    /// What the relay adds to the p50 of latency or round trip, microseconds.
    AddedP50,
    /// The same of its p99.
    AddedP99,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::CpuPerGib => "CPU s/GiB",
            Self::CpuPerRequest => "CPU µs/request",
            Self::Requests => "requests/s",
            Self::MachinePerGib => "whole machine's CPU s/GiB",
            Self::AddedPerGib => "added CPU s/GiB",
            Self::Gigabits => "Gb/s",
            Self::Memory => "KiB per client",
            Self::AddedSlab => "added KiB of slab per client",
            Self::MostHeld => "KiB held of a session, at most",
            Self::LatencyP50 => "latency µs p50",
            Self::LatencyP99 => "latency µs p99",
            Self::CpuPerPacket => "CPU µs/packet",
            Self::PacketsPerCore => "packets/s per core",
            Self::Packets => "packets/s",
            Self::Lost => "% lost",
            Self::RoundTripP50 => "round trip µs p50",
            Self::RoundTripP99 => "round trip µs p99",
            Self::MachinePerPacket => "whole machine's CPU µs/packet",
            Self::AddedPerPacket => "added CPU µs/packet",
            Self::InKernel => "% in the kernel",
            Self::AddedP50 => "added µs p50",
            Self::AddedP99 => "added µs p99",
        }
    }

    /// Digits behind the point.
    fn digits(self) -> usize {
        match self {
            Self::CpuPerGib | Self::MachinePerGib | Self::AddedPerGib => 3,
            Self::Gigabits
            | Self::CpuPerPacket
            | Self::MachinePerPacket
            | Self::AddedPerPacket
            | Self::InKernel
            | Self::Lost => 2,
            Self::CpuPerRequest | Self::Memory | Self::AddedSlab => 1,
            Self::Requests
            | Self::PacketsPerCore
            | Self::Packets
            | Self::MostHeld
            | Self::LatencyP50
            | Self::LatencyP99
            | Self::RoundTripP50
            | Self::RoundTripP99
            | Self::AddedP50
            | Self::AddedP99 => 0,
        }
    }

    /// Whether it is compared with the references.
    fn is_compared(self) -> bool {
        matches!(
            self,
            Self::CpuPerGib
                | Self::AddedPerGib
                | Self::CpuPerRequest
                | Self::Requests
                | Self::CpuPerPacket
                | Self::PacketsPerCore
                | Self::AddedPerPacket
                | Self::AddedP50
                | Self::AddedP99
        )
    }

    fn of(self, run: &Run) -> Option<f64> {
        let Sums { bytes, requests, sent, arrived } = run.got;
        let cpu = || run.cost.as_ref().map(|cost| cost.cpu.as_secs_f64());
        let each = |share: f64, count: u64| (count > 0).then(|| share / as_float(count));
        match self {
            Self::CpuPerGib if bytes <= 1 << 20 => None,
            Self::CpuPerGib => each(cpu()? * f64::from(1 << 30), bytes),
            Self::CpuPerRequest => each(cpu()? * 1e6, requests),
            Self::Requests => Some(as_float(requests) / run.seconds),
            Self::Gigabits => Some(as_float(bytes) * 8e-9 / run.seconds),
            Self::Memory => Some(as_float(run.cost.as_ref()?.memory_per_client) / 1024.0),
            Self::CpuPerPacket => each(cpu()? * 1e6, arrived),
            Self::PacketsPerCore => {
                cpu().filter(|cpu| *cpu > 0.0).map(|cpu| as_float(arrived) / cpu)
            }
            Self::Packets => Some(as_float(arrived) / run.seconds),
            Self::Lost => each(as_float(sent.saturating_sub(arrived)) * 100.0, sent),
            Self::LatencyP50 | Self::RoundTripP50 => run.delays.map(|it| it.p50),
            Self::LatencyP99 | Self::RoundTripP99 => run.delays.map(|it| it.p99),
            Self::MachinePerPacket => run.machine_each().map(|each| each * 1e6),
            Self::MachinePerGib => run.machine_per_gib(),
            Self::AddedPerGib => run.added?.machine_per_gib,
            Self::AddedSlab => Some(run.added?.slab),
            Self::MostHeld => Some(as_float(run.held) / 1024.0),
            Self::AddedPerPacket => run.added?.machine.map(|each| each * 1e6),
            // Counted around the window, and so for a moment longer.
            Self::InKernel => each(as_float(run.forwarded?.min(arrived)) * 100.0, arrived),
            Self::AddedP50 => run.added?.delays.map(|it| it.p50),
            Self::AddedP99 => run.added?.delays.map(|it| it.p99),
        }
    }
}

/// What the median of one figure of a contender should come to.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// Of which contender.
    pub of: &'static str,
    /// Which figure.
    pub column: Column,
    /// By whose it is divided first; none for the figure itself.
    pub beside: Option<&'static str>,
    /// The bound.
    pub limit: Limit,
}

/// The tables of a case, and what they are held to.
pub(super) fn print<L, O>(
    case: &Case<L>,
    contenders: &[Contender<O>],
    runs: &[(&'static str, Run)],
) {
    println!("\n{}:", case.title);
    for columns in case.tables {
        print_table(columns, contenders, runs);
    }
    if !case.aims.is_empty() {
        print_aims(case.aims, runs);
    }
}

/// One row for each contender: least, middle and most of each figure, and the middle in proportion
/// to that of each reference.
fn print_table<O>(columns: &[Column], contenders: &[Contender<O>], runs: &[(&'static str, Run)]) {
    let references: Vec<_> =
        contenders.iter().filter(|it| it.is_reference).map(|it| it.name).collect();
    let mut titles = vec!["relay".to_owned()];
    for column in columns {
        titles.push(format!("{} min / median / max", column.title()));
        if column.is_compared() {
            titles.extend(references.iter().map(|name| format!("of {name}")));
        }
    }
    println!("\n| {} |", titles.join(" | "));
    println!("|{}", "---|".repeat(titles.len()));
    for Contender { name, .. } in contenders {
        let mut row = vec![(*name).to_owned()];
        for &column in columns {
            let own = Spread::among(runs, name, column);
            let digits = column.digits();
            row.push(own.as_ref().map_or("-".to_owned(), |Spread { least, median, most }| {
                format!("{least:.digits$} / {median:.digits$} / {most:.digits$}")
            }));
            if column.is_compared() {
                row.extend(references.iter().map(|reference| {
                    let reference = Spread::among(runs, reference, column);
                    let ratio = own.as_ref().zip(reference.as_ref());
                    let ratio = ratio.and_then(|(own, reference)| own.beside(reference));
                    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
                }));
            }
        }
        println!("| {} |", row.join(" | "));
    }
}

/// One row for each aim.
fn print_aims(aims: &[Aim], runs: &[(&'static str, Run)]) {
    println!("\n| what | of | beside | median | aim |");
    println!("|---|---|---|---|---|");
    for Aim { of, column, beside, limit } in aims {
        let own = Spread::among(runs, of, *column);
        let (value, digits) = match beside {
            None => (own.map(|own| own.median), column.digits()),
            Some(beside) => {
                let pair = own.zip(Spread::among(runs, beside, *column));
                (pair.and_then(|(own, beside)| own.beside(&beside)), 2)
            }
        };
        let (what, beside) = (column.title(), beside.unwrap_or_default());
        let figure = value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let verdict = value.map_or("not measured".to_owned(), |value| limit.held_to(value));
        println!("| {what} | {of} | {beside} | {figure} | {verdict} |");
    }
}

/// One figure of one round.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    aim: Option<Limit>,
}

/// A bound of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// Not above this.
    AtMost(f64),
    /// Not below this.
    AtLeast(f64),
    /// Below this.
    Below(f64),
}

impl Figure {
    /// A figure of this name.
    pub fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, aim: None }
    }

    /// That should not be above this.
    #[must_use]
    pub fn at_most(self, aim: f64) -> Self {
        Self { aim: Some(Limit::AtMost(aim)), ..self }
    }

    /// That should not be below this.
    #[must_use]
    pub fn at_least(self, aim: f64) -> Self {
        Self { aim: Some(Limit::AtLeast(aim)), ..self }
    }
}

impl Limit {
    /// The bound, and whether this figure keeps it.
    fn held_to(self, value: f64) -> String {
        let (sign, aim, is_met) = match self {
            Self::AtMost(aim) => ("at most", aim, value <= aim),
            Self::AtLeast(aim) => ("at least", aim, value >= aim),
            Self::Below(aim) => ("below", aim, value < aim),
        };
        let by = 100.0 * (value / aim - 1.0);
        let verdict =
            if is_met { "met".to_owned() } else { format!("missed by {:.0} %", by.abs()) };
        format!("{sign} {aim}: {verdict}")
    }
}

/// One row for each figure: least, middle and most of its rounds, and the aim, to which the middle
/// is held.
pub(super) fn print_figures(title: &str, rounds: &[Vec<Figure>]) {
    println!("\n{title}:\n");
    println!("| what | | min / median / max | aim |");
    println!("|---|---|---|---|");
    for Figure { name, unit, aim, .. } in rounds.first().into_iter().flatten() {
        let same = rounds.iter().flatten().filter(|other| other.name == *name);
        let Some(spread) = Spread::of(same.map(|figure| figure.value).collect()) else { continue };
        let Spread { least, median, most } = spread;
        let digits = [10.0, 1000.0].iter().filter(|limit| median.abs() < **limit).count();
        let aim = aim.map(|aim| aim.held_to(median)).unwrap_or_default();
        println!(
            "| {name} | {unit} | {least:.digits$} / {median:.digits$} / {most:.digits$} | {aim} |"
        );
    }
}

/// Least, middle and most of some figures.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    /// Of one contender's figures; none without any.
    fn among(runs: &[(&'static str, Run)], name: &str, column: Column) -> Option<Self> {
        let own = runs.iter().filter(|(other, _)| *other == name);
        Self::of(own.filter_map(|(_, run)| column.of(run)).collect())
    }

    /// The median in proportion to another; none beside what the machine's noise has made nothing.
    fn beside(&self, other: &Self) -> Option<f64> {
        (other.median > 0.0).then(|| self.median / other.median)
    }

    fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        let upper = figures.get(middle)?;
        let lower = if figures.len().is_multiple_of(2) { figures.get(middle - 1)? } else { upper };
        let (least, most) = (*figures.first()?, *figures.last()?);
        Some(Self { least, median: f64::midpoint(*lower, *upper), most })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a benchmark's byte count needs no 53 bits")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_limit_is_at_most_that_and_not_below() {
        assert_eq!(Limit::AtMost(0.5).held_to(0.5), "at most 0.5: met");
        assert_eq!(Limit::AtLeast(4.0).held_to(2.0), "at least 4: missed by 50 %");
        assert_eq!(Limit::Below(1.0).held_to(0.99), "below 1: met");
        assert_eq!(Limit::Below(1.0).held_to(1.0), "below 1: missed by 0 %");
    }

    #[test]
    fn medians_are_compared_and_nothing_with_nothing() {
        let spread = |figures: &[f64]| Spread::of(figures.to_vec());
        let pair = spread(&[1.0, 9.0, 2.0]).zip(spread(&[3.0, 5.0]));
        assert_eq!(pair.and_then(|(own, other)| own.beside(&other)), Some(0.5));
        let noise = spread(&[1.0]).zip(spread(&[-1.0, 0.0, 1.0]));
        assert_eq!(noise.and_then(|(own, other)| own.beside(&other)), None);
    }
}
