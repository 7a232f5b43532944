//! What a model makes of a GGUF file: rows G37 to G46 and G49, numbers that no model has in files that a reader loads.
//! Each is refused by key or tensor, without more memory than the file is long, or loads and computes.

use gristmill::model::{Config, GenerateOptions, Gguf, ModelFiles};
use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel, Result};

use super::super::memory;
use super::bytes::*;

/// ggml's number of f32.
const DENSE: u32 = 0;

/// A Llama of one layer, 32 wide: 2 heads and 1 for keys and values, 5 tokens.
struct Llama {
    keys: Vec<(String, u32, Vec<u8>)>,
    /// (name, dimensions with the innermost first, type, bytes)
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl Llama {
    fn new() -> Llama {
        let mut llama = Llama { keys: Vec::new(), tensors: Vec::new() };
        llama.set("general.architecture", STRING, string("llama"));
        let sizes = [
            ("block_count", 1_u32),
            ("context_length", 16),
            ("embedding_length", 32),
            ("feed_forward_length", 32),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("vocab_size", 5),
        ];
        for (name, value) in sizes {
            llama.set(&format!("llama.{name}"), U32, value.to_le_bytes());
        }
        llama.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5_f32.to_le_bytes());
        let tensors: [(&str, &[u64]); 11] = [
            ("token_embd", &[32, 5]),
            ("output_norm", &[32]),
            ("blk.0.attn_norm", &[32]),
            ("blk.0.attn_q", &[32, 32]),
            ("blk.0.attn_k", &[32, 16]),
            ("blk.0.attn_v", &[32, 16]),
            ("blk.0.attn_output", &[32, 32]),
            ("blk.0.ffn_norm", &[32]),
            ("blk.0.ffn_gate", &[32, 32]),
            ("blk.0.ffn_up", &[32, 32]),
            ("blk.0.ffn_down", &[32, 32]),
        ];
        for (name, dims) in tensors {
            llama.add(&format!("{name}.weight"), dims);
        }
        llama
    }

    /// Another value of a key, or a new one.
    fn set(&mut self, name: &str, kind: u32, value: impl AsRef<[u8]>) {
        self.keys.retain(|(key, ..)| key != name);
        self.keys.push((name.to_owned(), kind, value.as_ref().to_vec()));
    }

    /// A tensor of small numbers that differ.
    fn add(&mut self, name: &str, dims: &[u64]) {
        let count = dims.iter().product::<u64>();
        let bytes = (0..count).flat_map(|i| (((i * 7 % 13) as f32 - 6.0) / 32.0).to_le_bytes()).collect();
        self.tensors.push((name.to_owned(), dims.to_vec(), DENSE, bytes));
    }

    fn tensor(&mut self, name: &str) -> &mut (String, Vec<u64>, u32, Vec<u8>) {
        self.tensors.iter_mut().find(|(known, ..)| known == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let keys: Vec<_> = self.keys.iter().map(|(name, kind, value)| key(name, *kind, value)).collect();
        let (mut data, mut records) = (Vec::new(), Vec::new());
        for (name, dims, kind, bytes) in &self.tensors {
            data.resize(usize::next_multiple_of(data.len(), 32), 0);
            records.push(tensor(name, dims, *kind, data.len() as u64));
            data.extend_from_slice(bytes);
        }
        [file(&keys, &records, 0), data].concat()
    }

    fn files(&self) -> ModelFiles {
        Gguf::from_memory(self.bytes()).unwrap().into()
    }
}

fn cpu() -> GpuCompute {
    GpuCompute::new(ComputeBackend::Cpu).unwrap()
}

/// The error of the file that `change` makes, and that it takes little memory to find.
fn refusal(gpu: &GpuCompute, id: &str, change: impl FnOnce(&mut Llama)) -> Error {
    let mut llama = Llama::new();
    change(&mut llama);
    let (files, bytes) = (llama.files(), llama.bytes().len());
    let (outcome, peak) = memory::peak(|| GpuModel::from_files(gpu, &files));
    assert!(peak < 2 * bytes + (16 << 20), "{id}: {peak} bytes of memory for {bytes}");
    outcome.err().unwrap_or_else(|| panic!("{id} loads"))
}

fn refused(id: &str, change: impl FnOnce(&mut Llama), words: &str) {
    let error = refusal(&cpu(), id, change);
    assert!(error.to_string().contains(words), "{id}: {error}, expected `{words}`");
    assert!(error.to_string().len() < 1000, "{id}: {error}");
}

/// Two tokens after two, greedily.
fn write(model: &GpuModel) -> Result<Vec<u32>> {
    let mut session = model.session()?;
    let options = GenerateOptions { max_tokens: 2, ..session.default_options() };
    session.generate(&[1, 2], options)?.collect()
}

fn u32(name: &'static str, value: u32) -> impl FnOnce(&mut Llama) {
    move |llama| llama.set(name, U32, value.to_le_bytes())
}

fn f32(name: &'static str, value: f32) -> impl FnOnce(&mut Llama) {
    move |llama| llama.set(name, F32, value.to_le_bytes())
}

#[test]
fn a_valid_file_loads() {
    let files = Llama::new().files();
    let config = files.config().unwrap();
    assert_eq!((config.n_layers, config.head_dim, config.tied_head, config.vocab_size), (1, 16, true, 5));
    assert_eq!(write(&GpuModel::from_files(&cpu(), &files).unwrap()).unwrap().len(), 2);
}

#[test]
fn g37_to_g39_numbers_of_no_model() {
    for value in [0, 1 << 31, u32::MAX] {
        refused("G37", u32("llama.block_count", value), "llama.block_count");
        refused("G38", u32("llama.attention.head_count", value), "llama.attention.head_count");
        refused("G38", u32("llama.attention.head_count_kv", value), "llama.attention.head_count_kv");
        refused("G39", u32("llama.context_length", value), "llama.context_length");
        refused("G39", u32("llama.embedding_length", value), "llama.embedding_length");
        refused("G39", u32("llama.feed_forward_length", value), "llama.feed_forward_length");
        refused("G42", u32("llama.vocab_size", value), "vocab_size");
    }
    refused("G37", u32("llama.block_count", 513), "`blk.1.");
    refused("G37", |llama| llama.set("llama.block_count", I32, (-1_i32).to_le_bytes()), "is -1 (i32)");
    refused("G37", f32("llama.block_count", 1.0), "is 1.0 (f32)");
    refused("G38", u32("llama.attention.head_count", 3), "shape [32, 32]; the config asks for [30, 32]");
    refused("G38", u32("llama.attention.head_count_kv", 4), "4 do not divide");
    refused("G38", u32("llama.attention.head_count", 4), "shape");
    let two = array(U32, 2, [2_u32, 1].map(u32::to_le_bytes).concat());
    refused("G38", |llama| llama.set("llama.attention.head_count", ARRAY, two), "llama.attention.head_count");
    refused("G38", |llama| llama.set("llama.feed_forward_length", ARRAY, array(U32, 0, [])), "feed_forward_length");
    for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refused("G39", f32("llama.rope.freq_base", value), "llama.rope.freq_base");
        refused("G39", f32("llama.attention.layer_norm_rms_epsilon", value), "llama.attention.layer_norm_rms_epsilon");
    }
    for value in [-1.0, f32::NAN, f32::INFINITY] {
        refused("G39", f32("llama.rope.scaling.factor", value), "llama.rope.scaling.factor");
    }
    // Frequencies that overflow, and ones that do not tell pairs apart.
    refused("G39", f32("llama.rope.scaling.factor", 1e-38), "rope");
    refused("G39", f32("llama.rope.freq_base", 1e-38), "rope");
    let yarn = |llama: &mut Llama| {
        llama.set("llama.rope.scaling.type", STRING, string("yarn"));
        llama.set("llama.rope.freq_base", F32, 1_f32.to_le_bytes());
    };
    refused("G39", yarn, "llama.rope");
}

#[test]
fn g40_tensors_that_are_not_the_models() {
    for place in 0..11 {
        let name = Llama::new().tensors[place].0.clone();
        let words = format!("`{name}`: missing");
        refused("G40", |llama| drop(llama.tensors.remove(place)), &words);
        let words = format!("`{name}`: shape");
        let turned = |llama: &mut Llama| llama.tensors[place].1 = vec![16, llama.tensors[place].3.len() as u64 / 64];
        refused("G40", turned, &words);
    }
    refused("G40", |llama| llama.add("blk.1.attn_q.weight", &[32, 32]), "`blk.1.attn_q.weight`: not part of");
    refused("G40", |llama| llama.add("blk.0.attn_q_norm.weight", &[16]), "not part of");
    refused("G40", |llama| llama.add("blk.0.attn_k.bias", &[16]), "not part of");
    refused("G40", |llama| llama.add("blk.0.attn_q.bias", &[32]), "`blk.0.attn_k.bias`: missing");
    refused("G40", |llama| llama.add("output.weight", &[32, 6]), "`output.weight`: shape [6, 32]");
    refused("G40", |llama| llama.add("rope_freqs.weight", &[9]), "`rope_freqs.weight`");
    let factors = |value: f32| {
        move |llama: &mut Llama| {
            llama.add("rope_freqs.weight", &[8]);
            llama.tensor("rope_freqs.weight").3 = value.to_le_bytes().repeat(8);
        }
    };
    for value in [0.0, f32::NAN, 1e-30] {
        refused("G40", factors(value), "`rope_freqs.weight`: holds a factor");
    }
}

#[test]
fn g41_g42_g43_names_and_tokens() {
    for architecture in ["", "no such", "bert", "llama4", &"x".repeat(1 << 20)] {
        refused("G41", |llama| llama.set("general.architecture", STRING, string(architecture)), "general.architecture");
    }
    refused("G41", |llama| llama.keys.retain(|(key, ..)| key != "general.architecture"), "general.architecture");
    refused("G41", |llama| llama.set("general.type", STRING, string("adapter")), "general.type");
    let tokens = |count: usize| {
        move |llama: &mut Llama| {
            let tokens = vec![string("a"); count].concat();
            llama.set("tokenizer.ggml.tokens", ARRAY, array(STRING, count as u64, tokens));
        }
    };
    refused("G42", tokens(4), "`token_embd.weight`: shape [5, 32]");
    refused("G42", tokens(6), "`token_embd.weight`: shape [5, 32]");
    refused("G42", tokens(0), "vocab_size");
    refused("G42", |llama| llama.keys.retain(|(key, ..)| key != "llama.vocab_size"), "llama.vocab_size");
    for name in ["bos", "eos", "eot"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        refused("G43", |llama| llama.set(&key, I32, (-1_i32).to_le_bytes()), "is -1 (i32)");
        for token in [5, u32::MAX] {
            // No model can emit it.
            let mut llama = Llama::new();
            llama.set(&key, U32, token.to_le_bytes());
            let config = llama.files().config().unwrap();
            assert!(config.eos.is_empty() && config.bos.is_none(), "G43");
        }
    }
    let mut llama = Llama::new();
    for (name, token) in [("eos", 3_u32), ("eot", 4), ("eom", 3), ("bos", 1)] {
        llama.set(&format!("tokenizer.ggml.{name}_token_id"), U32, token.to_le_bytes());
    }
    let config = llama.files().config().unwrap();
    assert_eq!((config.eos, config.bos), (vec![3, 4], Some(1)));
}

/// What changes a result and is not implemented is refused by its key.
#[test]
fn options_that_are_not_implemented() {
    let flag = |name: &'static str, value: u8| move |llama: &mut Llama| llama.set(name, BOOL, [value]);
    refused("causal", flag("llama.attention.causal", 0), "llama.attention.causal");
    refused("parallel", flag("llama.use_parallel_residual", 1), "llama.use_parallel_residual");
    for name in [
        "llama.expert_count",
        "llama.rope.dimension_count",
        "llama.attention.value_length",
        "llama.attention.sliding_window",
        "llama.nextn_predict_layers",
        "llama.mystery",
    ] {
        refused("option", u32(name, 8), name);
    }
    for name in ["llama.logit_scale", "llama.attention.scale", "llama.rope.scaling.yarn_beta_fast"] {
        refused("option", f32(name, 2.0), name);
    }
    for kind in ["longrope", "mystery", ""] {
        let set = |llama: &mut Llama| llama.set("llama.rope.scaling.type", STRING, string(kind));
        refused("option", set, "llama.rope.scaling.type");
    }
    let mut llama = Llama::new();
    llama.set("llama.attention.causal", BOOL, [1]);
    llama.set("llama.expert_count", U32, [0; 4]);
    llama.set("llama.attention.sliding_window", U32, 16_u32.to_le_bytes());
    llama.set("llama.rope.scaling.finetuned", BOOL, [1]);
    llama.set("qwen2.mystery", U32, [0; 4]);
    assert!(GpuModel::from_files(&cpu(), &llama.files()).is_ok());
    // Of one architecture a norm of heads is an option, of another a part.
    llama.set("general.architecture", STRING, string("gpt2"));
    let error = Config::from_gguf(&Gguf::from_memory(llama.bytes()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("gpt2."), "{error}");
}

#[test]
fn g46_g49_weights_that_are_not_numbers() {
    let quantised = |scale: u16| {
        move |llama: &mut Llama| {
            let (_, _, kind, bytes) = llama.tensor("blk.0.attn_v.weight");
            let block = [&scale.to_le_bytes()[..], &[1; 32]].concat();
            (*kind, *bytes) = (Q8_0, block.repeat(16));
        }
    };
    for scale in [0x7c00, 0x7e01, 0xfc00, 0xffff] {
        refused("G46", quantised(scale), "`blk.0.attn_v.weight`");
    }
    for scale in [0x0001, 0x83ff, 0x0000, 0x3c00] {
        let mut llama = Llama::new();
        quantised(scale)(&mut llama);
        assert!(write(&GpuModel::from_files(&cpu(), &llama.files()).unwrap()).is_ok(), "G46 {scale:x}");
    }
    let filled = |name: &'static str, value: f32| {
        move |llama: &mut Llama| {
            let bytes = &mut llama.tensor(name).3;
            *bytes = value.to_le_bytes().repeat(bytes.len() / 4);
        }
    };
    for name in ["token_embd.weight", "blk.0.ffn_down.weight", "output_norm.weight"] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            refused("G49", filled(name, value), &format!("`{name}`"));
        }
        // Finite, and what it makes need not be.
        let mut llama = Llama::new();
        filled(name, 3.4e38)(&mut llama);
        match write(&GpuModel::from_files(&cpu(), &llama.files()).unwrap()) {
            Ok(tokens) => assert_eq!(tokens.len(), 2),
            Err(error) => assert!(matches!(error, Error::NonFinite { .. }), "{error}"),
        }
    }
}
