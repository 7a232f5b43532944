//! `verify`: every case of every operation, compared with its reference.

use std::collections::BTreeSet;

use gristmill::verify::{self, Case, OpReport, Report};
use gristmill::{ComputeBackend, GpuCompute};
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
    /// Run on the adapter and on the CPU backend, and print which op is verified where, as the table of the README
    #[arg(long, conflicts_with_all = ["op", "backend", "json", "out"])]
    support: bool,
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
    if args.support {
        return support(args, count);
    }
    let gpu = args.place.open(Backend::Gpu)?;
    let report = run_cases(&gpu, args.op.as_deref(), count);
    if !args.form.json {
        print(&lines(&report))?;
    }
    note(&format!("{} | {:.1} s", backend_line(&gpu), report.seconds));
    let facts = [
        ("cases", json!(report.ops.iter().map(|op| op.cases).sum::<usize>())),
        ("passed", json!(report.passed())),
        ("failed", json!(report.failures.len())),
        ("skipped", json!(report.skips.len())),
        ("unverified", json!(report.unverified())),
        ("ops", report.ops.iter().map(|op| json!(op)).collect::<Value>()),
        ("failures", json!(report.failures)),
        ("skips", json!(report.skips)),
        ("absent", json!(report.absent)),
        ("seconds", json!(report.seconds)),
    ];
    args.form.document(&object(facts.into_iter().chain(backend_json(&gpu))))?;
    Ok(if report.is_good() { Outcome::Done } else { Outcome::Wrong })
}

/// Runs the cases behind a progress bar.
fn run_cases(gpu: &GpuCompute, op: Option<&str>, count: usize) -> Report {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {msg}");
    let bar = ProgressBar::new(count as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let report = verify::run(gpu, op, |case, _, _| {
        bar.set_message(case.op);
        bar.inc(1);
    });
    bar.finish_and_clear();
    report
}

/// The table of the README: what is verified on an adapter and on the CPU backend.
fn support(args: &Args, count: usize) -> Result<Outcome, Failure> {
    let (gpu, cpu) = (args.place.open(Backend::Gpu)?, GpuCompute::new(ComputeBackend::Cpu)?);
    let reports = [&gpu, &cpu].map(|backend| {
        note(&backend_line(backend));
        run_cases(backend, None, count)
    });
    print(
        "| op | type | on an adapter: cases passed, worst error / bound | kernels | on the CPU backend |\n|---|---|---|---|---|\n",
    )?;
    let cell = |row: Option<&OpReport>| match row {
        Some(row) if row.unverified > 0 => format!("{} unverified", row.unverified),
        Some(row) if row.passed == row.cases => format!("{}, {:.2}", row.passed, row.worst),
        Some(row) => format!("{} of {}, {:.2}", row.passed, row.cases, row.worst),
        None => "none".to_owned(),
    };
    for row in &reports[0].ops {
        let on_cpu = reports[1].ops.iter().find(|other| (other.op, other.dtype) == (row.op, row.dtype));
        let kernels = Vec::from_iter(row.kernels.keys().copied()).join(", ");
        print(&format!("| `{}` | {} | {} | {kernels} | {} |\n", row.op, row.dtype, cell(Some(row)), cell(on_cpu)))?;
    }
    if !reports[0].absent.is_empty() {
        print(&format!("\nNot run on it, and not verified: {}.\n", listed(&reports[0].absent)))?;
    }
    Ok(if reports.iter().all(Report::is_good) { Outcome::Done } else { Outcome::Wrong })
}

/// `kernel: why`, by why.
fn listed(absent: &[String]) -> String {
    let split = absent.iter().filter_map(|line| line.split_once(": "));
    let mut whys: Vec<(&str, Vec<String>)> = Vec::new();
    for (kernel, why) in split {
        match whys.iter_mut().find(|(known, _)| *known == why) {
            Some((_, kernels)) => kernels.push(format!("`{kernel}`")),
            None => whys.push((why, vec![format!("`{kernel}`")])),
        }
    }
    whys.iter().map(|(why, kernels)| format!("{} ({why})", kernels.join(", "))).collect::<Vec<_>>().join("; ")
}

/// A row per operation and element type; below it what failed and what was skipped, and why.
fn lines(report: &Report) -> String {
    let header = ["op", "type", "cases", "passed", "failed", "skipped", "unverified", "worst / bound"];
    let header = header.map(str::to_owned).to_vec();
    let rows = report.ops.iter().map(|op| {
        let counts = [op.cases, op.passed, op.failed, op.skipped, op.unverified].map(|count| count.to_string());
        let worst = format!("{:.3}", op.worst);
        [vec![op.op.to_owned(), op.dtype.to_owned()], counts.to_vec(), vec![worst]].concat()
    });
    let mut text = table(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
    for (word, cases) in [("failed", &report.failures), ("skipped", &report.skips), ("not run", &report.absent)] {
        text.extend(cases.iter().take(SHOWN).map(|case| format!("{word}: {case}\n")));
        if let Some(more) = cases.len().checked_sub(SHOWN + 1) {
            text += &format!("{word}: {} more; --json has them all\n", more + 1);
        }
    }
    text
}
