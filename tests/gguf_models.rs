//! Models from GGUF files against llama.cpp: small ones of every architecture, whole and quantised, in one format and in
//! several (`tests/oracle/gguf_models.py`). What is expected is what llama.cpp computes with the same numbers as f32; its own
//! way with quantised weights rounds activations to 8 bits, and is up to 0.3 off that here.

mod common;

use std::path::PathBuf;

use common::{cpu, floats, gpu, ids, largest_difference, open};
use gristmill::model::{Config, Family, Gguf, ModelFiles};
use gristmill::{ComputeBackend, GpuCompute, GpuModel, Options};
use serde_json::Value;

const MODELS: [&str; 10] = [
    "llama_f32",
    "llama_f16",
    "llama_q4_0",
    "llama_q4_k_m",
    "qwen2_q8_0",
    "qwen2_mixed",
    "qwen3_bf16",
    "qwen3_q5_k_m",
    "gpt2_f16",
    "gpt2_q5_1",
];

fn path(name: &str) -> PathBuf {
    common::folder("gguf_models").join(format!("{name}.gguf"))
}

fn expected() -> Value {
    let text = std::fs::read_to_string(common::folder("gguf_models").join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// llama.cpp looks GELU up in a table of halves; with everything else it is as far from f64 as this crate.
fn tolerance(model: &GpuModel) -> f64 {
    if model.config().family == Family::Gpt2 { 5e-3 } else { 1e-4 }
}

fn assert_like_llama_cpp(gpu: &GpuCompute) {
    let all = expected();
    let models = all["models"].as_object().unwrap();
    assert!(models.keys().all(|name| MODELS.contains(&name.as_str())) && models.len() == MODELS.len());
    for name in MODELS {
        let expected = &models[name];
        let model = GpuModel::load(gpu, &path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (tokens, tolerance) = (ids(&expected["tokens"]), tolerance(&model));
        let nll = model.session().unwrap().nll(&tokens, |_| ()).unwrap();
        let off = largest_difference(name, nll, &floats(&expected["nll"]));
        assert!(off < tolerance, "{name}: nll differs by {off:e}");

        // The same one by one, which takes other kernels.
        let mut session = model.session().unwrap();
        let (tops, gaps) = (ids(&expected["top"]), floats(&expected["gap"]));
        let mut last = Vec::new();
        for (position, token) in tokens.iter().enumerate() {
            last = session.logits(&[*token]).unwrap();
            let top = (0..last.len()).max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
            let same = top as u32 == tops[position] || gaps[position] < 2.0 * tolerance;
            assert!(same, "{name}: token {top} is the likeliest at {position}, not {}", tops[position]);
        }
        let last = last.into_iter().map(f64::from);
        let off = largest_difference(name, last, &floats(&expected["logits_last"]));
        assert!(off < tolerance, "{name}: the last logits differ by {off:e}");
    }
}

#[test]
fn models_are_llama_cpps_models() {
    let Some(gpu) = gpu() else { return };
    assert_like_llama_cpp(&gpu);
}

#[test]
fn models_in_chunks_without_immediates_and_subgroups() {
    let options = Options {
        immediates: false,
        subgroups: false,
        max_binding_bytes: Some(64 << 10),
        ..Options::new(ComputeBackend::Gpu)
    };
    let Some(gpu) = open(&options) else { return };
    assert_like_llama_cpp(&gpu);
}

#[test]
fn models_on_the_cpu_backend() {
    assert_like_llama_cpp(&cpu());
}

/// Quantised weights stay quantised, and are counted before they are loaded.
#[test]
fn weights_keep_their_formats() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        for name in MODELS {
            let files = ModelFiles::open(&path(name)).unwrap();
            let stored = Gguf::open(&path(name)).unwrap();
            let info = |name| stored.tensor(name).unwrap();
            let (matrices, others): (Vec<_>, Vec<_>) = stored
                .names()
                .filter(|name| *name != "rope_freqs.weight")
                .partition(|name| info(name).shape.len() == 2 && *name != "position_embd.weight");
            let row_bytes = |name| info(name).dtype.format().row_bytes(info(name).shape[1]);
            let matrices: usize = matrices.into_iter().map(|name| info(name).shape[0] * row_bytes(name)).sum();
            // Vectors, and embeddings of positions, are f32; norms of heads are there for each of them.
            let others: usize = others.into_iter().map(|name| 4 * info(name).shape.iter().product::<usize>()).sum();
            let model = GpuModel::from_files(&gpu, &files).unwrap();
            let rest = (model.weight_bytes() as usize).checked_sub(matrices);
            let most = others * model.config().n_heads;
            assert!(
                rest.is_some_and(|rest| (others..=most).contains(&rest)),
                "{name}: {rest:?} beside {matrices} bytes"
            );
            let footprint = GpuModel::footprint(&gpu, &files, 1, &model.session_options()).unwrap();
            assert_eq!(footprint.weights, model.weight_bytes(), "{name}");
        }
    }
}

#[test]
fn configs_say_what_the_files_are() {
    let config = |name: &str| ModelFiles::open(&path(name)).unwrap().config().unwrap();
    for (name, family) in [
        ("llama_q4_k_m", Family::Llama),
        ("qwen2_mixed", Family::Qwen2),
        ("qwen3_bf16", Family::Qwen3),
        ("gpt2_q5_1", Family::Gpt2),
    ] {
        assert_eq!(config(name).family, family, "{name}");
    }
    let llama = config("llama_f32");
    assert_eq!(llama.rope.unwrap().base, 20_000.0);
    assert!(config("qwen2_q8_0").qkv_bias && config("qwen3_bf16").head_norm);
    // Of GPT-2 all biases are there, and positions have embeddings.
    let Config { qkv_bias, output_bias, mlp_bias, rope, .. } = config("gpt2_f16");
    assert!(qkv_bias && output_bias && mlp_bias && rope.is_none());
}
