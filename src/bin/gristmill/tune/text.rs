//! What a sweep found, as text.

use gristmill::bench::{Estimate, Row};
use gristmill::tune::{Candidate, Status, Sweep, Tuned, Verdict};

use crate::output::table;

/// `BM=64 BN=32`
pub(super) fn knobs(tuned: &Tuned, values: &[u32]) -> String {
    let named = tuned.knobs().iter().zip(values).map(|(knob, value)| format!("{}={value}", knob.name));
    named.collect::<Vec<String>>().join(" ")
}

fn interval(of: Option<Estimate>, digits: usize) -> String {
    let text = |e: Estimate| format!("{:.digits$} ({:.digits$} to {:.digits$})", e.median, e.low, e.high);
    of.map_or_else(|| "-".to_owned(), text)
}

fn number(of: Option<f64>) -> String {
    of.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn status(candidate: &Candidate) -> String {
    let word = match candidate.status {
        Status::Timed => return String::new(),
        Status::Illegal => "illegal",
        Status::Refused => "refused",
        Status::Wrong => "wrong",
        Status::Slower => "slower",
        Status::Implausible => "implausible",
        Status::Failed => "failed",
        Status::NotRun => "not run",
    };
    // Of a message of many lines the first says what it is.
    let message = candidate.message.as_deref().and_then(|message| message.lines().next()).unwrap_or_default();
    let short: String = message.chars().take(60).collect();
    format!("{word}: {short}")
}

/// The fastest first, then what was not timed; and what is to be made of it.
pub(super) fn sweep(tuned: &Tuned, found: &Sweep) -> String {
    let mut all: Vec<&Candidate> = found.candidates.iter().filter(|c| c.status != Status::Illegal).collect();
    let speed = |c: &Candidate| c.relative.map_or(0.0, |relative| relative.median);
    all.sort_by(|a, b| speed(b).total_cmp(&speed(a)));
    let rate = if found.flops > 0.0 { "GFLOP/s" } else { "GB/s" };
    let head = ["knobs", "us per call", "x default", rate, ""].map(str::to_owned).to_vec();
    let row = |c: &&Candidate| {
        let figure = if found.flops > 0.0 { c.gflops } else { c.gb_per_s };
        vec![knobs(tuned, &c.knobs), interval(c.time_us, 1), interval(c.relative, 2), number(figure), status(c)]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(all.iter().map(row)).collect();
    let illegal = found.candidates.len() - all.len();
    let Sweep { shape, dtype, search, ran, cached, seconds, .. } = found;
    let head = format!(
        "{} {shape} {dtype}: {search}, {illegal} illegal; {ran} run, {cached} from the cache, {seconds:.1} s\n",
        tuned.name()
    );
    format!("{head}{}default: {}\n{}\n\n", table(&rows), knobs(tuned, &found.default), verdict(tuned, found))
}

/// What is to be made of it: a candidate is named with its own ratio, never with another's.
fn verdict(tuned: &Tuned, found: &Sweep) -> String {
    let (best, ratio) = (knobs(tuned, &found.best), interval(Some(found.ratio), 2));
    match found.verdict {
        Verdict::Winner => format!("winner: {best}, {ratio} x the default"),
        Verdict::DefaultKept if found.best == found.default => {
            "default kept: nothing that was tried is faster".to_owned()
        }
        Verdict::DefaultKept => {
            format!("default kept: the best tried, {best}, is {ratio} x the default, not surely faster")
        }
    }
}

/// The same in one line, for a run of many.
pub(super) fn line(tuned: &Tuned, found: &Sweep) -> String {
    let Sweep { shape, dtype, ran, cached, seconds, candidates, .. } = found;
    let legal = candidates.iter().filter(|c| c.status != Status::Illegal).count();
    let tried = format!("{ran} of {legal} run, {cached} from the cache, {seconds:.1} s");
    format!("{} {shape} {dtype}: {}; {tried}\n", tuned.name(), verdict(tuned, found))
}

/// Kernels of one op at a shape: the time of the one that runs there now over that of each.
pub(super) fn rivals(
    row: &Row,
    kernels: &[(&Tuned, &[u32])],
    current: usize,
    estimates: &[Estimate],
    chosen: usize,
) -> String {
    let name = |i: usize| kernels.get(i).map_or("", |(tuned, _)| tuned.name());
    let others = estimates.iter().enumerate().filter(|(i, _)| *i != current);
    let others = others.map(|(i, ratio)| format!("{} is {} x {}", name(i), interval(Some(*ratio), 2), name(current)));
    let what = if chosen == current { "stays" } else { "is faster" };
    format!("{}: {}: {} {what}\n", row.name(), others.collect::<Vec<String>>().join(", "), name(chosen))
}
