//! burn beside gristmill: the same work, on the same adapter, in turns.
//!
//!   cargo run --release --manifest-path benches/peers/burn/Cargo.toml -- [--repetitions N] [--only WORD] [--adapter NAME]
//!       [--json] [--record DIR]
//!
//! Both hold their operands on the device before the clock starts, and it stops when the host has read every element of the
//! result: burn's `into_data` returns before they are there, and so would time nothing. An operation that both may do in place
//! gets a fresh operand each time, uploaded before the clock starts. Both have run before, burn five times at least, in
//! which it tunes its kernels. The engines take turns and the order is reversed every other time; a ratio is burn's time over
//! gristmill's, of pairs, and stands in the table with its 95 % interval. Results are compared with each other before anything
//! is timed. `--record DIR` appends lines of kind `peer` to DIR/<adapter>/<date>.jsonl, `--json` prints them.
//!
//! Exit code 1 if the engines differ or do not run on one adapter, 2 for a wrong option.

mod work;

use std::io::Write;

use gristmill::bench::{Entry, Environment, Estimate, PeerRow, Record, ratios};
use gristmill::{ComputeBackend, GpuCompute, Options};
use work::{Engine, Result, Work};

/// Runs before the clock starts; burn tunes in the first of them.
const WARM_UP: usize = 5;
/// The versions of what is compared.
const LOCK: &str = include_str!("../Cargo.lock");

#[derive(Debug)]
struct Asked {
    repetitions: usize,
    only: String,
    adapter: Option<String>,
    json: bool,
    record: Option<String>,
}

impl Asked {
    fn parse(mut words: impl Iterator<Item = String>) -> std::result::Result<Asked, String> {
        let mut asked = Asked { repetitions: 15, only: String::new(), adapter: None, json: false, record: None };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a value"));
            match word.as_str() {
                "--repetitions" => asked.repetitions = value()?.parse().map_err(|e| format!("--repetitions: {e}"))?,
                "--only" => asked.only = value()?,
                "--adapter" => asked.adapter = Some(value()?),
                "--record" => asked.record = Some(value()?),
                "--json" => asked.json = true,
                _ => {
                    return Err(format!(
                        "`{word}` is no option; there are --repetitions, --only, --adapter, --json, --record"
                    ));
                }
            }
        }
        if asked.repetitions < 7 {
            return Err(format!("{} repetitions; at least 7 are needed", asked.repetitions));
        }
        Ok(asked)
    }
}

/// The version of a package in this package's lock file.
fn version(package: &str) -> String {
    let found =
        LOCK.split(&format!("name = \"{package}\"\nversion = \"")).nth(1).and_then(|rest| rest.split('"').next());
    found.unwrap_or("unknown").to_owned()
}

/// One work on both engines.
fn compare(work: &mut Work, repetitions: usize) -> Result<PeerRow> {
    let [mut ours, mut theirs] = [Vec::new(), Vec::new()];
    for _ in 0..WARM_UP {
        ours = work.ours.run()?.1;
        theirs = work.theirs.run()?.1;
    }
    let worst = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    // A difference that is no number is no agreement.
    let agree =
        ours.len() == theirs.len() && ours.iter().chain(&theirs).all(|v| v.is_finite()) && worst <= work.tolerance;
    if !agree {
        let lengths = (ours.len(), theirs.len());
        return Err(format!("{}: the engines differ by {worst}, {lengths:?} elements", work.name).into());
    }
    eprintln!("{}: the engines agree within {worst:.1e}", work.name);
    let (mut our_samples, mut their_samples) = (Vec::new(), Vec::new());
    for i in 0..repetitions {
        for ours_now in [i % 2 == 0, i % 2 != 0] {
            let (side, samples) =
                if ours_now { (&mut work.ours, &mut our_samples) } else { (&mut work.theirs, &mut their_samples) };
            samples.push(work.amount / side.run()?.0);
        }
    }
    let of = |samples: &[f64]| Estimate::of(samples).ok_or("no samples");
    Ok(PeerRow {
        name: work.name.clone(),
        peer: "burn, wgpu, autotune, fusion".to_owned(),
        peer_version: version("burn"),
        unit: work.unit.to_owned(),
        ours: of(&our_samples)?,
        theirs: of(&their_samples)?,
        ratio: ratios(&our_samples, &their_samples).ok_or("no pairs")?,
        our_samples,
        their_samples,
    })
}

/// The rows, in columns.
fn table(rows: &[(PeerRow, f64)]) -> String {
    let milliseconds = |rate: Estimate, amount: f64| format!("{:.2}", 1e3 * amount / rate.median);
    let interval = |e: Estimate| format!("{:.2} ({:.2} to {:.2})", e.median, e.low, e.high);
    let rate = |e: Estimate, row: &PeerRow| format!("{:.2} {}", e.median, row.unit);
    let head = ["work", "ours ms", "burn ms", "ours", "burn", "ratio"].map(str::to_owned);
    let mut lines = vec![head];
    lines.extend(rows.iter().map(|(row, amount)| {
        let ms = [milliseconds(row.ours, *amount), milliseconds(row.theirs, *amount)];
        let [ours, theirs] = ms;
        [row.name.clone(), ours, theirs, rate(row.ours, row), rate(row.theirs, row), interval(row.ratio)]
    }));
    let widths: [usize; 6] = std::array::from_fn(|i| lines.iter().map(|line| line[i].len()).max().unwrap_or_default());
    let line = |cells: &[String; 6]| {
        let [name, rest @ ..] = cells;
        let rest = rest.iter().zip(&widths[1..]).map(|(cell, &width)| format!("  {cell:>width$}"));
        format!("{name:<first$}{}", rest.collect::<String>(), first = widths[0])
    };
    lines.iter().map(|cells| line(cells).trim_end().to_owned() + "\n").collect()
}

fn run(asked: &Asked) -> Result<()> {
    let mut options = Options::new(ComputeBackend::Gpu);
    options.adapter = asked.adapter.clone();
    let gpu = GpuCompute::open(&options)?;
    let engine = Engine::beside(&gpu)?;
    let environment = Environment::of(&gpu);
    let adapter = environment.adapter.as_ref().ok_or("no adapter")?;
    let mut rows = Vec::new();
    let names = work::NAMES.iter().filter(|name| name.contains(&asked.only));
    for name in names {
        let mut work = engine.work(name)?;
        rows.push((compare(&mut work, asked.repetitions)?, work.amount));
    }
    let (ours, theirs) = (version("gristmill"), version("burn"));
    let commit = environment.commit.as_deref().unwrap_or("unknown");
    let head = format!(
        "{}, {}{}\n{}, {}\ngristmill {ours} ({commit}), burn {theirs} (cubecl-wgpu {}, wgpu {}), {} repetitions in turns\n\
         $ {}\nMedians; bytes are those read and written; ratio: burn's time over gristmill's, of pairs\n",
        adapter.name,
        adapter.driver,
        if adapter.software { " (software: computes on the processor)" } else { "" },
        environment.processor,
        environment.date,
        version("cubecl-wgpu"),
        version("wgpu"),
        asked.repetitions,
        environment.command,
    );
    let mut lines = String::new();
    for (row, _) in &rows {
        lines += &(Record::new(&environment, Entry::Peer(row.clone())).to_line()? + "\n");
    }
    if let Some(dir) = &asked.record {
        let day = environment.date.split('T').next().unwrap_or_default();
        let folder = std::path::Path::new(dir).join(environment.folder());
        std::fs::create_dir_all(&folder)?;
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(folder.join(format!("{day}.jsonl")))?;
        file.write_all(lines.as_bytes())?;
    }
    if asked.json {
        print!("{lines}")
    } else {
        print!("{head}\n{}", table(&rows))
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    let asked = match Asked::parse(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(message) => {
            eprintln!("error: {message}");
            return 2.into();
        }
    };
    match run(&asked) {
        Ok(()) => 0.into(),
        Err(error) => {
            eprintln!("error: {error}");
            1.into()
        }
    }
}
