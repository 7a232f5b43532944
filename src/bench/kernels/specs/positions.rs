//! What becomes of the tokens of a batch, on their way in and out.

use super::{
    Absent, Bounded, F32, F32_F16, Host, Key, MIN_ROWS, Made, REQUIRED, Recipe, Shape, Spec, bounded, by_rows, draw,
    exact, pick, places, poison, poison_words, tensors, times,
};
use crate::error::Result;
use crate::kernel::Format;
use crate::reference::{Attention, Pairing, Rope, Row as Position, Sampler};
use crate::verify::attention::error_bounds;
use crate::verify::inputs::{Fill, Inputs};
use crate::verify::{bounds, stored::Stored};
use crate::{ops, reference};

/// Positions of a table of embeddings: GPT-2's.
const POSITIONS: usize = 1024;
const LOGITS: &[Key] = &[("m", REQUIRED), ("n", REQUIRED)];
const HEADS: &[Key] = &[("m", REQUIRED), ("heads", Absent::Is("32")), ("d", Absent::Is("128"))];
const TABLE: &[Key] = &[("m", REQUIRED), ("k", REQUIRED), ("n", REQUIRED)];
const EPS: f32 = 1e-6;

fn words(rows: &[Position]) -> (Host, Vec<usize>) {
    (Host::Words(bytemuck::cast_slice(rows).to_vec()), vec![rows.len(), 4])
}

/// `m` rows of one sequence, from a position on.
fn sequence(m: usize, first: usize) -> Vec<Position> {
    (0..m).map(|r| Position { token: 0, slot: 0, position: (first + r) as u32, first: 0 }).collect()
}

/// One row at `position`; heads of GPT-2 small where nothing else is said.
pub(super) const ATTENTION: Recipe = Recipe {
    op: "attention",
    kernels: &["attention", "attention_broadcast"],
    keys: ATTENDING,
    formats: F32_F16,
    shapes: &[(F32, &["m=1,position=127", "m=1,position=511", "m=1,position=2047"])],
    make: attending_of,
};

/// `m` rows that end at `position`, which is what a tile is for.
pub(super) const ATTENTION_TILE: Recipe = Recipe {
    op: "attention",
    kernels: &["attention", "attention_broadcast", "attention_tile"],
    keys: ATTENDING,
    formats: F32_F16,
    shapes: &[(F32, &["m=128,position=127", "m=512,position=511"])],
    make: attending_of,
};

const ATTENDING: &[Key] = &[
    ("m", REQUIRED),
    ("position", REQUIRED),
    ("heads", Absent::Is("12")),
    ("d", Absent::Is("64")),
    ("kv_heads", Absent::Same("heads")),
];

fn attending_of(text: &Shape, format: Format) -> Result<Made> {
    let [m, position] = [text.size("m")?, text.count("position")?];
    if m > position + 1 {
        return Err(text.wrong("m", &format!("at most {}, which end at position {position}", position + 1)));
    }
    attending(text, format, (m, position), None)
}

/// One row at `position`, over positions in `parts`.
pub(super) const ATTENTION_DECODE: Recipe = Recipe {
    op: "attention_decode",
    kernels: &["attention_decode"],
    keys: DECODING,
    formats: F32_F16,
    shapes: &[(F32, &["position=127", "position=511", "position=2047"])],
    make: decoding,
};

/// The same where there are several parts, which are put together.
pub(super) const ATTENTION_MERGE: Recipe = Recipe {
    op: "attention_decode",
    kernels: &["attention_merge"],
    keys: DECODING,
    formats: F32_F16,
    shapes: &[(F32, &["position=2047,heads=32,kv_heads=8,parts=8"])],
    make: decoding,
};

const DECODING: &[Key] = &[
    ("position", REQUIRED),
    ("heads", Absent::Is("12")),
    ("d", Absent::Is("64")),
    ("kv_heads", Absent::Same("heads")),
    ("parts", Absent::Is("1")),
];

fn decoding(text: &Shape, format: Format) -> Result<Made> {
    let (position, parts) = (text.count("position")?, text.size("parts")?);
    attending(text, format, (1, position), Some(parts))
}

/// `m` rows that end at `position`; of decoding, the parts.
fn attending(text: &Shape, format: Format, (m, position): (usize, usize), parts: Option<usize>) -> Result<Made> {
    /// Positions that a cache has at least.
    const CONTEXT: usize = 2049;
    let [heads, kv_heads, d] = [text.size("heads")?, text.size("kv_heads")?, text.size("d")?];
    if !heads.is_multiple_of(kv_heads) {
        return Err(text.wrong("kv_heads", &format!("a divisor of {heads}, the heads")));
    }
    if format == Format::F16 && !d.is_multiple_of(2) {
        return Err(text.wrong("d", "even, since two halves share a word"));
    }
    let shape = Attention {
        heads,
        kv_heads,
        head_dim: d,
        context: CONTEXT.max(position + 1),
        scale: 1.0 / (d as f32).sqrt(),
        causal: true,
    };
    let first = position + 1 - m;
    let seen = times([m, first + position + 2]) / 2.0;
    let (width, kv_width) = (times([heads, d]), times([kv_heads, d]));
    let kept = if format == Format::F16 { 2.0 } else { 4.0 };
    Ok(Made {
        flops: 4.0 * seen * width,
        // Each key and value is needed once, whoever asks for it.
        bytes: 2.0 * kept * (position + 1) as f64 * kv_width + 4.0 * m as f64 * (2.0 * width + 2.0 * kv_width),
        elements: 2.0 * shape.context as f64 * kv_width + m as f64 * (2.0 * width + 2.0 * kv_width),
        spec: Box::new(move |_| attention((m, first), shape, format, parts)),
    })
}

fn attention((m, first): (usize, usize), shape: Attention, format: Format, parts: Option<usize>) -> Spec {
    let Attention { heads, kv_heads, head_dim: d, context, .. } = shape;
    let (width, kv_width, all) = (heads * d, kv_heads * d, (heads + 2 * kv_heads) * d);
    let rows = sequence(m, first);
    let mut qkv = draw("qkv", m * all);
    let [mut keys, mut values] =
        ["keys", "values"].map(|name| Stored::round(draw(name, context * kv_width), format).values);
    if format == Format::F16 {
        // Halves already, so that it does not matter to which neighbour a device rounds.
        for row in qkv.chunks_mut(all) {
            row.iter_mut().skip(width).for_each(|v| *v = half::f16::from_f32(*v).to_f32());
        }
    }
    let cache = |data: &[f32]| match format {
        Format::F16 => Host::F16(data.iter().map(|&v| half::f16::from_f32(v)).collect()),
        _ => Host::F32(data.to_vec()),
    };
    let kv_shape = vec![context, kv_width];
    let tensors_of = vec![
        words(&rows),
        (Host::F32(qkv.clone()), vec![m, all]),
        (cache(&keys), kv_shape.clone()),
        (cache(&values), kv_shape),
        poison(vec![m, width]),
    ];
    // The twin appends what it is given: first all rows, each alone, of which the last positions see the ones before.
    let chosen = places(m, MIN_ROWS);
    for (r, row) in rows.iter().enumerate() {
        for (cache, column) in [(&mut keys, width), (&mut values, width + kv_width)] {
            let (to, from) = (row.position as usize * kv_width, r * all + column);
            if let (Some(to), Some(from)) = (cache.get_mut(to..to + kv_width), qkv.get(from..from + kv_width)) {
                to.copy_from_slice(from);
            }
        }
    }
    let mut expected = Vec::new();
    for &r in &chosen {
        let (row, of_row) = (pick(&rows, &[r], 1), pick(&qkv, &[r], all));
        let truth = reference::attention(&row, &of_row, &mut keys, &mut values, &shape);
        let bounds = error_bounds(&row, &of_row, &keys, &values, &shape);
        expected.extend(truth.into_iter().zip(bounds).enumerate().map(|(i, (v, bound))| (r * width + i, v, bound)));
    }
    Spec {
        tensors: tensors_of,
        weight: None,
        out: 4,
        in_place: None,
        call: Box::new(move |pass, set| {
            let [rows, qkv, keys, values, out] = tensors(&mut set.t)?;
            match parts {
                None => ops::attention(pass, rows, qkv, (keys, values), &shape, out),
                Some(_) => {
                    let decode = ops::Decode { attention: shape, turn: None, parts };
                    ops::attention_decode(pass, rows, qkv, (keys, values), &decode, out)
                }
            }
        }),
        expected,
    }
}

/// Heads to turn, of an 8B Llama where nothing else is said.
fn turned(text: &Shape, pairing: Pairing) -> Result<(usize, Rope)> {
    let (m, heads, d) = (text.size("m")?, text.size("heads")?, text.size("d")?);
    if !d.is_multiple_of(2) {
        return Err(text.wrong("d", "even"));
    }
    Ok((m, Rope { heads, head_dim: d, rotary_dim: d, pairing }))
}

fn angles(m: usize, shape: &Rope) -> Vec<f32> {
    ops::rope_table(m, &ops::rope_frequencies(shape.rotary_dim, 10_000.0), 1.0)
}

pub(super) const ROPE: Recipe = Recipe {
    op: "rope",
    kernels: &["rope"],
    keys: HEADS,
    formats: F32,
    shapes: &[(F32, &["m=128"])],
    make: |text, _| {
        let (m, shape) = turned(text, Pairing::Interleaved)?;
        let all = times([m, shape.heads, shape.head_dim]);
        Ok(Made {
            flops: 0.0,
            bytes: 8.0 * all,
            elements: all + times([m, shape.rotary_dim]),
            spec: Box::new(move |_| {
                let (width, rows, table) = (shape.heads * shape.head_dim, sequence(m, 0), angles(m, &shape));
                let x = draw("rope", m * width);
                let expected = by_rows((m, width), |at| {
                    let truth = reference::rope(&pick(&rows, at, 1), &table, &pick(&x, at, width), width, &shape);
                    // Both elements of a pair are 1 at most, and so are sines.
                    bounded(truth, |_, _| bounds::rope(2.0))
                });
                Spec {
                    tensors: vec![
                        (Host::F32(x), vec![m, width]),
                        words(&rows),
                        (Host::F32(table), vec![m, shape.rotary_dim]),
                    ],
                    weight: None,
                    out: 0,
                    in_place: Some(0),
                    call: Box::new(move |pass, set| {
                        let [x, rows, table] = tensors(&mut set.t)?;
                        ops::rope(pass, rows, table, x, &shape)
                    }),
                    expected,
                }
            }),
        })
    },
};

pub(super) const NORM_ROPE: Recipe = Recipe {
    op: "norm_rope",
    kernels: &["norm_rope"],
    make: |text, _| {
        // As Qwen3 has it.
        let (m, shape) = turned(text, Pairing::Halves)?;
        let all = times([m, shape.heads, shape.head_dim]);
        Ok(Made {
            flops: 0.0,
            bytes: 8.0 * all,
            elements: all + times([m + shape.heads, shape.rotary_dim]),
            spec: Box::new(move |_| norm_rope(m, shape)),
        })
    },
    ..ROPE
};

fn norm_rope(m: usize, shape: Rope) -> Spec {
    let Rope { heads, head_dim: d, .. } = shape;
    let (width, rows, table) = (heads * d, sequence(m, 0), angles(m, &shape));
    let x = draw("norm_rope", m * width);
    let weight: Vec<f32> = draw("weight", width).into_iter().map(|v| 1.0 + 0.5 * v).collect();
    let expected = by_rows((m, width), |at| {
        let (rows, x) = (pick(&rows, at, 1), pick(&x, at, width));
        let truth = reference::norm_rope(&rows, (&weight, EPS), &table, &x, width, &shape);
        // Both elements of a pair are off by as much as the largest of their head may be, and weights are 1.5 at most.
        let of_head = |head: &[f32]| {
            let squares: f64 = head.iter().map(|&v| f64::from(v).powi(2)).sum();
            let scale = 1.0 / (squares / d as f64 + f64::from(EPS)).sqrt();
            let largest = head.iter().map(|&v| f64::from(v).abs()).fold(0.0, f64::max) * scale * 1.5;
            let error = bounds::rms_norm(d, scale, 1.5, largest);
            2.0 * error + bounds::rope(2.0 * (largest + error))
        };
        let of_heads: Vec<f64> = x.chunks(d).map(of_head).collect();
        bounded(truth, |i, _| of_heads.get(i / d).copied().unwrap_or(0.0))
    });
    Spec {
        tensors: vec![
            (Host::F32(x), vec![m, width]),
            words(&rows),
            (Host::F32(weight), vec![heads, d]),
            (Host::F32(table), vec![m, d]),
        ],
        weight: None,
        out: 0,
        in_place: Some(0),
        call: Box::new(move |pass, set| {
            let [x, rows, weight, table] = tensors(&mut set.t)?;
            ops::norm_rope(pass, rows, (weight, EPS), table, x, &shape)
        }),
        expected,
    }
}

/// m rows of a table of n rows of k.
fn table(text: &Shape, format: Format, spec: fn((usize, usize, usize), Format) -> Spec, moved: f64) -> Result<Made> {
    let (m, k, n) = (text.size("m")?, text.size("k")?, text.size("n")?);
    text.whole_blocks("k", k, format)?;
    let stored = m as f64 * format.stored_bytes(k).unwrap_or(0) as f64;
    Ok(Made {
        flops: 0.0,
        bytes: moved * times([m, k]) + stored,
        elements: times([n + POSITIONS + m, k]),
        spec: Box::new(move |_| spec((m, k, n), format)),
    })
}

/// With embeddings of positions, as GPT-2 has.
pub(super) const EMBED: Recipe = Recipe {
    op: "embed",
    kernels: &["embed"],
    keys: TABLE,
    formats: &Format::ALL,
    shapes: &[(F32_F16, &["m=512,k=768,n=8192"]), (&[Format::Q8_0], &["m=512,k=768,n=8192"])],
    make: |text, format| table(text, format, embed, 8.0),
};

fn embed((m, k, n): (usize, usize, usize), format: Format) -> Spec {
    let mut inputs = Inputs::new("embed");
    let row =
        |r: usize| Position { token: inputs.below(n) as u32, slot: 0, position: (r % POSITIONS) as u32, first: 0 };
    let rows: Vec<Position> = (0..m).map(row).collect();
    let w = Stored::draw(&mut Inputs::new("w"), Fill::Uniform, (n, k), format);
    let of_positions = draw("positions", POSITIONS * k);
    let expected = by_rows((m, k), |at| {
        bounded(reference::embed(&pick(&rows, at, 1), &w.values, Some(&of_positions), k), |_, y| bounds::sum(y))
    });
    Spec {
        tensors: vec![words(&rows), (Host::F32(of_positions), vec![POSITIONS, k]), poison(vec![m, k])],
        weight: Some((w, (n, k))),
        out: 2,
        in_place: None,
        call: Box::new(|pass, set| {
            let [rows, positions, out] = tensors(&mut set.t)?;
            set.w.as_ref().map_or(Ok(()), |w| ops::embed(pass, rows, w, Some(positions), out))
        }),
        expected,
    }
}

pub(super) const GATHER: Recipe =
    Recipe { op: "gather", kernels: &["gather"], make: |text, format| table(text, format, gather, 4.0), ..EMBED };

fn gather((m, k, n): (usize, usize, usize), format: Format) -> Spec {
    let mut inputs = Inputs::new("gather");
    let ids: Vec<u32> = (0..m).map(|_| inputs.below(n) as u32).collect();
    let w = Stored::draw(&mut Inputs::new("w"), Fill::Uniform, (n, k), format);
    let expected = by_rows((m, k), |at| {
        bounded(reference::gather(&pick(&ids, at, 1), &w.values, k), |_, y| bounds::stored(y, format))
    });
    Spec {
        tensors: vec![(Host::Words(ids), vec![m]), poison(vec![m, k])],
        weight: Some((w, (n, k))),
        out: 1,
        in_place: None,
        call: Box::new(|pass, set| {
            let [ids, out] = tensors(&mut set.t)?;
            set.w.as_ref().map_or(Ok(()), |w| ops::gather(pass, ids, w, out))
        }),
        expected,
    }
}

pub(super) const ARGMAX: Recipe = Recipe {
    op: "argmax",
    kernels: &["argmax"],
    keys: LOGITS,
    formats: F32,
    shapes: &[(F32, &["m=1,n=50257"])],
    make: |text, _| {
        let (m, n) = (text.size("m")?, text.size("n")?);
        Ok(Made {
            flops: 0.0,
            bytes: 4.0 * times([m, n]),
            elements: times([m, n + 2]),
            spec: Box::new(move |_| {
                let x = draw("argmax", m * n);
                let expected = by_rows((m, 2), |at| exact(reference::argmax(&pick(&x, at, n), n).concat()));
                Spec {
                    tensors: vec![(Host::F32(x), vec![m, n]), poison_words(vec![m, 2])],
                    weight: None,
                    out: 1,
                    in_place: None,
                    call: Box::new(|pass, set| {
                        let [x, out] = tensors(&mut set.t)?;
                        ops::argmax(pass, x, out)
                    }),
                    expected,
                }
            }),
        })
    },
};

pub(super) const SAMPLE: Recipe = Recipe {
    op: "sample",
    kernels: &["sample"],
    keys: &[("m", REQUIRED), ("n", REQUIRED), ("top_k", Absent::Is("40")), ("top_p", Absent::Is("0.95"))],
    formats: F32,
    shapes: &[(F32, &["m=1,n=50257"])],
    make: |text, _| {
        let (m, n) = (text.size("m")?, text.size("n")?);
        let sampler =
            Sampler { temperature: 0.8, top_k: text.count("top_k")?, top_p: text.fraction("top_p")?, seed: 7 };
        if !sampler.on_device() {
            return Err(text.wrong("top_k", &format!("at most {}, and not 0 where top_p is below 1", ops::TOP_K)));
        }
        Ok(Made {
            flops: 0.0,
            bytes: 4.0 * times([m, n]),
            elements: times([m, n + 6]),
            spec: Box::new(move |_| sample((m, n), sampler)),
        })
    },
};

fn sample((m, n): (usize, usize), sampler: Sampler) -> Spec {
    let x: Vec<f32> = draw("sample", m * n).into_iter().map(|v| 4.0 * v).collect();
    let rows: Vec<Position> =
        (0..m).map(|r| Position { token: 0, slot: r as u32, position: 9, first: r as u32 }).collect();
    let expected = by_rows((m, 2), |at| {
        let (x, rows) = (pick(&x, at, n), pick(&rows, at, 1));
        let drawn = |sampler: &Sampler| reference::sample(&x, n, &rows, sampler);
        // A draw at the very step of the distribution may fall to either side. Where a slightly other distribution draws
        // another token, any token will do.
        let others = [-1e-4, 1e-4].map(|by: f32| {
            let (temperature, top_p) = (sampler.temperature * (1.0 + by), sampler.top_p);
            drawn(&Sampler { temperature, top_p: if top_p < 1.0 { top_p * (1.0 + by) } else { top_p }, ..sampler })
        });
        let mut expected: Vec<Bounded> = Vec::new();
        for (i, [token, faulty]) in drawn(&sampler).into_iter().enumerate() {
            let sure = others.iter().all(|other| other.get(i).is_some_and(|[other, _]| *other == token));
            expected.extend([(token.into(), if sure { 0.0 } else { n as f64 }), (faulty.into(), 0.0)]);
        }
        expected
    });
    Spec {
        tensors: vec![(Host::F32(x), vec![m, n]), words(&rows), poison_words(vec![m, 2])],
        weight: None,
        out: 2,
        in_place: None,
        call: Box::new(move |pass, set| {
            let [x, rows, out] = tensors(&mut set.t)?;
            ops::sample(pass, x, (rows, false), &sampler, out)
        }),
        expected,
    }
}
