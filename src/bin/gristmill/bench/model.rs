//! `bench model`: reading and writing, as llama-bench has it.

use gristmill::bench::{Ceilings, Entry, Environment, Harness, ModelRow, ModelTest, ProfileRow, Record, TestKind};
use gristmill::model::Profile;
use gristmill::{Clock, GpuCompute, GpuModel};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{Keep, lines, say_where};
use crate::failure::{Failure, Outcome};
use crate::output::{note, print, table};
use crate::source::{KvArgs, ModelArgs};
use crate::{Backend, Place};

/// How rows are printed.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    /// A Markdown table
    Md,
    /// Comma-separated values
    Csv,
    /// One JSON array
    Json,
    /// A JSON object per line
    Jsonl,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A folder of a model, as `generate --model`, or `gpt2-small` for random weights of its shape [default: the model that
    /// is built in]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Random weights of the shape of a config.json, the same on every machine
    #[arg(long, value_name = "CONFIG", conflicts_with = "model")]
    random: Option<String>,
    /// Tokens to read; several tests with commas, 0 for none
    #[arg(short = 'p', long, value_name = "N,..", value_delimiter = ',', default_values_t = [512])]
    n_prompt: Vec<usize>,
    /// Tokens to write
    #[arg(short = 'n', long, value_name = "N,..", value_delimiter = ',', default_values_t = [128])]
    n_gen: Vec<usize>,
    /// Tokens in the cache before each test
    #[arg(short = 'd', long, value_name = "N,..", value_delimiter = ',', default_values_t = [0])]
    n_depth: Vec<usize>,
    /// Repetitions of each test
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,
    /// How rows are printed
    #[arg(short, long, value_enum, default_value = "md")]
    output: Format,
    /// After the tests: where the time of each prompt goes, and of a written token, at each depth; as tables (on stderr where
    /// the rows are not Markdown) and as records
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    kv: KvArgs,
    #[command(flatten)]
    keep: Keep,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let source = match (args.model.as_deref(), &args.random) {
        (Some("gpt2-small"), _) => ModelArgs { model: None, random: Some("gpt2-small".to_owned()) },
        (model, random) => ModelArgs { model: model.map(Into::into), random: random.clone() },
    }
    .open()?;
    let gpu = args.place.open(Backend::Gpu)?;
    let tests = tests(args);
    // Whatever is too long for the model is an error of the test that is.
    let longest = tests.iter().map(|test| test.context().min(source.config.n_positions)).max();
    let model = source.load(&gpu, &args.kv.options(&source.config, longest))?;
    note(&source.config.to_string());
    let environment = Environment::of(&gpu);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tests, {msg}");
    let bar = ProgressBar::new(tests.len() as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut rows = Vec::new();
    for test in &tests {
        bar.set_message(test.name());
        rows.push((*test, test.run(&model, &source.name, args.repetitions.into())?));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let records: Vec<Record> =
        rows.iter().map(|(_, row)| Record::new(&environment, Entry::Model(row.clone()))).collect();
    if args.output == Format::Md {
        say_where(&gpu)?;
    }
    print(&formatted(args.output, &rows, &records, &gpu)?)?;
    args.keep.keep(&environment, &records)?;
    if args.profile {
        if gpu.clock() < Some(Clock::Each) {
            note("no profile: this backend has no clock for single dispatches");
            return Ok(Outcome::Done);
        }
        let profiles = profiles(args, &gpu, &model, &source.name)?;
        let records: Vec<Record> =
            profiles.into_iter().map(|row| Record::new(&environment, Entry::Profile(row))).collect();
        if args.output == Format::Jsonl {
            print(&lines(&records)?)?;
        }
        args.keep.keep(&environment, &records)?;
    }
    Ok(Outcome::Done)
}

/// Profiles every prompt and, if any tokens are to be written, a token, at each depth. Prints the tables.
fn profiles(args: &Args, gpu: &GpuCompute, model: &GpuModel, name: &str) -> Result<Vec<ProfileRow>, Failure> {
    let kv = model.session_options().kv;
    let written = args.n_gen.iter().copied().max().unwrap_or(0);
    let (harness, mut ceilings) = (Harness::new(gpu), Ceilings::new());
    // Weights are read once a token: nothing that a cache would keep.
    let limits = (ceilings.peak(&harness)?, ceilings.bandwidth(&harness, 1 << 28)?);
    let mut rows = Vec::new();
    let mut add = |counts: (usize, usize), profile: &Profile| {
        rows.push(ProfileRow::new(name, counts, kv, profile));
        let text = profile_text(profile, if counts.0 > 0 { "prompt" } else { "token" }, limits);
        if args.output == Format::Md {
            return print(&text);
        }
        note(&text);
        Ok(())
    };
    for &depth in &args.n_depth {
        for &tokens in args.n_prompt.iter().filter(|&&n| n > 0) {
            add((tokens, 0), &model.profile_prompt(depth, tokens)?)?;
        }
        if written > 0 {
            add((0, written), &model.profile(depth, written)?)?;
        }
    }
    Ok(rows)
}

fn tests(args: &Args) -> Vec<ModelTest> {
    let mut tests = Vec::new();
    for &depth in &args.n_depth {
        let prompts = args.n_prompt.iter().filter(|&&n| n > 0).map(|&n| TestKind::Prompt(n));
        let generations = args.n_gen.iter().filter(|&&n| n > 0).map(|&n| TestKind::Generation(n));
        tests.extend(prompts.chain(generations).map(|kind| ModelTest { kind, depth }));
    }
    tests
}

fn formatted(
    format: Format,
    rows: &[(ModelTest, ModelRow)],
    records: &[Record],
    gpu: &GpuCompute,
) -> Result<String, Failure> {
    let backend = gpu.adapter().map_or("CPU".to_owned(), |adapter| adapter.backend.to_uppercase());
    let size = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    let params = |count: u64| format!("{:.2} M", count as f64 / 1e6);
    Ok(match format {
        Format::Md => {
            let line = |(test, row): &(ModelTest, ModelRow)| {
                let (size, params) = (size(row.model_size), params(row.model_n_params));
                let rate = format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts);
                format!("| {} | {size} | {params} | {backend} | {} | {rate} |\n", row.model_type, test.name())
            };
            let head = "| model | size | params | backend | test | t/s |\n| --- | ---: | ---: | --- | ---: | ---: |\n";
            head.to_owned() + &rows.iter().map(line).collect::<String>()
        }
        Format::Csv => {
            let objects: Vec<Value> = rows.iter().map(|(_, row)| flat(row, &backend, gpu)).collect();
            let keys: Vec<String> =
                objects.first().and_then(Value::as_object).map(|o| o.keys().cloned().collect()).unwrap_or_default();
            let cell = |value: Option<&Value>| match value {
                Some(Value::String(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
                Some(Value::Array(items)) => {
                    format!("\"{}\"", items.iter().map(Value::to_string).collect::<Vec<_>>().join(" "))
                }
                Some(other) => other.to_string(),
                None => String::new(),
            };
            let line =
                |object: &Value| keys.iter().map(|key| cell(object.get(key))).collect::<Vec<_>>().join(",") + "\n";
            keys.join(",") + "\n" + &objects.iter().map(line).collect::<String>()
        }
        Format::Json => {
            let objects: Vec<Value> = rows.iter().map(|(_, row)| flat(row, &backend, gpu)).collect();
            format!("{:#}\n", Value::Array(objects))
        }
        Format::Jsonl => lines(records)?,
    })
}

/// llama-bench's columns.
fn flat(row: &ModelRow, backend: &str, gpu: &GpuCompute) -> Value {
    let mut value = json!(row);
    if let Some(object) = value.as_object_mut() {
        object.remove("tokens_per_s");
        object.insert("backends".to_owned(), json!(backend));
        object
            .insert("gpu_info".to_owned(), json!(gpu.adapter().map_or(String::new(), |adapter| adapter.name.clone())));
        object.insert("build_number".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    }
    value
}

/// A row per kernel, what is left, and the sum.
fn profile_text(profile: &Profile, what: &str, (peak, bandwidth): (f64, f64)) -> String {
    let share_of = format!("% of {what}");
    let header = ["kernel", "dispatches", "us", &share_of, "GFLOP/s", "% peak", "GB/s", "% bandwidth"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let share = |seconds: f64| format!("{:.1}", 100.0 * seconds / profile.seconds);
    for row in &profile.rows {
        let rate = |work: f64| work / row.seconds.max(1e-12);
        let (flops, bytes) = (rate(row.work.flops), rate(row.work.bytes));
        let or_none = |text: String| if row.work.flops > 0.0 { text } else { "-".to_owned() };
        rows.push(vec![
            row.kernel.to_string(),
            row.dispatches.to_string(),
            format!("{:.1}", 1e6 * row.seconds),
            share(row.seconds),
            or_none(format!("{:.1}", flops / 1e9)),
            or_none(format!("{:.1}", 100.0 * flops / peak)),
            format!("{:.2}", bytes / 1e9),
            format!("{:.1}", 100.0 * bytes / bandwidth),
        ]);
    }
    let sum = |name: &str, count: String, seconds: f64| {
        let cells = [name.to_owned(), count, format!("{:.1}", 1e6 * seconds), share(seconds)];
        cells.into_iter().chain(["-"; 4].map(str::to_owned)).collect::<Vec<String>>()
    };
    rows.push(sum("[other]", "-".to_owned(), profile.other()));
    let count: usize = profile.rows.iter().map(|row| row.dispatches).sum();
    rows.push(sum(&format!("a {what}"), count.to_string(), profile.seconds));
    let (first, last) = (profile.position, profile.position + profile.tokens - 1);
    let cost = 100.0 * (profile.seconds / profile.seconds_untimed - 1.0);
    let untimed = 1e6 * profile.seconds_untimed;
    let head = format!(
        "\nwhere the time of a {what} goes, positions {first} to {last}; without timestamps {untimed:.1} us ({cost:+.1} %)\n"
    );
    head + &table(&rows)
}
