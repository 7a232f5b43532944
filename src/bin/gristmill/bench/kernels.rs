//! `bench kernels`: a row per op and shape.

use std::path::PathBuf;

use gristmill::bench::{
    Ceilings, Change, Datasheet, Entry, Environment, Harness, KernelRow, Record, Row, compare, datasheet,
    parse_records, ratios, rows, yardstick,
};
use gristmill::{Error, GpuCompute, Tuning};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Keep, lines, say_where};
use crate::failure::{Failure, Outcome};
use crate::output::{note, print, table};
use crate::source::usage;
use crate::{Backend, Place};

/// Times that a row is measured again which seems slower than its baseline, or may be.
const AGAIN: usize = 3;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only rows of this operation
    #[arg(long, value_name = "OP")]
    op: Option<String>,
    /// Only rows with this in their names, or with any of several
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Compare with an earlier run's records; a row that is slower beyond the noise of both ends with exit code 1
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// With the kernels and knobs that are the defaults instead of those that ship for this adapter
    #[arg(long, conflicts_with = "tuning")]
    untuned: bool,
    /// Repetitions, at least seven
    #[arg(short, long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(7..=1000))]
    repetitions: u16,
    /// Print the records as JSON lines instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let baseline = args.baseline.as_deref().map(read).transpose()?;
    let gpu = args.place.open(Backend::Gpu)?;
    if args.untuned {
        gpu.set_tuning(Tuning::default());
    }
    let all = rows(&gpu);
    let wanted = |row: &&Row| {
        args.op.as_ref().is_none_or(|op| row.op == op)
            && (args.only.is_empty() || args.only.iter().any(|text| row.name().contains(text.as_str())))
    };
    let chosen: Vec<&Row> = all.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let mut ops: Vec<&str> = all.iter().map(|row| row.op).collect();
        ops.dedup();
        return Err(usage(&format!("no such row; there are rows of {}", ops.join(", "))));
    }
    let environment = Environment::of(&gpu);
    let mut bench = Bench::new(&gpu, args.repetitions.into());
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows, {msg}");
    let bar = ProgressBar::new(chosen.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (mut measured, mut changes, mut records, mut failed) = (Vec::new(), Vec::new(), Vec::new(), None);
    for row in chosen {
        bar.set_message(row.name());
        // One row that cannot be measured is no reason to lose the others.
        let (kernel, change) = match bench.against(row, baseline.as_deref()) {
            Ok(measured) => measured,
            Err(failure) => {
                note(&format!("{}: {failure}", row.name()));
                failed.get_or_insert(failure.outcome());
                bar.inc(1);
                continue;
            }
        };
        let record = Record::new(&environment, Entry::Kernel(kernel.clone()));
        // At once: what ends a long run early does not take the rows that it has.
        args.keep.append(&environment, std::slice::from_ref(&record))?;
        measured.push(kernel);
        changes.push(change);
        records.push(record);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        print(&lines(&records)?)?;
    } else {
        say_where(&gpu)?;
        print(&text(&measured, &changes, baseline.is_some()))?;
    }
    args.keep.say(&environment, records.len());
    let slower = changes.iter().flatten().filter(|change| change.is_slower()).count();
    if baseline.is_some() {
        let compared = changes.iter().flatten().count();
        note(&format!("{compared} rows compared with the baseline, {slower} slower beyond the noise"));
    }
    Ok(failed.unwrap_or(if slower > 0 { Outcome::Failed } else { Outcome::Done }))
}

fn read(path: &std::path::Path) -> Result<Vec<Record>, Failure> {
    let failed = |error: std::io::Error| Error::Io { path: path.to_owned(), message: error.to_string() };
    Ok(parse_records(&std::fs::read_to_string(path).map_err(failed)?)?)
}

/// A harness with the ceilings of its device.
struct Bench<'a> {
    harness: Harness<'a>,
    ceilings: Ceilings,
}

impl<'a> Bench<'a> {
    fn new(gpu: &'a GpuCompute, repetitions: usize) -> Bench<'a> {
        let mut harness = Harness::new(gpu);
        harness.repetitions = repetitions;
        Bench { harness, ceilings: Ceilings::new() }
    }

    /// Measures a row, and again where it seems slower than before or the noise hides whether it is.
    fn against(&mut self, row: &Row, baseline: Option<&[Record]>) -> Result<(KernelRow, Option<Change>), Failure> {
        let adapter = self.harness.gpu().adapter().map(|adapter| adapter.name.clone());
        let change = |kernel: &KernelRow| baseline.and_then(|records| compare(kernel, records, adapter.as_deref()));
        let mut kernel = self.measure(row)?;
        let mut found = change(&kernel);
        for _ in 0..AGAIN {
            let slower = found.as_ref().is_some_and(Change::is_slower);
            if !slower && !found.as_ref().is_some_and(Change::is_unclear) {
                break;
            }
            let again = self.measure(row)?;
            // The least time counts against a slow one; against noise, the measurement that has less of it.
            let counts = |row: &KernelRow| if slower { row.relative.median } else { row.relative.spread() };
            if counts(&again) < counts(&kernel) {
                kernel = again;
                found = change(&kernel);
            }
        }
        Ok((kernel, found))
    }

    fn measure(&mut self, row: &Row) -> Result<KernelRow, Failure> {
        let gpu = self.harness.gpu();
        let mut workload = row.workload(gpu)?;
        let (measured, yard) = self.harness.measure_below(&mut workload, &mut yardstick(gpu)?, &mut self.ceilings)?;
        let time = measured.time();
        let micros = |seconds: f64| 1e6 * seconds;
        let none = measured.wall;
        let sheet = gpu.adapter().and_then(|adapter| datasheet(&adapter.name));
        Ok(KernelRow {
            name: row.name(),
            op: row.op.to_owned(),
            shape: row.shape.clone(),
            dtype: row.dtype.to_owned(),
            kernels: measured.kernels.iter().map(|&kernel| kernel.to_owned()).collect(),
            flops: row.flops,
            bytes: row.bytes,
            sets: workload.sets,
            working_set: workload.working_set,
            calls: measured.calls,
            repetitions: measured.samples.len(),
            wall_us: measured.wall.map(micros),
            device_us: measured.device.map(|time| time.map(micros)),
            yardstick_us: yard.time().map(micros),
            relative: ratios(&measured.samples, &yard.samples).unwrap_or(none),
            gflops: Some(row.flops / time.median / 1e9).filter(|_| row.flops > 0.0),
            gb_per_s: row.bytes / time.median / 1e9,
            peak_gflops: self.ceilings.peak(&self.harness)? / 1e9,
            peak_gb_per_s: self.ceilings.bandwidth(&self.harness, workload.working_set)? / 1e9,
            datasheet: sheet.map(|(gflops, gb_per_s, source)| Datasheet {
                gflops,
                gb_per_s,
                source: source.to_owned(),
            }),
        })
    }
}

fn text(rows: &[KernelRow], changes: &[Option<Change>], compared: bool) -> String {
    let mut header = vec!["row", "us", "95 %", "wall us", "GFLOP/s", "% peak", "GB/s", "% bandwidth"];
    if compared {
        header.push("baseline");
    }
    let line = |(row, change): (&KernelRow, &Option<Change>)| {
        let time = row.device_us.unwrap_or(row.wall_us);
        let percent = |part: f64, whole: f64| format!("{:.1}", 100.0 * part / whole);
        let mut cells = vec![
            row.name.clone(),
            format!("{:.1}", time.median),
            format!("{:.1}-{:.1}", time.low, time.high),
            format!("{:.1}", row.wall_us.median),
            row.gflops.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
            row.gflops.map_or("-".to_owned(), |rate| percent(rate, row.peak_gflops)),
            format!("{:.2}", row.gb_per_s),
            percent(row.gb_per_s, row.peak_gb_per_s),
        ];
        if compared {
            cells.push(change.as_ref().map_or("new".to_owned(), verdict));
        }
        cells
    };
    let header = header.into_iter().map(str::to_owned).collect();
    let mut text = table(&std::iter::once(header).chain(rows.iter().zip(changes).map(line)).collect::<Vec<_>>());
    if let Some(row) = rows.first() {
        text += &format!("peak: {:.0} GFLOP/s of f32 multiply-adds, measured here", row.peak_gflops);
        if let Some(sheet) = &row.datasheet {
            text += &format!("; {:.0} GFLOP/s and {:.0} GB/s by the {}", sheet.gflops, sheet.gb_per_s, sheet.source);
        }
        text.push('\n');
    }
    text
}

/// `1.23x slower`, or `0.98x` where that is noise.
fn verdict(change: &Change) -> String {
    let word = match change {
        change if change.is_slower() => " slower",
        change if change.is_faster() => " faster",
        _ => "",
    };
    format!("{:.2}x (noise {:.2}){word}", change.ratio, change.noise)
}
