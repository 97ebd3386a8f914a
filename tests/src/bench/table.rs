//! Figures of all rounds, beside each other.

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
    /// Gigabits per second that clients got, all together.
    Gigabits,
    /// Memory per client, KiB.
    Memory,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::CpuPerGib => "CPU s/GiB",
            Self::CpuPerRequest => "CPU µs/request",
            Self::Requests => "requests/s",
            Self::Gigabits => "Gb/s",
            Self::Memory => "KiB per client",
        }
    }

    /// Digits behind the point.
    fn digits(self) -> usize {
        match self {
            Self::CpuPerGib => 3,
            Self::Gigabits => 2,
            Self::CpuPerRequest | Self::Memory => 1,
            Self::Requests => 0,
        }
    }

    /// Whether it is compared with the references.
    fn is_compared(self) -> bool {
        matches!(self, Self::CpuPerGib | Self::CpuPerRequest | Self::Requests)
    }

    fn of(self, run: &Run) -> Option<f64> {
        let (cpu, bytes, requests) =
            (run.cpu.as_secs_f64(), as_float(run.bytes), as_float(run.requests));
        match self {
            Self::CpuPerGib => (run.bytes > 1 << 20).then(|| cpu * f64::from(1 << 30) / bytes),
            Self::CpuPerRequest => (run.requests > 0).then(|| cpu * 1e6 / requests),
            Self::Requests => Some(requests / run.seconds),
            Self::Gigabits => Some(bytes * 8e-9 / run.seconds),
            Self::Memory => Some(as_float(run.memory_per_client) / 1024.0),
        }
    }
}

/// One row for each contender: least, middle and most of each figure, and the middle in proportion
/// to that of each reference.
pub(super) fn print<L, O>(
    case: &Case<L>,
    contenders: &[Contender<O>],
    runs: &[(&'static str, Run)],
) {
    let spread = |name, column: Column| {
        let own = runs.iter().filter(|(other, _)| *other == name);
        Spread::of(own.filter_map(|(_, run)| column.of(run)).collect())
    };
    let references: Vec<_> =
        contenders.iter().filter(|it| it.is_reference).map(|it| it.name).collect();
    let mut titles = vec!["relay".to_owned()];
    for column in case.columns {
        titles.push(format!("{} min / median / max", column.title()));
        if column.is_compared() {
            titles.extend(references.iter().map(|name| format!("of {name}")));
        }
    }
    println!("\n{}:\n", case.title);
    println!("| {} |", titles.join(" | "));
    println!("|{}", "---|".repeat(titles.len()));
    for Contender { name, .. } in contenders {
        let mut row = vec![(*name).to_owned()];
        for &column in case.columns {
            let own = spread(*name, column);
            let digits = column.digits();
            row.push(own.as_ref().map_or("-".to_owned(), |Spread { least, median, most }| {
                format!("{least:.digits$} / {median:.digits$} / {most:.digits$}")
            }));
            if column.is_compared() {
                row.extend(references.iter().map(|reference| {
                    let ratio = own.as_ref().zip(spread(*reference, column));
                    let ratio = ratio.map(|(own, reference)| own.median / reference.median);
                    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
                }));
            }
        }
        println!("| {} |", row.join(" | "));
    }
}

/// Least, middle and most of some figures.
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
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
