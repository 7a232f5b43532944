//! `tune`: the fastest knobs of a kernel, here.

mod run;
mod text;
mod watch;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gristmill::bench::{Row, row_of, rows_of};
use gristmill::tune::{TuneCache, Tuned, Tuner};
use gristmill::{Error, Format, GpuCompute, OwnKernel, Tuning, kernels};
use run::{Job, Run};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, note};
use crate::source::usage;
use crate::{Backend, Place};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel: the stem of a file in `shaders/`
    #[arg(value_name = "KERNEL", required_unless_present = "all", conflicts_with = "all")]
    kernel: Option<String>,
    /// Every kernel that has knobs, at one shape of `bench kernels` for each class of shapes that a tuning tells apart, in
    /// f32, f16, q4_0 and q8_0; and, where an op has several kernels, which of them it should run
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
    /// No candidate begins after this: 60s, 5m. Divided among the shapes, and among the kernels with --all, whose last part is
    /// for comparing the kernels of an op
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
    /// Write a tuning, which a program loads: the winners before what this adapter is tuned to now
    #[arg(long, value_name = "FILE")]
    emit: Option<PathBuf>,
    /// Compare with the defaults of the kernels' files instead of what ships for this adapter
    #[arg(long, conflicts_with = "tuning")]
    untuned: bool,
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
    let open = || {
        let mut options = args.place.options(Backend::Gpu);
        // A candidate that hangs is one of many.
        options.deadline = DEADLINE;
        let gpu = args.place.open_with(&options)?;
        if args.untuned {
            gpu.set_tuning(Tuning::default());
        }
        Ok(gpu)
    };
    // A file that is watched may be wrong for now.
    if args.watch {
        let name = args.kernel.as_deref().unwrap_or_default();
        let kernel = Tuned::kernel(name)?;
        let mut tuner = Tuner::open(open)?;
        let row = args.rows(tuner.gpu(), &kernel)?.into_iter().next().ok_or_else(|| no_shape(name))?;
        return watch::run(&mut tuner, name, &row, args.shader.as_deref().unwrap_or_else(|| Path::new("")));
    }
    let kernels = args.kernels()?;
    // Not after an hour of measuring.
    [&args.html, &args.emit, &args.form.out].into_iter().flatten().try_for_each(|path| ensure_writable(path))?;
    let start = Instant::now();
    let mut tuner = Tuner::open(open)?;
    let jobs = args.jobs(tuner.gpu(), &kernels)?;
    let tuning = tuner.gpu().tuning();
    let mut run = Run { args, start, cache: args.cache()?, tuning, found: Vec::new(), wrong: None };
    run.sweeps(&mut tuner, &jobs)?;
    run.rivals(&mut tuner, &jobs)?;
    run.give_out(tuner.gpu(), &jobs)
}

/// How long a candidate may go without the device having done anything.
const DEADLINE: Duration = Duration::from_secs(20);

fn no_shape(kernel: &str) -> Failure {
    usage(&format!("this adapter finishes no shape of `bench kernels` for {kernel}; give one with --shape"))
}

fn ensure_writable(path: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Error::Io { path: path.to_owned(), message: e.to_string() };
    std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    Ok(())
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

    fn kernels(&self) -> Result<Vec<Tuned>, Failure> {
        let names: Vec<&str> = match &self.kernel {
            Some(name) => vec![name],
            // What ceilings and yardsticks are measured with stays as it is: records of two days are compared by it.
            None => {
                let tuned = kernels::ALL.iter().filter(|kernel| !kernel.knobs.is_empty() && kernel.op != "probe");
                tuned.map(|kernel| kernel.name).collect()
            }
        };
        names.into_iter().map(|name| self.tuned(name)).collect()
    }

    /// A shape of each kernel, then another of each: where a budget ends early, every kernel has had its turn, and those with the
    /// most work first.
    fn jobs<'a>(&self, gpu: &GpuCompute, kernels: &'a [Tuned]) -> Result<Vec<Job<'a>>, Failure> {
        let jobs = |tuned: &'a Tuned| -> Result<Vec<Job<'a>>, Failure> {
            let rows = self.rows(gpu, tuned)?;
            if rows.is_empty() && !self.all {
                return Err(no_shape(tuned.name()));
            }
            Ok(rows.into_iter().map(|row| Job { tuned, row }).collect())
        };
        let mut jobs = kernels.iter().map(jobs).collect::<Result<Vec<_>, _>>()?;
        let most = |jobs: &[Job<'_>]| jobs.iter().map(|job| job.row.flops + job.row.bytes).fold(0.0, f64::max);
        jobs.sort_by(|a, b| most(b).total_cmp(&most(a)));
        let mut turns: Vec<(usize, Job<'a>)> = jobs.into_iter().flat_map(|jobs| (0..).zip(jobs)).collect();
        turns.sort_by_key(|(turn, _)| *turn);
        Ok(turns.into_iter().map(|(_, job)| job).collect())
    }

    fn rows(&self, gpu: &GpuCompute, tuned: &Tuned) -> Result<Vec<Row>, Failure> {
        let kernel = kernels::ALL.iter().find(|kernel| kernel.name == tuned.name());
        let kernel = *kernel.ok_or_else(|| usage("no such kernel"))?;
        if !self.shape.is_empty() {
            let row = |shape: &String| row_of(kernel, shape, self.format);
            return Ok(self.shape.iter().map(row).collect::<Result<_, Error>>()?);
        }
        let mut rows = rows_of(gpu, kernel);
        if self.all {
            // These formats speak for theirs.
            rows.retain(|row| ["f32", "f16", "q4_0", "q8_0"].contains(&row.dtype));
        } else {
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
}
