//! The eight rows of the CPU: what the documents measured on toys, or on nothing, made to mean something.

use gristmill::bench::{Estimate, ModelTest, TestKind, turns};
use gristmill::model::{Config, Tokenizer};
use gristmill::ops::{self, Attention};
use gristmill::{DType, Error, Format, GpuModel, Result, Weight, half, reference};

use crate::gpu_rows::{draw, tokens};
use crate::{Found, Outcome, Run, Setup, Skip, Target};

const fn target(id: &'static str, name: &'static str, target: f64, unit: &'static str, higher: bool) -> Target {
    Target { id, name, target, unit, higher }
}

pub(crate) const ROWS: [(Target, Run); 8] = [
    (target("IMP-001", "Q4_K to f32", 10.0, "GB/s", true), super_blocks),
    (target("IMP-002", "weights from a mapped file", 5.0, "GB/s", true), |_| {
        not_built("files are read, not mapped, yet")
    }),
    (target("IMP-003", "attention over 2048 positions", 10.0, "ms", false), attention),
    (target("IMP-004", "key-value rows stored", 100.0, "thousand/s", true), key_values),
    (target("IMP-005", "a prompt at once over one by one", 5.0, "x", true), prefill),
    (target("CPU-QUANT", "Q4_0, Q8_0 and Q4_K to f32", 500.0, "MB/s", true), three_formats),
    (target("CPU-E2E", "text to five tokens, demo model", 100.0, "ms", false), end_to_end),
    (target("CPU-M1", "GPT-2 small, tokens from 128 on", 20.0, "tok/s", true), |setup| tokens(setup, &setup.cpu)),
];

fn not_built(reason: &str) -> Result<Outcome> {
    Ok(Err(Skip(reason.to_owned())))
}

fn found(samples: &[f64], f: impl Fn(Estimate) -> Estimate, note: String) -> Result<Outcome> {
    let none = || Error::Implausible { what: "a row".to_owned(), message: "no samples".to_owned() };
    Ok(Ok(Found { value: f(Estimate::of(samples).ok_or_else(none)?), note }))
}

/// Rows of one sequence: token, slot, position, first row.
fn rows(count: usize, first: usize) -> Vec<ops::Row> {
    (0..count).map(|r| ops::Row { token: 0, slot: 0, position: (first + r) as u32, first: 0 }).collect()
}

/// Numbers of a row that is made f32: 16 super-blocks.
const COLUMNS: usize = 4096;

/// Seconds in which every row of matrices in these formats is made f32, by the op that looks rows up, and the bytes of the
/// rows. Blocks are random, with scales that are numbers.
fn to_f32(setup: &Setup, formats: &[Format]) -> Result<(Vec<f64>, usize)> {
    // 8,192 super-blocks, as the documents had them.
    let rows = if setup.quick { 32 } else { 512 };
    let cpu = &setup.cpu;
    let ids = cpu.tensor_u32(&(0..rows as u32).collect::<Vec<_>>(), &[rows])?;
    let mut stored = Vec::new();
    for &format in formats {
        let (numbers, bytes) = format.block();
        let random = draw(rows * COLUMNS / numbers * bytes, 3);
        let mut blocks: Vec<u8> = random.iter().map(|v| (v * 128.0) as i8 as u8).collect();
        // They begin with their scales, of which super-blocks have two.
        let scales = if format == Format::Q4K { 2 } else { 1 };
        for (block, v) in blocks.chunks_exact_mut(bytes).zip(&random) {
            block[..2 * scales].copy_from_slice(&half::f16::from_f32(*v).to_le_bytes().repeat(scales));
        }
        let row = bytes * COLUMNS / numbers;
        let weight = Weight::from_rows(cpu, (rows, COLUMNS), format, |range| {
            Ok(blocks[range.start * row..range.end * row].to_vec())
        })?;
        stored.push((format, blocks, weight, cpu.zeros(&[rows, COLUMNS])?));
    }
    let mut run =
        || stored.iter_mut().try_for_each(|(_, _, weight, out)| ops::gather(&mut cpu.pass(), &ids, weight, out));
    let times = turns(setup.repetitions(), &mut [&mut run])?;
    for (format, blocks, _, out) in &stored {
        let truth = reference::dequantize(*format, blocks);
        let off = |(v, truth): (&f32, &f32)| (v - truth).abs() > 1e-6 * truth.abs() || v.is_nan();
        let wrong = cpu.read::<f32>(out)?.iter().zip(&truth).any(off);
        if wrong {
            let message = "a number is off".to_owned();
            return Err(Error::WrongResult { what: format.name().to_owned(), message });
        }
    }
    Ok((times.into_iter().next().unwrap_or_default(), stored.iter().map(|(_, blocks, ..)| blocks.len()).sum()))
}

fn super_blocks(setup: &Setup) -> Result<Outcome> {
    let (times, bytes) = to_f32(setup, &[Format::Q4K])?;
    let numbers = bytes / 144 * 256;
    let note = format!("{} random super-blocks; gigabytes of f32 that are written", bytes / 144);
    found(&times, |time| time.rate(4e-9 * numbers as f64), note)
}

fn three_formats(setup: &Setup) -> Result<Outcome> {
    let (times, bytes) = to_f32(setup, &[Format::Q4_0, Format::Q8_0, Format::Q4K])?;
    let note =
        "random blocks of the sizes that GGUF has; megabytes that are read, of all three in the time of all three";
    found(&times, |time| time.rate(1e-6 * bytes as f64), note.to_owned())
}

/// Four heads of 64, as the documents had them; the whole context they named, not a sixteenth of it.
fn attention(setup: &Setup) -> Result<Outcome> {
    let m = if setup.quick { 128 } else { 2048 };
    let shape = Attention { heads: 4, kv_heads: 4, head_dim: 64, context: m, scale: 0.125, causal: true };
    let cpu = &setup.cpu;
    let (data, positions) = (draw(m * 768, 1), rows(m, 0));
    let qkv = cpu.tensor(&data, &[m, 768])?;
    let row = cpu.tensor_u32(bytemuck::cast_slice(&positions), &[m, 4])?;
    let (mut keys, mut values) = (cpu.zeros(&[m, 256])?, cpu.zeros(&[m, 256])?);
    let mut out = cpu.zeros(&[m, 256])?;
    let mut run = || ops::attention(&mut cpu.pass(), &row, &qkv, (&mut keys, &mut values), &shape, &mut out);
    let times = turns(setup.repetitions(), &mut [&mut run])?;
    // The first rows look at few positions, so their truth is quick to find.
    let (short, (mut k, mut v)) = (64, (vec![0.0; m * 256], vec![0.0; m * 256]));
    let truth = reference::attention(&positions[..short], &data[..short * 768], &mut k, &mut v, &shape);
    let wrong = cpu
        .read::<f32>(&out)?
        .iter()
        .zip(&truth)
        .any(|(found, truth)| (f64::from(*found) - truth).abs() > 1e-4 || found.is_nan());
    if wrong {
        return Err(Error::WrongResult { what: "attention".to_owned(), message: "an element is off".to_owned() });
    }
    found(
        &times[0],
        |time| time.map(|s| 1e3 * s),
        format!("{m} positions, 4 heads of 64, causal, keys and values stored"),
    )
}

/// A position's keys and values, 12 heads of 64, stored by the op that stores them, and looked at by it: one row a call.
fn key_values(setup: &Setup) -> Result<Outcome> {
    const CALLS: usize = 128;
    let shape = Attention { heads: 12, kv_heads: 12, head_dim: 64, context: CALLS, scale: 0.125, causal: true };
    let cpu = &setup.cpu;
    let data = draw(CALLS * 2304, 2);
    let mut steps = Vec::new();
    for position in 0..CALLS {
        let qkv = cpu.tensor(&data[position * 2304..][..2304], &[1, 2304])?;
        steps.push((qkv, cpu.tensor_u32(bytemuck::cast_slice(&rows(1, position)), &[1, 4])?));
    }
    let (mut keys, mut values) = (cpu.zeros(&[CALLS, 768])?, cpu.zeros(&[CALLS, 768])?);
    let mut out = cpu.zeros(&[1, 768])?;
    let mut run = || {
        let mut pass = cpu.pass();
        steps
            .iter()
            .try_for_each(|(qkv, row)| ops::attention(&mut pass, row, qkv, (&mut keys, &mut values), &shape, &mut out))
    };
    let times = turns(setup.repetitions(), &mut [&mut run])?;
    let kept: Vec<f32> = cpu.read(&keys)?;
    let stored = (0..CALLS).all(|position| kept[position * 768..][..768] == data[position * 2304 + 768..][..768]);
    if !stored || keys.dtype() != DType::F32 {
        return Err(Error::WrongResult { what: "keys".to_owned(), message: "a stored row is another".to_owned() });
    }
    let rate = |time: Estimate| time.rate(1e-3 * CALLS as f64);
    found(&times[0], rate, format!("positions 0 to {}, each attended to as well", CALLS - 1))
}

/// The same model and the same tokens on both sides.
fn prefill(setup: &Setup) -> Result<Outcome> {
    let config = if setup.quick { Config::new(5000, 256, 192, 3, 3) } else { Config::gpt2_small() };
    let model = GpuModel::random(&setup.cpu, &config, 0)?;
    let count = if setup.quick { 16 } else { 64 };
    let run = |kind| ModelTest { kind, depth: 0 }.run(&model, "random", setup.repetitions());
    let (at_once, one_by_one) = (run(TestKind::Prompt(count))?, run(TestKind::Generation(count))?);
    let ratios: Vec<f64> = at_once.samples_ts.iter().zip(&one_by_one.samples_ts).map(|(a, b)| a / b).collect();
    let (a, b) = (at_once.tokens_per_s.median, one_by_one.tokens_per_s.median);
    found(
        &ratios,
        |ratio| ratio,
        format!("{count} tokens: {a:.0} tok/s at once, {b:.0} one by one, on the CPU backend"),
    )
}

/// The model that ships: tokenizer, prompt, five tokens.
fn end_to_end(setup: &Setup) -> Result<Outcome> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    if !dir.is_dir() {
        return not_built("models/demo is not here");
    }
    let model = GpuModel::load(&setup.cpu, &dir)?;
    let Some(tokenizer) = Tokenizer::load(&dir)? else { return not_built("models/demo has no tokenizer") };
    let mut written = Vec::new();
    let mut run = || {
        let prompt = tokenizer.encode("The mill grinds slowly,")?;
        let mut session = model.session()?;
        let options =
            gristmill::model::GenerateOptions { max_tokens: 5, stop: Vec::new(), ..session.default_options() };
        written = session.generate(&prompt, options)?.collect::<Result<Vec<u32>>>()?;
        tokenizer.decode(&written).map(drop)
    };
    let times = turns(setup.repetitions(), &mut [&mut run])?;
    let text = tokenizer.decode(&written)?;
    found(&times[0], |time| time.map(|s| 1e3 * s), format!("wrote {text:?}"))
}
