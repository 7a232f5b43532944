//! `generate`: continues a prompt and prints what comes as it comes.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gristmill::model::{GenerateOptions, Sampler, TextStream};
use gristmill::{Error, GpuCompute};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, backend_json, backend_line, note, object, print};
use crate::source::{KvArgs, ModelArgs, Source, TokenArgs};
use crate::{Backend, Place, demo};

/// New tokens when no number is given.
const TOKENS: usize = 128;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; it is printed first
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["tokens", "tokens_file"])]
    prompt: Option<String>,
    #[command(flatten)]
    tokens: TokenArgs,
    /// New tokens at most [default: 128, of the built-in model 200]
    #[arg(short = 'n', long = "max-tokens", value_name = "N")]
    max_tokens: Option<usize>,
    /// 0 takes the likeliest token each time; above 0, tokens are drawn from softmax(logits / T)
    #[arg(long, value_name = "T", default_value = "0.8", allow_negative_numbers = true, value_parser = temperature)]
    temperature: f64,
    /// Draw from the K likeliest tokens only; 0 is all. Up to 64 are drawn from on the device
    #[arg(long = "top-k", value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from the likeliest tokens only, those that have P of the probability; on the device within a --top-k
    #[arg(long = "top-p", value_name = "P", default_value = "1", allow_negative_numbers = true, value_parser = top_p)]
    top_p: f64,
    /// The same seed, model and prompt give the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Go on after the model's end token
    #[arg(long)]
    ignore_eos: bool,
    /// Tokens that prompt and text may have together, at most the model's positions; memory for all of them is taken at once
    /// [default: the model's positions, up to 4096]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    kv: KvArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    form: Form,
}

/// Held as f64, so that 0.8 is printed as 0.8.
fn temperature(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // Between 0 and the smallest f32 there is nothing to divide by.
    let sampler = Sampler { temperature: value as f32, ..Sampler::default() };
    let usable = sampler.validate().is_ok() && (value == 0.0) == (sampler.temperature == 0.0);
    if usable { Ok(value) } else { Err("must be 0, or above it".to_owned()) }
}

/// Held as f64, so that 0.9 is printed as 0.9.
fn top_p(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("must be between 0 and 1".to_owned()) }
}

impl Args {
    fn sampler(&self) -> Sampler {
        let (temperature, top_p) = (self.temperature as f32, self.top_p as f32);
        Sampler { temperature, top_k: self.top_k, top_p, seed: self.seed }
    }

    /// The text that is continued, if it is a text.
    fn text(&self) -> Option<&str> {
        let default = || (self.model.is_demo() && self.tokens.is_none()).then_some(demo::PROMPT);
        self.prompt.as_deref().or_else(default)
    }

    fn prompt(&self, source: &Source) -> Result<Vec<u32>, Failure> {
        let ids = match self.text() {
            Some(text) => source.encode(text)?,
            None => source.ids(&self.tokens)?.unwrap_or_default(),
        };
        if ids.is_empty() { Err(Error::EmptyPrompt.into()) } else { Ok(ids) }
    }
}

/// What came, and when.
#[derive(Default)]
struct Written {
    ids: Vec<u32>,
    text: Option<String>,
    stop_reason: &'static str,
    first: Option<Duration>,
    total: Duration,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let source = args.model.open()?;
    let prompt = args.prompt(&source)?;
    let gpu = args.place.open_kept(Backend::Auto)?;
    let model = source.load(&gpu, &args.kv.options(&source.config, args.context))?;
    let load = start.elapsed();

    let interrupted = watch_interrupt();
    let mut session = model.session()?;
    let default_tokens = if args.model.is_demo() { demo::TOKENS } else { TOKENS };
    let mut options = GenerateOptions {
        max_tokens: args.max_tokens.unwrap_or(default_tokens),
        sampler: args.sampler(),
        ..session.default_options()
    };
    if args.ignore_eos {
        options.stop.clear();
    }
    let mut written = Written { text: source.tokenizer.as_ref().map(|_| String::new()), ..Written::default() };
    let mut stream = source.tokenizer.as_ref().map(|tokenizer| tokenizer.stream());
    let show = |text: &str| if args.form.json { Ok(()) } else { print(text) };
    show(args.text().unwrap_or_default())?;

    let begin = Instant::now();
    let mut generation = session.generate(&prompt, options)?;
    while !interrupted.load(Ordering::Relaxed) {
        let Some(id) = generation.next().transpose()? else { break };
        written.first.get_or_insert_with(|| begin.elapsed());
        show(&written.push(id, stream.as_mut())?)?;
    }
    written.total = begin.elapsed();
    written.stop_reason = generation.stop_reason().map_or("interrupted", |reason| reason.name());
    let rest = stream.map(|mut stream| stream.finish()).transpose()?.unwrap_or_default();
    show(&rest)?;
    show("\n")?;
    if let Some(text) = &mut written.text {
        text.push_str(&rest);
    }
    note(&facts(args, &source, &gpu, prompt.len(), &written));
    args.form.document(&document(args, &source, &gpu, prompt.len(), load, &written))?;
    Ok(if interrupted.load(Ordering::Relaxed) { Outcome::Interrupted } else { Outcome::Done })
}

/// The first Ctrl-C ends the text, the second one the program: a step on a slow device may take long.
fn watch_interrupt() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    // Without a handler Ctrl-C does what it always does.
    let _ = ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            process::exit(Outcome::Interrupted as i32);
        }
    });
    flag
}

impl Written {
    /// Adds a token; what it adds to the text, or itself where there is no tokenizer.
    fn push(&mut self, id: u32, stream: Option<&mut TextStream<'_>>) -> gristmill::Result<String> {
        let new = match stream {
            Some(stream) => stream.push(id)?,
            None if self.ids.is_empty() => id.to_string(),
            None => format!(" {id}"),
        };
        if let Some(text) = &mut self.text {
            text.push_str(&new);
        }
        self.ids.push(id);
        Ok(new)
    }

    /// Tokens per second after the first one.
    fn decode_rate(&self) -> Option<f64> {
        rate(self.ids.len().checked_sub(1)?, self.total.checked_sub(self.first?)?)
    }
}

/// Per second; `None` where there is nothing to divide.
pub(crate) fn rate(count: usize, time: Duration) -> Option<f64> {
    (count > 0 && !time.is_zero()).then(|| count as f64 / time.as_secs_f64())
}

/// Where tokens are chosen.
fn sampled_on(args: &Args, gpu: &GpuCompute) -> &'static str {
    if gpu.is_gpu() && args.sampler().on_device() { "device" } else { "host" }
}

/// One line: where it ran, what, and how fast.
fn facts(args: &Args, source: &Source, gpu: &GpuCompute, prompt: usize, written: &Written) -> String {
    let per_second = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(", {rate:.1}/s"));
    let first = written.first.map_or(String::new(), |time| format!(" | first token after {:.3} s", time.as_secs_f64()));
    let prompt_rate = per_second(written.first.and_then(|time| rate(prompt, time)));
    let (new, decode_rate) = (written.ids.len(), per_second(written.decode_rate()));
    let sampling = match args.temperature {
        0.0 => "greedy".to_owned(),
        temperature => {
            let top_k = if args.top_k > 0 { format!(", top-k {}", args.top_k) } else { String::new() };
            let top_p = if args.top_p < 1.0 { format!(", top-p {}", args.top_p) } else { String::new() };
            format!("temperature {temperature}{top_k}{top_p}, seed {}", args.seed)
        }
    };
    let place = sampled_on(args, gpu);
    format!(
        "{} | {} | prompt {prompt} tokens{prompt_rate} | new {new} tokens{decode_rate}{first} | {sampling}, sampled on the \
         {place} | {}",
        backend_line(gpu),
        source.config,
        written.stop_reason
    )
}

fn document(
    args: &Args,
    source: &Source,
    gpu: &GpuCompute,
    prompt_tokens: usize,
    load: Duration,
    written: &Written,
) -> Value {
    let seconds = |time: Duration| time.as_secs_f64();
    let sampling = json!({
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "seed": args.seed,
        "place": sampled_on(args, gpu),
    });
    // The first token's time holds the whole prompt, and, on a device, the compiling of kernels used for the first time.
    let timings = json!({
        "load_s": seconds(load),
        "time_to_first_token_s": written.first.map(seconds),
        "prompt_tokens_per_s": written.first.and_then(|time| rate(prompt_tokens, time)),
        "decode_tokens_per_s": written.decode_rate(),
        "total_s": seconds(written.total),
    });
    let facts = [
        ("model", json!(source.name)),
        ("architecture", json!(source.config.to_string())),
        ("tokens", json!(written.ids)),
        ("text", json!(written.text)),
        ("prompt_tokens", json!(prompt_tokens)),
        ("stop_reason", json!(written.stop_reason)),
        ("sampling", sampling),
        ("timings", timings),
    ];
    object(facts.into_iter().chain(backend_json(gpu)))
}
