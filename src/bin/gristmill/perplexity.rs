//! `perplexity`: how well a model foresees a text.

use std::path::PathBuf;
use std::time::Instant;

use gristmill::{Error, GpuModel};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::generate::rate;
use crate::output::{Form, backend_json, backend_line, note, object, print, table};
use crate::source::{KvArgs, ModelArgs, Source, TokenArgs, read_text, usage};
use crate::{Backend, Place};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    tokens: TokenArgs,
    /// A text file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["tokens", "tokens_file"])]
    text: Option<PathBuf>,
    /// Tokens per window, at most the model's positions [default: those, up to 4096]. Windows overlap by one token, so that
    /// each token after the first is foreseen once
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    #[command(flatten)]
    kv: KvArgs,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    form: Form,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let start = Instant::now();
    let source = args.model.open()?;
    let tokens = tokens(args, &source)?;
    let ctx = window(args, &source)?;
    let gpu = args.place.open_kept(Backend::Auto)?;
    let model = source.load(&gpu, &args.kv.options(&source.config, Some(ctx)))?;
    let load = start.elapsed();

    let begin = Instant::now();
    let nll = score(&model, &tokens, ctx)?;
    let time = begin.elapsed();
    let perplexity = (nll.iter().sum::<f64>() / nll.len() as f64).exp();

    let per_second = rate(nll.len(), time);
    if !args.form.json {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        print(&table(&[row("perplexity", format!("{perplexity:.4}")), row("tokens", tokens.len().to_string())]))?;
    }
    let (place, speed) = (backend_line(&gpu), per_second.unwrap_or(0.0));
    note(&format!("{place} | {} | {speed:.1} tokens/s | windows of {ctx}", source.config));
    let timings = json!({ "load_s": load.as_secs_f64(), "total_s": time.as_secs_f64(), "tokens_per_s": per_second });
    let facts = [
        ("model", json!(source.name)),
        ("architecture", json!(source.config.to_string())),
        ("perplexity", json!(perplexity)),
        ("nll", json!(nll)),
        ("tokens", json!(tokens.len())),
        ("ctx", json!(ctx)),
        ("timings", timings),
    ];
    args.form.document(&object(facts.into_iter().chain(backend_json(&gpu))))?;
    Ok(Outcome::Done)
}

fn tokens(args: &Args, source: &Source) -> Result<Vec<u32>, Failure> {
    let tokens = match &args.text {
        Some(path) => source.encode(&read_text(path)?)?,
        None => source.ids(&args.tokens)?.ok_or_else(|| usage("give --text, --tokens-file or --tokens"))?,
    };
    match tokens.len() {
        0 => Err(Error::EmptyPrompt.into()),
        1 => Err(usage("one token foresees nothing; give at least two")),
        _ => Ok(tokens),
    }
}

fn window(args: &Args, source: &Source) -> Result<usize, Failure> {
    let context = source.config.n_positions;
    let ctx = args.kv.options(&source.config, args.ctx).context;
    if (2..=context).contains(&ctx) {
        return Ok(ctx);
    }
    Err(usage(&format!("--ctx {ctx} is not between 2 and the context of this model, {context}")))
}

/// -ln of the probability of each token but the first.
fn score(model: &GpuModel, tokens: &[u32], ctx: usize) -> gristmill::Result<Vec<f64>> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} tokens, {eta} left");
    let bar =
        ProgressBar::new(tokens.len() as u64 - 1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut session = model.session()?;
    let mut nll = Vec::with_capacity(tokens.len());
    while nll.len() + 1 < tokens.len() {
        let end = tokens.len().min(nll.len() + ctx);
        let window = tokens.get(nll.len()..end).unwrap_or_default();
        session.rewind(0)?;
        let new = session.nll(window, |done| bar.set_position((nll.len() + done) as u64))?;
        nll.extend(new);
    }
    bar.finish_and_clear();
    Ok(nll)
}
