//! `verify`: every case of every operation, compared with its reference.

use std::collections::BTreeSet;

use gristmill::verify::{self, Case, Report};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, backend_json, backend_line, note, object, print, table};
use crate::source::usage;
use crate::{Backend, Place};

/// Lines of each kind below the table.
const SHOWN: usize = 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this operation
    #[arg(long, value_name = "OP")]
    op: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    form: Form,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let cases = verify::cases();
    let wanted = |case: &&Case| args.op.as_ref().is_none_or(|op| case.op == op);
    let count = cases.iter().filter(wanted).count();
    if count == 0 {
        let known: BTreeSet<&str> = cases.iter().map(|case| case.op).collect();
        let known = Vec::from_iter(known).join(", ");
        return Err(usage(&format!("no such operation; there are {known}")));
    }
    let gpu = args.place.open(Backend::Gpu)?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {msg}");
    let bar = ProgressBar::new(count as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // A case's name begins with its operation's.
    let filter = args.op.as_ref().map(|op| format!("{op} "));
    let report = verify::run(&gpu, filter.as_deref(), |case, _, _| {
        bar.set_message(case.op);
        bar.inc(1);
    });
    bar.finish_and_clear();

    if !args.form.json {
        print(&lines(&report))?;
    }
    note(&format!("{} | {:.1} s", backend_line(&gpu), report.seconds));
    let facts = [
        ("cases", json!(report.ops.iter().map(|op| op.cases).sum::<usize>())),
        ("passed", json!(report.passed())),
        ("failed", json!(report.failures.len())),
        ("skipped", json!(report.skips.len())),
        ("ops", report.ops.iter().map(|op| json!(op)).collect::<Value>()),
        ("failures", json!(report.failures)),
        ("skips", json!(report.skips)),
        ("seconds", json!(report.seconds)),
    ];
    args.form.document(&object(facts.into_iter().chain(backend_json(&gpu))))?;
    Ok(if report.is_good() { Outcome::Done } else { Outcome::Wrong })
}

/// A row per operation; below it what failed and what was skipped, and why.
fn lines(report: &Report) -> String {
    let header = ["op", "cases", "passed", "failed", "skipped", "worst / bound"].map(str::to_owned).to_vec();
    let rows = report.ops.iter().map(|op| {
        let counts = [op.cases, op.passed, op.failed, op.skipped].map(|count| count.to_string());
        let worst = format!("{:.3}", op.worst);
        [vec![op.op.to_owned()], counts.to_vec(), vec![worst]].concat()
    });
    let mut text = table(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
    for (word, cases) in [("failed", &report.failures), ("skipped", &report.skips)] {
        text.extend(cases.iter().take(SHOWN).map(|case| format!("{word}: {case}\n")));
        if let Some(more) = cases.len().checked_sub(SHOWN + 1) {
            text += &format!("{word}: {} more; --json has them all\n", more + 1);
        }
    }
    text
}
