#![allow(unreachable_pub, reason = "shared by `mod common`")]
//! What test files share: the adapter, or a loud skip, and the expected values.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;
use std::sync::OnceLock;

use gristmill::model::{Config, GpuModel};
use gristmill::{ComputeBackend, GpuCompute, Options};

/// An engine on the adapter at hand. `None`, said loudly, if there is none; a failure where `GRISTMILL_REQUIRE_ADAPTER=1`.
pub fn open(options: &Options) -> Option<GpuCompute> {
    match GpuCompute::open(options) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED, nothing ran on an adapter: {error}");
            None
        }
    }
}

/// The adapter at hand, one engine for all tests of a file.
pub fn gpu() -> Option<GpuCompute> {
    static GPU: OnceLock<Option<GpuCompute>> = OnceLock::new();
    GPU.get_or_init(|| {
        let gpu = open(&Options::new(ComputeBackend::Gpu));
        if let Some(facts) = gpu.as_ref().and_then(GpuCompute::adapter) {
            eprintln!("adapter: {facts}");
        }
        gpu
    })
    .clone()
}

/// The CPU backend.
pub fn cpu() -> GpuCompute {
    GpuCompute::new(ComputeBackend::Cpu).expect("the CPU backend always opens")
}

/// Values that `tests/oracle` computed with transformers.
pub struct Oracle {
    pub id: &'static str,
    json: serde_json::Value,
}

pub fn oracle(id: &'static str) -> Oracle {
    let path = folder(id).join("expected.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Oracle { id, json: serde_json::from_str(&text).expect("valid JSON") }
}

pub fn folder(id: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(id)
}

impl Oracle {
    /// Seeded models (`a*`) are made here, file models (`b*`) loaded.
    pub fn model(&self, gpu: &GpuCompute) -> GpuModel {
        let model = match self.json["weights"].is_array() {
            true => {
                let config = Config::from_json(&self.json["config"].to_string()).expect("a valid config");
                GpuModel::random(gpu, &config, self.json["seed"].as_u64().expect("a seed"))
            }
            false => GpuModel::load(gpu, &folder(self.id)),
        };
        model.unwrap_or_else(|e| panic!("{}: {e}", self.id))
    }

    pub fn tokens(&self) -> Vec<u32> {
        ids(&self.json["tokens"])
    }

    pub fn nll(&self) -> Vec<f64> {
        floats(&self.json["nll"])
    }

    /// The rows whose logits are complete: (row, logits).
    pub fn logits(&self) -> Vec<(usize, Vec<f64>)> {
        let rows = self.json["logits_rows"].as_object().into_iter().flatten();
        let mut rows: Vec<_> = rows.map(|(row, values)| (row.parse().expect("a number"), floats(values))).collect();
        if self.json["logits_last"].is_array() {
            rows.push((self.tokens().len() - 1, floats(&self.json["logits_last"])));
        }
        rows
    }

    /// The first logits of the last row, for vocabularies too large to store.
    pub fn last_logits_start(&self) -> Vec<f64> {
        floats(&self.json["logits_last_first"])
    }

    /// Prompt, new ids and the top-2 gap at each.
    pub fn greedy(&self) -> (Vec<u32>, Vec<u32>, Vec<f64>) {
        let greedy = &self.json["greedy"];
        (ids(&greedy["prompt"]), ids(&greedy["ids"]), floats(&greedy["gap"]))
    }
}

/// A list of token ids.
pub fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().map(|v| v.as_u64().expect("an id") as u32).collect()
}

/// A list of numbers.
pub fn floats(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|v| v.as_f64().expect("a number")).collect()
}

/// The largest difference of two lists of one length.
pub fn largest_difference(what: &str, got: impl IntoIterator<Item = f64>, expected: &[f64]) -> f64 {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    let difference = |(a, b): (&f64, &f64)| if a.is_finite() { (a - b).abs() } else { f64::INFINITY };
    got.iter().zip(expected).map(difference).fold(0.0, f64::max)
}

/// Asserts that greedy ids are equal, or differ first where the reference could hardly tell two tokens apart.
pub fn assert_greedy(what: &str, got: &[u32], expected: &[u32], gap: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    if let Some(step) = got.iter().zip(expected).position(|(a, b)| a != b) {
        let (a, b) = (got[step], expected[step]);
        assert!(gap[step] < 2e-3, "{what}: step {step} is {a}, not {b}; the gap is {}", gap[step]);
        eprintln!("{what}: differs from step {step}, where the reference's top-2 gap is {}", gap[step]);
    }
}
