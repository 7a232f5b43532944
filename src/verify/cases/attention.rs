//! Rows of attention.
//!
//! Key-value heads from one for all to one for each, head sizes that are no multiple of a quad or of a workgroup, prefixes
//! around the 64 positions that a kernel takes at a time, and ragged batches; masked and not in turn.

use super::Table;
use crate::reference::Pairing;
use crate::verify::attention::{Attending, Decoding, attention};
use crate::verify::inputs::Fill;

/// A class, heads, key heads, head dimension, causal, and the sequences.
type AttentionRow = (&'static str, usize, usize, usize, bool, Vec<(usize, usize)>);

/// A class, (heads, key heads, head dimension), prefixes, parts, pairing, and whether heads are normed.
type DecodingRow = (&'static str, [usize; 3], Vec<usize>, Option<usize>, Option<Pairing>, bool);

pub(super) fn attentions(table: &mut Table) {
    any_rows(table);
    decoding(table);
}

/// One new row of each sequence: heads that the kernel for it takes and heads that it does not, positions around the ends of
/// its tiles and parts, more parts than positions, and everything that may be done to queries and keys first.
fn decoding(table: &mut Table) {
    let halves = Some(Pairing::Halves);
    let neighbours = Some(Pairing::Interleaved);
    let rows: [DecodingRow; 24] = [
        ("one position", [2, 2, 8], vec![0], None, None, false),
        ("one position", [2, 1, 16], vec![0], Some(3), halves, false),
        ("GPT-2", [12, 12, 64], vec![113], None, None, false),
        ("GPT-2", [12, 12, 64], vec![260, 0, 63], Some(4), None, false),
        ("Llama", [32, 8, 64], vec![70], Some(2), neighbours, false),
        ("Llama", [8, 2, 128], vec![300], Some(5), halves, false),
        ("Qwen", [14, 2, 64], vec![65, 12], None, halves, false),
        ("Qwen", [16, 8, 128], vec![129], Some(2), halves, true),
        ("ragged", [4, 2, 24], vec![0, 1, 62, 63, 64, 65, 127], None, halves, false),
        ("ragged", [4, 2, 24], vec![0, 1, 62, 63, 64, 65, 127], Some(2), neighbours, true),
        ("ragged", [6, 2, 16], vec![5, 400, 31], Some(7), None, false),
        ("grouped heads", [5, 1, 8], vec![33], None, halves, false),
        ("grouped heads", [16, 1, 8], vec![66], Some(2), halves, false),
        ("grouped heads", [22, 2, 8], vec![9], Some(2), neighbours, true),
        ("head size", [2, 1, 80], vec![66], Some(3), halves, true),
        ("head size", [2, 1, 256], vec![66], Some(2), neighbours, false),
        ("head size", [2, 2, 200], vec![3], None, halves, true),
        ("head size", [2, 1, 12], vec![20], Some(2), halves, true),
        ("head size", [3, 1, 300], vec![20], None, neighbours, false),
        ("head size", [2, 1, 10], vec![20, 7], Some(2), None, false),
        ("long prefix", [2, 1, 64], vec![1000], Some(8), halves, false),
        ("long prefix", [4, 1, 32], vec![1000, 3], None, neighbours, false),
        // Several positions at a time, whatever the workgroup.
        ("head size", [3, 3, 8], vec![40, 2, 129], None, None, false),
        // As much workgroup memory as there may be.
        ("head size", [2, 1, 576], vec![60], None, halves, false),
    ];
    for half in [false, true] {
        // A driver compiles each of them anew, so every other one has halves.
        let all = rows.iter().enumerate().filter(|(i, _)| !half || i % 2 == 1);
        for (i, (class, [heads, kv_heads, head_dim], prefixes, parts, pairing, norm)) in all {
            // Half of a head and a pair, at times: the rest of it stays.
            let rotary = if i % 3 == 1 { head_dim / 4 * 2 } else { head_dim / 2 * 2 };
            let fill = if i % 5 == 4 { Fill::Outliers } else { Fill::Uniform };
            let decode = Decoding { parts: *parts, turn: pairing.map(|pairing| (rotary, pairing)), norm: *norm };
            let sequences: Vec<(usize, usize)> = prefixes.iter().map(|&prefix| (prefix, 1)).collect();
            let positions: usize = prefixes.iter().map(|prefix| prefix * prefix).sum();
            let mut detail = format!("h={heads},g={kv_heads},d={head_dim} {prefixes:?} {fill:?}").to_lowercase();
            detail += &parts.map_or(String::new(), |parts| format!(" parts={parts}"));
            detail += &decode.turn.map_or(String::new(), |turn| format!(" {turn:?}").to_lowercase());
            detail += if *norm { " normed" } else { "" };
            let (heads, kv_heads, head_dim) = (*heads, *kv_heads, *head_dim);
            let (causal, decode) = (true, Some(decode));
            let case = Attending { heads, kv_heads, head_dim, causal, half, sequences, fill, decode };
            let (dtype, detail) = if half { ("f16", format!("{detail} halves")) } else { ("f32", detail) };
            let work = positions * heads * head_dim;
            table.typed(("attention_decode", dtype, class), &detail, work, move |bench, inputs| {
                attention(bench, &case, inputs)
            });
        }
    }
}

fn any_rows(table: &mut Table) {
    let mut rows: Vec<AttentionRow> = vec![
        ("no rows", 2, 2, 8, true, vec![]),
        ("one position", 1, 1, 1, true, vec![(0, 1)]),
        ("one position", 3, 1, 5, false, vec![(0, 1)]),
        ("GPT-2", 12, 12, 64, true, vec![(0, 20)]),
        ("GPT-2", 12, 12, 64, true, vec![(113, 1)]),
        ("ragged batch", 4, 2, 22, true, vec![(0, 3), (65, 1), (7, 9)]),
        ("ragged batch", 2, 2, 10, false, vec![(5, 4), (0, 70), (64, 2), (1, 1)]),
        ("ragged batch", 6, 3, 12, true, vec![(63, 1), (400, 1), (0, 1), (113, 1), (12, 1)]),
        // Of heads that every kernel takes, in more rows than a tile has.
        ("ragged batch", 4, 2, 24, false, vec![(5, 4), (0, 70), (64, 2), (1, 1)]),
        ("ragged batch", 2, 1, 8, true, vec![(0, 33), (65, 1), (7, 40)]),
        ("long prefix", 2, 1, 64, true, vec![(400, 1)]),
        ("long prefix", 2, 1, 16, false, vec![(400, 7)]),
    ];
    for (i, head_dim) in [1, 10, 12, 22, 64, 80, 128, 300].into_iter().enumerate() {
        let causal = i % 3 != 1;
        rows.push(("head size", 2, 1, head_dim, causal, vec![(0, 66)]));
        rows.push(("head size", 2, 2, head_dim, causal, vec![(66, 1)]));
        rows.push(("head size", 1, 1, head_dim, !causal, vec![(3, 5), (0, 2)]));
    }
    for (i, prefix) in [0, 1, 63, 64, 65, 113].into_iter().enumerate() {
        rows.push(("decode", 2, 2, 12, true, vec![(prefix, 1)]));
        let (few, many) = [(10, 22), (16, 24)][i / 2 % 2];
        rows.push(("prefill after a prefix", 2, 1, few, i % 2 == 0, vec![(prefix, 17)]));
        rows.push(("prefill after a prefix", 1, 1, many, i % 2 == 1, vec![(prefix, 64), (prefix, 1)]));
    }
    for group in 1..=8 {
        rows.push(("grouped heads", 2 * group, 2, 12, true, vec![(9, 4)]));
    }
    // Llama's and Qwen's.
    rows.push(("grouped heads", 32, 8, 64, true, vec![(70, 1)]));
    rows.push(("grouped heads", 14, 2, 64, true, vec![(5, 12)]));
    rows.push(("grouped heads", 8, 1, 128, true, vec![(66, 3)]));
    for half in [false, true] {
        // Halves share a word, and so an odd head has none.
        let kept = rows.iter().filter(|row| !half || row.3 % 2 == 0);
        kept.enumerate().for_each(|(i, row)| attention_row(table, i, row, half));
    }
}

fn attention_row(table: &mut Table, i: usize, row: &AttentionRow, half: bool) {
    let (class, heads, kv_heads, head_dim, causal, sequences) = row.clone();
    let fill = if i % 5 == 4 { Fill::Outliers } else { Fill::Uniform };
    let kind = if causal { "causal" } else { "full" };
    let written: Vec<String> = sequences.iter().map(|(prefix, rows)| format!("{prefix}+{rows}")).collect();
    let detail = format!("h={heads},g={kv_heads},d={head_dim} {kind} {}", written.join(","));
    let detail = format!("{detail} {}", format!("{fill:?}").to_lowercase());
    let positions: usize = sequences.iter().map(|(prefix, rows)| (prefix + rows) * (prefix + rows)).sum();
    let case = Attending { heads, kv_heads, head_dim, causal, half, sequences, fill, decode: None };
    let (dtype, detail) = if half { ("f16", format!("{detail} halves")) } else { ("f32", detail) };
    table.typed(("attention", dtype, class), &detail, positions * heads * head_dim, move |bench, inputs| {
        attention(bench, &case, inputs)
    });
}
