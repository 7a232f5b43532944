//! The demo model: what transformers computes from the same files, and words that are words.
#![cfg(feature = "demo")]

mod common;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use common::{assert_greedy, cpu, gpu, largest_difference};
use gristmill::model::{GenerateOptions, Sampler, Tokenizer};
use gristmill::{GpuCompute, GpuModel, Result};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

fn expected() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn generate(model: &GpuModel, prompt: &[u32], sampler: Sampler) -> Vec<u32> {
    let options = GenerateOptions { max_tokens: 200, stop: Vec::new(), sampler };
    model.session().unwrap().generate(prompt, options).unwrap().collect::<Result<_>>().unwrap()
}

/// Words of the corpus, as `models/demo/words.txt` lists them: letters, and apostrophes between them.
fn share_of_known_words(text: &str) -> f64 {
    let list = std::fs::read_to_string(folder().join("words.txt")).unwrap();
    let known: HashSet<&str> = list.lines().collect();
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !(c.is_ascii_lowercase() || c == '\''))
        .map(|word| word.trim_matches('\''))
        .filter(|word| !word.is_empty())
        .collect();
    assert!(words.len() >= 80, "{} words: {text}", words.len());
    words.iter().filter(|word| known.contains(*word)).count() as f64 / words.len() as f64
}

fn check(gpu: &GpuCompute) {
    let (expected, model) = (expected(), GpuModel::load(gpu, &folder()).unwrap());
    let tokenizer = Tokenizer::load(&folder()).unwrap().unwrap();
    let vocab = model.config().vocab_size;
    let prompt = tokenizer.encode(expected["prompt"].as_str().unwrap()).unwrap();
    assert_eq!(prompt, ids(&expected["prompt_ids"]));

    let logits = model.session().unwrap().logits(&ids(&expected["logits"]["ids"])).unwrap();
    let last = logits[logits.len() - vocab..].iter().map(|&v| f64::from(v));
    // The expected values have six digits, the logits are below 100.
    assert!(largest_difference("last row", last, &floats(&expected["logits"]["last_logits"])) < 1e-3);
    for (row, (top, values)) in logits.chunks(vocab).zip(
        expected["logits"]["top5_ids"]
            .as_array()
            .unwrap()
            .iter()
            .zip(expected["logits"]["top5_logits"].as_array().unwrap()),
    ) {
        let got = ids(top).into_iter().map(|id| f64::from(row[id as usize]));
        assert!(largest_difference("top five", got, &floats(values)) < 1e-3);
    }

    let nll = model.session().unwrap().nll(&ids(&expected["nll"]["ids"]), |_| ()).unwrap();
    assert!(largest_difference("nll", nll, &floats(&expected["nll"]["nll"])) < 1e-3);

    let greedy = generate(&model, &prompt, Sampler::default());
    assert_greedy("demo", &greedy, &ids(&expected["greedy"]["ids"]), &floats(&expected["greedy"]["gaps"]));
}

#[test]
fn the_demo_model_is_the_one_that_transformers_loads() {
    check(&cpu());
    let Some(gpu) = gpu() else { return };
    check(&gpu);
}

#[test]
fn nine_words_of_ten_are_of_the_corpus() {
    let Some(gpu) = gpu() else { return };
    let model = GpuModel::load(&gpu, &folder()).unwrap();
    let tokenizer = Tokenizer::load(&folder()).unwrap().unwrap();
    let prompt = ids(&expected()["prompt_ids"]);
    for sampler in [Sampler::default(), Sampler { temperature: 0.8, ..Sampler::default() }] {
        let text = tokenizer.decode(&generate(&model, &prompt, sampler)).unwrap();
        let share = share_of_known_words(&text);
        assert!(share >= 0.9, "{share}: {text}");
    }
}

/// Text that streams is the text that would be decoded at once, whatever the bytes of a character are split into.
#[test]
fn streamed_text_is_whole() {
    let tokenizer = Tokenizer::load(&folder()).unwrap().unwrap();
    let texts = ["plain words, and `code`", "naïve café – “quotes” … 你好, мир! 👩‍👩‍👧‍👦 🦀", "a\n\n\tb  c   d", "", "é"];
    let long = texts[1].repeat(40);
    for text in texts.into_iter().chain([long.as_str()]) {
        let ids = tokenizer.encode(text).unwrap();
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for id in &ids {
            let piece = stream.push(*id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "{text:?}: {piece:?}");
            streamed.push_str(&piece);
        }
        streamed.push_str(&stream.finish().unwrap());
        assert_eq!(streamed, tokenizer.decode(&ids).unwrap());
        assert_eq!(streamed, text);
    }
    // Bytes that never become a character come out as they are decoded, and do not hold up what follows.
    let broken: Vec<u32> = tokenizer.encode("🦀").unwrap().into_iter().take(1).cycle().take(12).collect();
    let mut stream = tokenizer.stream();
    let pieces: String = broken.iter().map(|id| stream.push(*id).unwrap()).collect();
    assert!(pieces.contains('\u{fffd}'));
}

#[test]
fn a_prompt_that_is_too_long_is_an_error() {
    let model = GpuModel::load(&cpu(), &folder()).unwrap();
    let long = vec![5; model.config().n_positions + 1];
    let mut session = model.session().unwrap();
    assert!(session.logits(&long).is_err());
    assert!(session.tokens().is_empty());
}
