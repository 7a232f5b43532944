//! `bench table`: the tables of the README, from the committed records and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gristmill::Error;
use gristmill::bench::{Entry, Environment, Estimate, KernelRow, ParityRow, PeerRow, Record, parse_records};

use crate::failure::{Failure, Outcome};
use crate::output::print;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of records
    #[arg(long, value_name = "DIR", default_value = "benches/record")]
    records: PathBuf,
}

/// What the documents that this project was made from claimed, and what it was.
const CLAIMS: [(&str, &str, &str); 14] = [
    ("GPU-001", "70.4 GFLOP/s, pass", "below its target of 100; passed by a hidden 1.0"),
    ("GPU-002", "2.74 x, pass", "two sizes compared, not two processors; passed by 1.0"),
    ("GPU-003", "0.91 GB/s, pass", "below its target of 50; passed by 0.5"),
    ("GPU-004", "1.83 x, pass", "a cold run against a warm one; no GPU buffer is pooled"),
    ("GPU-005", "0.45 x, pass", "the same code twice, cold and warm; nothing is asynchronous"),
    ("GPU-006", "450 tok/s, pass", "CPU code without attention, 1.6 M constant weights"),
    ("IMP-001", "1.27 GB/s, pass", "all zeros; below its target of 10"),
    ("IMP-002", "209 TB/s, pass", "a sum that the compiler removed; no file is mapped"),
    ("IMP-003", "19.85 ms, pass", "128 positions, named 2048; above its target of 10"),
    ("IMP-004", "50 G/s, pass", "one slot, again and again; removed by the compiler"),
    ("IMP-005", "1.14 x, pass", "threads, not a prompt; below its target of 5"),
    ("CPU-QUANT", "832 MB/s, pass", "blocks of other sizes than the formats have; zeros"),
    ("CPU-E2E", "0.32 ms, pass", "hidden 64, two layers, constant weights"),
    ("CPU-M1", "7,806 tok/s, pass", "40,000 weights"),
];

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let mut records = Vec::new();
    read(&args.records, &mut records)?;
    print(&parity(&records))?;
    print(&peers(&records))?;
    print(&kernels(&records))?;
    Ok(Outcome::Done)
}

/// Every record below a folder, in the order of their names and lines.
fn read(dir: &Path, records: &mut Vec<Record>) -> Result<(), Failure> {
    let failed = |path: &Path, error: &std::io::Error| Error::Io { path: path.to_owned(), message: error.to_string() };
    let entries = std::fs::read_dir(dir).map_err(|error| failed(dir, &error))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, records)?;
        } else if path.extension().is_some_and(|extension| extension == "jsonl") {
            let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
            records.extend(parse_records(&text)?);
        }
    }
    Ok(())
}

fn place(environment: &Environment) -> String {
    match &environment.adapter {
        Some(adapter) if adapter.software => format!("{}, no GPU", adapter.name),
        Some(adapter) => adapter.name.clone(),
        None => environment.processor.clone(),
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn interval(value: &Estimate) -> String {
    format!("{} ({} to {})", number(value.median), number(value.low), number(value.high))
}

/// The last run of each row on each adapter, beside the claim.
fn parity(records: &[Record]) -> String {
    let mut found: BTreeMap<(&str, String), (&ParityRow, &Environment)> = BTreeMap::new();
    for record in records {
        if let Entry::Parity(row) = &record.entry
            && !row.quick
        {
            found.insert((&row.id, place(&record.environment)), (row, &record.environment));
        }
    }
    let mut text =
        "| row | the documents | what that was | here | target | on |\n|---|---|---|---|---|---|\n".to_owned();
    for (id, claim, truth) in CLAIMS {
        for ((_, place), (row, environment)) in found.iter().filter(|((known, _), _)| *known == id) {
            let sign = if row.better == "higher" { "at least" } else { "at most" };
            let reason = row.note.split(';').next().unwrap_or_default();
            let value = match &row.value {
                Some(value) => format!("{} {}, {}", interval(value), row.unit, row.status),
                None => format!("{}: {reason}", row.status),
            };
            let on = if id.starts_with("GPU") { place } else { &environment.processor };
            text += &format!(
                "| {id} {} | {claim} | {truth} | {value} | {sign} {} {} | {on} |\n",
                row.name, row.target, row.unit
            );
        }
    }
    text + "\n"
}

/// The last comparison of each kind with another engine, on each adapter; of a software adapter the driver is what counts.
fn peers(records: &[Record]) -> String {
    let mut found: BTreeMap<(&str, &str, &str), &PeerRow> = BTreeMap::new();
    for record in records {
        if let Entry::Peer(row) = &record.entry {
            let on = match &record.environment.adapter {
                Some(adapter) if adapter.software => &adapter.driver,
                Some(adapter) => &adapter.name,
                None => &record.environment.processor,
            };
            found.insert((&row.name, &row.peer, on), row);
        }
    }
    let mut text = "| work | gristmill | peer | | ratio | on |\n|---|---|---|---|---|---|\n".to_owned();
    for ((.., on), row) in &found {
        let (ours, theirs, ratio) = (interval(&row.ours), interval(&row.theirs), interval(&row.ratio));
        let PeerRow { name, unit, peer, peer_version, .. } = row;
        text += &format!("| {name} | {ours} {unit} | {peer} ({peer_version}) | {theirs} {unit} | {ratio} | {on} |\n");
    }
    text + "\n"
}

/// Of each op and type the row with the most work, on each adapter; the records have all of them.
fn kernels(records: &[Record]) -> String {
    let mut found: BTreeMap<String, BTreeMap<&str, &KernelRow>> = BTreeMap::new();
    for record in records {
        if let Entry::Kernel(row) = &record.entry {
            found.entry(place(&record.environment)).or_default().insert(&row.name, row);
        }
    }
    let mut text =
        "| kernel | us | GFLOP/s | of the peak | GB/s | of the bandwidth | on |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    for (place, rows) in &found {
        let mut largest: BTreeMap<(&str, &str), &KernelRow> = BTreeMap::new();
        for row in rows.values() {
            let known = largest.entry((&row.op, &row.dtype)).or_insert(row);
            if (row.flops, row.bytes) > (known.flops, known.bytes) {
                *known = row;
            }
        }
        for row in largest.values() {
            let time = row.device_us.as_ref().unwrap_or(&row.wall_us);
            let percent = |part: f64, whole: f64| format!("{:.1} %", 100.0 * part / whole);
            let rate = row.gflops.map_or("-".to_owned(), number);
            let of_peak = row.gflops.map_or("-".to_owned(), |rate| percent(rate, row.peak_gflops));
            let (bytes, of_bandwidth) = (number(row.gb_per_s), percent(row.gb_per_s, row.peak_gb_per_s));
            let (name, time) = (&row.name, interval(time));
            text += &format!("| {name} | {time} | {rate} | {of_peak} | {bytes} | {of_bandwidth} | {place} |\n");
        }
    }
    text
}
