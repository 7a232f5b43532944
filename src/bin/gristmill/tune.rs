//! `tune`: the fastest knobs of a kernel, here.

mod text;
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gristmill::bench::{Environment, Row, row_of, rows_of};
use gristmill::tune::{Limits, Step, Sweep, TuneCache, TuneReport, Tuned, Verdict, sweep};
use gristmill::tuning::ShapeClass;
use gristmill::{Error, Format, GpuCompute, OwnKernel, Tuning, kernels};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, note, print};
use crate::source::usage;
use crate::{Backend, Place};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel: the stem of a file in `shaders/`
    #[arg(value_name = "KERNEL", required_unless_present = "all", conflicts_with = "all")]
    kernel: Option<String>,
    /// Every kernel that has knobs, at the shapes of `bench kernels`
    #[arg(long, conflicts_with_all = ["shape", "shader", "knob"])]
    all: bool,
    /// A shape, such as m=256,k=256,n=256; may be given several times [default: the first of `bench kernels`]
    #[arg(long, value_name = "SHAPE")]
    shape: Vec<String>,
    /// How the weight is stored: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q4_k, q5_k, q6_k
    #[arg(long, value_name = "FORMAT", default_value = "f32", value_parser = parse_format)]
    format: Format,
    /// The values of a knob instead of those in the file, such as BM=32,64; may be given several times
    #[arg(long, value_name = "NAME=VALUES")]
    knob: Vec<String>,
    /// No candidate begins after this: 60s, 5m
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    budget: Option<Duration>,
    /// Take results from the cache instead of running candidates again
    #[arg(long)]
    resume: bool,
    /// Where results are kept [default: gristmill/tune.jsonl in the user's cache folder]
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// A WGSL file in the kernel's place, with its bindings, parameters and modes
    #[arg(long, value_name = "FILE")]
    shader: Option<PathBuf>,
    /// Compare the file with the kernel whenever it is saved
    #[arg(long, requires = "shader", conflicts_with_all = ["budget", "resume", "html", "emit", "json", "out"])]
    watch: bool,
    /// Write a page that shows the results: one file that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the winners as a tuning, which a program loads
    #[arg(long, value_name = "FILE")]
    emit: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    place: Place,
}

fn parse_format(text: &str) -> Result<Format, String> {
    let known = || Format::ALL.map(Format::name).join(", ");
    Format::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| format!("there are {}", known()))
}

/// `60s`, `5m`, or seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60.0),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|n| n * unit).filter(|seconds| *seconds > 0.0 && *seconds < 1e6);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a time above 0, such as 60s or 5m, is expected".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let names: Vec<&str> = match &args.kernel {
        Some(name) => vec![name],
        None => kernels::ALL.iter().filter(|kernel| !kernel.knobs.is_empty()).map(|kernel| kernel.name).collect(),
    };
    let kernels = names.into_iter().map(|name| args.tuned(name)).collect::<Result<Vec<Tuned>, Failure>>();
    // A file that is watched may be wrong for now.
    if args.watch {
        let name = args.kernel.as_deref().unwrap_or_default();
        let kernel = Tuned::kernel(name)?;
        let gpu = args.place.open(Backend::Gpu)?;
        let row = args.rows(&gpu, &kernel)?.into_iter().next().ok_or_else(|| no_shape(name))?;
        return watch::run(&gpu, name, &row, args.shader.as_deref().unwrap_or_else(|| Path::new("")));
    }
    let kernels = kernels?;
    let gpu = args.place.open(Backend::Gpu)?;
    let mut cache = args.cache()?;
    let mut jobs = Vec::new();
    for tuned in &kernels {
        let rows = args.rows(&gpu, tuned)?;
        if rows.is_empty() && !args.all {
            return Err(no_shape(tuned.name()));
        }
        jobs.extend(rows.into_iter().map(|row| (tuned, row)));
    }
    let mut tuning = Tuning::default();
    let mut reports: Vec<TuneReport> = Vec::new();
    let (start, count) = (Instant::now(), jobs.len());
    for (i, (tuned, row)) in jobs.iter().enumerate() {
        // What is left is for those that are left.
        let left = args.budget.map(|budget| budget.saturating_sub(start.elapsed()) / (count - i) as u32);
        let limits = Limits { budget: left, resume: args.resume };
        let (found, class) = match one(&gpu, tuned, row, limits, &mut cache) {
            // Of two kernels for one op a device has one.
            Err(Failure::Library(Error::BadOption { message, .. })) if args.all => {
                note(&message);
                continue;
            }
            found => found?,
        };
        if !args.form.json {
            print(&text::sweep(tuned, &found))?;
        }
        keep(&mut tuning, tuned, class, &found);
        if reports.last().is_none_or(|report| report.kernel != tuned.name()) {
            let shader = args.shader.as_ref().map(|path| path.display().to_string());
            let environment = Environment::of(&gpu);
            reports.push(TuneReport::new(environment, tuned.name(), tuned.op(), shader, &tuned.source_hash()));
        }
        if let Some(report) = reports.last_mut() {
            report.sweeps.push(found);
        }
    }
    args.give_out(&reports, &tuning)
}

fn no_shape(kernel: &str) -> Failure {
    usage(&format!("this adapter finishes no shape of `bench kernels` for {kernel}; give one with --shape"))
}

/// One sweep, with a line that says how far it is.
fn one(
    gpu: &GpuCompute,
    tuned: &Tuned,
    row: &Row,
    limits: Limits,
    cache: &mut TuneCache,
) -> Result<(Sweep, ShapeClass), Failure> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(row.name());
    let mut progress = |step: &Step<'_>| {
        bar.set_length(step.total as u64);
        bar.set_position(step.done as u64);
        let (knobs, ratio) = step.best;
        bar.set_message(format!(
            "{}, best so far {} ({ratio:.2} x the default)",
            row.name(),
            text::knobs(tuned, knobs)
        ));
    };
    let found = sweep(gpu, tuned, row, limits, cache, &mut progress);
    bar.finish_and_clear();
    Ok(found?)
}

/// A winner's line; the default needs none.
fn keep(tuning: &mut Tuning, tuned: &Tuned, class: ShapeClass, found: &Sweep) {
    let kernel = kernels::ALL.iter().find(|kernel| kernel.name == tuned.name());
    if let (Some(kernel), Verdict::Winner) = (kernel, found.verdict) {
        tuning.prefer(kernel, class, &found.winner);
    }
}

impl Args {
    fn tuned(&self, name: &str) -> Result<Tuned, Failure> {
        let mut tuned = match &self.shader {
            None => Tuned::kernel(name)?,
            Some(path) => Tuned::in_place_of(name, OwnKernel::from_file_as(path, name)?)?,
        };
        for knob in &self.knob {
            let (name, values) = knob.split_once('=').unwrap_or((knob, ""));
            let values: Result<Vec<u32>, _> = values.split(',').filter(|v| !v.is_empty()).map(str::parse).collect();
            let values = values.map_err(|_| usage(&format!("--knob {knob}: NAME=32,64 is expected")))?;
            tuned.set_values(name, values)?;
        }
        Ok(tuned)
    }

    fn rows(&self, gpu: &GpuCompute, tuned: &Tuned) -> Result<Vec<Row>, Failure> {
        let kernel = kernels::ALL.iter().find(|kernel| kernel.name == tuned.name());
        let kernel = *kernel.ok_or_else(|| usage("no such kernel"))?;
        if !self.shape.is_empty() {
            return Ok(self
                .shape
                .iter()
                .map(|shape| row_of(kernel, shape, self.format))
                .collect::<Result<_, Error>>()?);
        }
        let mut rows = rows_of(gpu, kernel);
        if !self.all {
            rows.retain(|row| row.dtype == self.format.name());
            rows.truncate(1);
        }
        Ok(rows)
    }

    fn cache(&self) -> Result<TuneCache, Failure> {
        let folder = || {
            let set = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
            let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
            let local = || std::env::var_os("LOCALAPPDATA").map(PathBuf::from);
            set.or_else(local).or_else(home)
        };
        let path = self.cache.clone().or_else(|| Some(folder()?.join("gristmill").join("tune.jsonl")));
        let Some(path) = path else { return Ok(TuneCache::default()) };
        let cache = TuneCache::open(&path)?;
        if let Some(aside) = cache.set_aside() {
            note(&format!(
                "{} was damaged: it is now {}; {} results are kept",
                path.display(),
                aside.display(),
                cache.len()
            ));
        }
        Ok(cache)
    }

    fn give_out(&self, reports: &[TuneReport], tuning: &Tuning) -> Result<Outcome, Failure> {
        let write = |path: &Path, text: &str| {
            let failed = |e: std::io::Error| Error::Io { path: path.to_owned(), message: e.to_string() };
            std::fs::write(path, text).map_err(failed)
        };
        if let (Some(path), Some(report)) = (&self.html, reports.first()) {
            write(path, &report.html())?;
            if reports.len() > 1 {
                note("the page shows the first kernel; tune one at a time for the others");
            }
        }
        if let Some(path) = &self.emit {
            let of = reports.first().and_then(|report| report.environment.adapter.as_ref());
            let of = of.map_or_else(String::new, |adapter| format!("# {}, {}\n", adapter.name, adapter.driver));
            write(path, &format!("{of}{tuning}"))?;
        }
        let document = match reports {
            [report] => serde_json::to_value(report),
            reports => serde_json::to_value(reports),
        };
        self.form.document(&document.unwrap_or_default())?;
        Ok(Outcome::Done)
    }
}
