//! The fuzz targets without a fuzzer: every seed of `tests/fuzz/seeds`, and thousands of damaged ones, the same on every
//! machine. `tests/fuzz/run` goes on from there with libFuzzer, which needs a nightly toolchain.

#![cfg(feature = "models")]

#[path = "fuzz/targets.rs"]
mod targets;

use std::panic;
use std::path::Path;

/// Damaged seeds for each target.
const ROUNDS: usize = 2000;

#[test]
fn seeds_and_what_damage_makes_of_them() {
    // The `tokenizers` crate panics thousands of times in here, which the library catches: not worth a line each.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let finds: Vec<String> = targets::TARGETS.iter().flat_map(|(name, target)| finds(name, *target)).collect();
    panic::set_hook(hook);
    assert!(finds.is_empty(), "{} inputs panic:\n{}", finds.len(), finds[..finds.len().min(5)].join("\n"));
}

/// The inputs on which a target panics.
fn finds(name: &str, target: fn(&[u8])) -> Vec<String> {
    let seeds = seeds(name);
    let mut random = Random(0);
    let damaged = (0..ROUNDS).map(|_| {
        let mut bytes = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
        for _ in 0..=random.below(4) {
            damage(&mut bytes, &seeds, &mut random);
        }
        bytes
    });
    let find = |bytes: Vec<u8>| {
        let panicked = panic::catch_unwind(|| target(&bytes)).is_err();
        panicked.then(|| format!("{name}: {}", bytes.escape_ascii()))
    };
    println!("{name}: {} seeds, {ROUNDS} damaged ones", seeds.len());
    seeds.iter().cloned().chain(damaged).filter_map(find).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let mut paths: Vec<_> = folder.read_dir().expect("seeds").map(|entry| entry.expect("a seed").path()).collect();
    paths.sort();
    assert!(paths.len() >= 4, "{target}: {} seeds", paths.len());
    paths.iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

/// One change: a bit, a byte, a number that is often wrong, a piece removed, repeated or taken from another seed.
fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const NUMBERS: [u64; 8] = [0, 1, u64::MAX, 1 << 63, 1 << 32, u32::MAX as u64, i64::MAX as u64, 1 << 24];
    if bytes.is_empty() {
        bytes.push(0);
    }
    let at = random.below(bytes.len());
    let end = at + random.below((bytes.len() - at).min(64)) + 1;
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.below(256) as u8,
        2 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let count = number.len().min(bytes.len() - at);
            bytes[at..at + count].copy_from_slice(&number[..count]);
        }
        3 => drop(bytes.drain(at..end)),
        4 => bytes.truncate(at),
        5 => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len().max(1)).min(other.len());
            let piece = other[from..(from + 32).min(other.len())].to_vec();
            bytes.splice(at..end, piece);
        }
    }
}

/// splitmix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }
}
