//! A token loop: a model from a folder or a GGUF file, a prompt, and text as it comes.
//!
//! `cargo run --release --example generate [MODEL] [PROMPT]`

use std::io::Write;
use std::path::PathBuf;

use gristmill::model::{GenerateOptions, Tokenizer};
use gristmill::{ComputeBackend, GpuCompute, GpuModel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo").into(), PathBuf::from);
    let prompt = args.next().unwrap_or_else(|| "A reference is".to_owned());

    let gpu = GpuCompute::new(ComputeBackend::Gpu)?; // or auto(): without a hardware adapter it takes the CPU backend
    let model = GpuModel::load(&gpu, &path)?;
    let tokenizer = Tokenizer::load(&path)?.ok_or("the model has no tokenizer")?;

    let mut session = model.session()?;
    let options = GenerateOptions { max_tokens: 32, ..session.default_options() }; // greedy
    let (mut text, mut out) = (tokenizer.stream(), std::io::stdout());
    write!(out, "{prompt}")?;
    let mut count = 0;
    for token in session.generate(&tokenizer.encode(&prompt)?, options)? {
        write!(out, "{}", text.push(token?)?)?;
        out.flush()?;
        count += 1;
    }
    writeln!(out, "{}", text.finish()?)?;
    eprintln!("{count} tokens on {}", gpu.adapter().map_or("the CPU backend".to_owned(), ToString::to_string));
    Ok(())
}
