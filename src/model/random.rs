//! Weights from a seed: the same bits in Rust, in Python (`tests/oracle/gpt2_oracle.py`) and on every machine, because only
//! integers and correctly rounded f64 operations are used.
//!
//! So a test of a large model needs no file, and what PyTorch computed once for a seed can be committed as a few numbers. A
//! counter rather than a state: any element can be made alone, so a matrix is made in the pieces in which it is uploaded.
//! Scales follow the widths, so that activations keep their size from layer to layer, as in a model that was trained.
//! Biases and norms are not left at 0 and 1, where forgetting them would show nothing.

use crate::gpu::fnv1a64;

/// Uniform, mean 0, variance 1, for element `index` of the tensor `name`. Splitmix64 (Steele, Lea, Flood 2014) on a counter.
fn element(base: u64, index: u64) -> f64 {
    let counter = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut z = base.wrapping_add(counter);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    let u = (z >> 40) as f64 / (1u64 << 24) as f64;
    (2.0 * u - 1.0) * 1.732_050_807_568_877_2
}

/// Elements `start..start + count` of a tensor, in the order of a checkpoint. `inputs` is what is summed over in a product
/// with a matrix; `hidden` the model's width.
pub(super) fn elements(seed: u64, name: &str, start: usize, count: usize, inputs: usize, hidden: usize) -> Vec<f32> {
    let base = seed ^ fnv1a64(name.as_bytes());
    let value = |r: f64| match name {
        "wte.weight" | "wpe.weight" | "embed_tokens.weight" | "lm_head.weight" => 2.0 * r / (hidden as f64).sqrt(),
        name if name.ends_with(".bias") => 0.1 * r,
        name if name.contains("ln_") || name.contains("norm") => 1.0 + 0.1 * r,
        _ => r / (inputs as f64).sqrt(),
    };
    (start..start + count).map(|i| value(element(base, i as u64)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::elements;

    /// Sums over whole tensors, computed in Python when the oracles were made.
    #[test]
    fn weights_are_those_of_the_oracle() {
        check(include_str!("../../tests/oracle/a1/expected.json"), "n_embd", 0);
        check(include_str!("../../tests/oracle/c4/expected.json"), "hidden_size", 1);
    }

    /// `inputs`: the dimension of a matrix that is summed over.
    fn check(text: &str, hidden: &str, inputs: usize) {
        let oracle: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
        let hidden = oracle["config"][hidden].as_u64().expect("a width") as usize;
        let tensors = oracle["weights"].as_array().expect("a list");
        assert!(tensors.len() > 25);
        for tensor in tensors {
            let name = tensor["name"].as_str().expect("a name");
            let shape: Vec<usize> = tensor["shape"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|d| d.as_u64().expect("a size") as usize)
                .collect();
            let count = shape.iter().product();
            let seed = oracle["seed"].as_u64().expect("a seed");
            let sum = |acc: u64, (i, v): (u64, f32)| acc.wrapping_add((i + 1).wrapping_mul(u64::from(v.to_bits())));
            let check = (0..).zip(elements(seed, name, 0, count, shape[inputs % shape.len()], hidden)).fold(0, sum);
            assert_eq!(format!("{check:016x}"), tensor["check"].as_str().expect("a sum"), "{name}");
        }
    }
}
