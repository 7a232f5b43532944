//! What a sweep found, as text.

use gristmill::bench::Estimate;
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
        Status::Slow => "slow",
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
    let verdict = match found.verdict {
        Verdict::Winner => "winner",
        Verdict::DefaultKept => "default kept",
    };
    format!(
        "{head}{}default: {}\nwinner: {}, {} x the default\n{verdict}\n\n",
        table(&rows),
        knobs(tuned, &found.default),
        knobs(tuned, &found.winner),
        interval(Some(found.ratio), 2)
    )
}
