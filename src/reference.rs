//! The truth: every op as plain loops over slices, with sums in f64. Slow and obvious on purpose. Matrices are dense and
//! row-major, dimensions come as (m, k, n). Whatever computes an op, on whichever device, is compared with these.
//!
//! They are written from the formula and not from a kernel, and share no code with one: a twin that blocks its sums as a
//! kernel does would have that kernel's mistakes. f64 has 29 bits more than f32, so their own rounding is beyond what any
//! bound looks at. They index as they please, for a shape that does not fit is the test's mistake; they are not on a
//! product's path, but for the few ops that the CPU backend says it borrows.

mod bits;
mod kinds;
mod quants;

use bits::{float_bits, half_bits};
pub use kinds::{Activation, Attention, Cast, Gelu, Pairing, Reduction, Rope, Row, Sampler};
pub use quants::{Parts, dequantize, dequantize_parts};

/// C\[m,n\] = A\[m,k\] B\[k,n\].
pub fn matmul(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for l in 0..k {
            for j in 0..n {
                c[i * n + j] += f64::from(a[i * k + l]) * f64::from(b[l * n + j]);
            }
        }
    }
    c
}

/// C\[m,n\] = scale * A\[m,k\] B\[n,k\]^T, + bias\[n\].
pub fn matmul_transpose_b(
    a: &[f32],
    b: &[f32],
    bias: Option<&[f32]>,
    scale: f32,
    (m, k, n): (usize, usize, usize),
) -> Vec<f64> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let pairs = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
            let sum: f64 = pairs.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            c.push(f64::from(scale) * sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
        }
    }
    c
}

/// activation(C\[m,n\] + bias\[n\]), for a product C.
pub fn epilogue(c: &[f64], bias: Option<&[f32]>, activation: Option<Activation>, n: usize) -> Vec<f64> {
    let biased = c.iter().enumerate().map(|(i, &c)| c + bias.map_or(0.0, |bias| f64::from(bias[i % n])));
    let activate = |x: f64| match activation {
        None => x,
        Some(Activation::Relu) => x.max(0.0),
        Some(Activation::Gelu(form)) => gelu_one(x, form),
        Some(Activation::Silu) => x / (1.0 + (-x).exp()),
    };
    biased.map(activate).collect()
}

/// C\[i,j,m,n\] = scale * A\[i,j,m,k\] B\[i/r,j/s,n,k\]^T for A of `batches` and B of `b_batches`, r and s to one.
pub fn matmul_batched(
    (a, batches): (&[f32], [usize; 2]),
    (b, b_batches): (&[f32], [usize; 2]),
    scale: f32,
    (m, k, n): (usize, usize, usize),
) -> Vec<f64> {
    let mut c = Vec::new();
    for i in 0..batches[0] {
        for j in 0..batches[1] {
            let of_a = i * batches[1] + j;
            let of_b = i * b_batches[0] / batches[0] * b_batches[1] + j * b_batches[1] / batches[1];
            c.extend(matmul_transpose_b(&a[of_a * m * k..], &b[of_b * n * k..], None, scale, (m, k, n)));
        }
    }
    c
}

/// y\[m,n\] = x\[m,k\] w\[n,k\]^T + bias\[n\].
pub fn matvec(x: &[f32], w: &[f32], bias: Option<&[f32]>, shape: (usize, usize, usize)) -> Vec<f64> {
    matmul_transpose_b(x, w, bias, 1.0, shape)
}

/// norm(x) w\[n,k\]^T + bias\[n\] for x\[m,k\]: the layer norm with (weight, bias), the RMS norm with a weight alone.
pub fn norm_linear(
    x: &[f32],
    (weight, shift, eps): (&[f32], Option<&[f32]>, f32),
    w: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f64> {
    let normed = match shift {
        Some(shift) => layer_norm(x, weight, shift, eps),
        None => rms_norm(x, weight, eps),
    };
    let k = weight.len().max(1);
    let mut out = Vec::new();
    for row in normed.chunks(k) {
        for (j, w) in w.chunks(k).enumerate() {
            let sum: f64 = row.iter().zip(w).map(|(&x, &w)| x * f64::from(w)).sum();
            out.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
        }
    }
    out
}

/// Appends the keys and values of `rows` to the cache (`[slots * context, kv_heads * head_dim]`), then returns the
/// attention of every row, `[m, heads * head_dim]`. `qkv` is `[m, (heads + 2 kv_heads) * head_dim]`.
pub fn attention(rows: &[Row], qkv: &[f32], keys: &mut [f32], values: &mut [f32], shape: &Attention) -> Vec<f64> {
    let &Attention { heads, kv_heads, head_dim: d, context, scale, causal } = shape;
    let (qkv_width, kv_width) = ((heads + 2 * kv_heads) * d, kv_heads * d);
    for (r, row) in rows.iter().enumerate() {
        let to = (row.slot as usize * context + row.position as usize) * kv_width;
        keys[to..][..kv_width].copy_from_slice(&qkv[r * qkv_width + heads * d..][..kv_width]);
        values[to..][..kv_width].copy_from_slice(&qkv[r * qkv_width + heads * d + kv_width..][..kv_width]);
    }
    let mut out = Vec::with_capacity(rows.len() * heads * d);
    for (r, row) in rows.iter().enumerate() {
        let of_slot = rows.iter().filter(|other| other.slot == row.slot).map(|other| other.position);
        let last = if causal { row.position } else { of_slot.max().unwrap_or(row.position) };
        for head in 0..heads {
            let query = &qkv[r * qkv_width + head * d..][..d];
            let at = |j: usize| (row.slot as usize * context + j) * kv_width + head / (heads / kv_heads) * d;
            let scores: Vec<f64> = (0..=last as usize)
                .map(|j| {
                    let products = query.iter().zip(&keys[at(j)..][..d]);
                    f64::from(scale) * products.map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>()
                })
                .collect();
            let weights = softmax_f64(&scores);
            for i in 0..d {
                out.push(weights.iter().enumerate().map(|(j, w)| w * f64::from(values[at(j) + i])).sum());
            }
        }
    }
    out
}

/// What queries and keys are turned by: the table, the shape, and of a norm before it weights and eps.
pub(crate) type Turned<'a> = (&'a [f32], &'a Rope, Option<(&'a [f32], f32)>);

/// [`attention`] of rows whose queries and keys are normed and turned first, as [`norm_rope`] or [`rope`] has them, rounded
/// once.
pub fn attention_decode(
    rows: &[Row],
    qkv: &[f32],
    turned: Option<Turned<'_>>,
    (keys, values): (&mut [f32], &mut [f32]),
    shape: &Attention,
) -> Vec<f64> {
    attention(rows, &ready(rows, qkv, turned, shape), keys, values, shape)
}

/// Rows of q|k|v once queries and keys are turned.
pub(crate) fn ready(rows: &[Row], qkv: &[f32], turned: Option<Turned<'_>>, shape: &Attention) -> Vec<f32> {
    let columns = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
    let turned = match turned {
        None => return qkv.to_vec(),
        Some((table, shape, Some(norm))) => norm_rope(rows, norm, table, qkv, columns, shape),
        Some((table, shape, None)) => rope(rows, table, qkv, columns, shape),
    };
    turned.into_iter().map(|v| v as f32).collect()
}

fn softmax_f64(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.iter().map(|e| e / sum).collect()
}

/// Softmax of every row of x\[m,n\].
pub fn softmax(x: &[f32], n: usize) -> Vec<f64> {
    let rows = x.chunks(n.max(1));
    rows.flat_map(|row| softmax_f64(&row.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>())).collect()
}

/// x - max - ln(sum of exp(x - max)), for every row of x\[m,n\].
pub fn log_softmax(x: &[f32], n: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(n.max(1)) {
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - max).exp()).sum();
        out.extend(row.iter().map(|&v| f64::from(v) - max - sum.ln()));
    }
    out
}

/// (x - mean) / sqrt(variance + eps) * weight + bias, for every row of x\[m,n\].
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    let n = weight.len();
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(n.max(1)) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        for i in 0..n {
            out.push((f64::from(row[i]) - mean) * scale * f64::from(weight[i]) + f64::from(bias[i]));
        }
    }
    out
}

/// x += y, rounded once, and the layer norm of what x then is.
pub fn add_layer_norm(x: &mut [f32], y: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
    for (x, y) in x.iter_mut().zip(y) {
        *x = (f64::from(*x) + f64::from(*y)) as f32;
    }
    layer_norm(x, weight, bias, eps)
}

/// x / sqrt(mean of squares + eps) * weight, for every row of x\[m,n\].
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let n = weight.len();
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks(n.max(1)) {
        let mean_square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
        let root = (mean_square + f64::from(eps)).sqrt();
        out.extend((0..n).map(|i| f64::from(row[i]) / root * f64::from(weight[i])));
    }
    out
}

/// x += y, rounded once, and the RMS norm of what x then is.
pub fn add_rms_norm(x: &mut [f32], y: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    for (x, y) in x.iter_mut().zip(y) {
        *x = (f64::from(*x) + f64::from(*y)) as f32;
    }
    rms_norm(x, weight, eps)
}

/// GELU of every element.
pub fn gelu(x: &[f32], form: Gelu) -> Vec<f64> {
    x.iter().map(|&v| gelu_one(f64::from(v), form)).collect()
}

fn gelu_one(x: f64, form: Gelu) -> f64 {
    match form {
        // x / (1 + exp(-2u)) is 0.5 x (1 + tanh u) without its cancellation.
        Gelu::Tanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        }
        Gelu::Exact => 0.5 * x * libm::erfc(-x / std::f64::consts::SQRT_2),
    }
}

/// max(x, 0) of every element.
pub fn relu(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v.max(0.0))).collect()
}

/// x + y.
pub fn add(x: &[f32], y: &[f32]) -> Vec<f64> {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) + f64::from(y)).collect()
}

/// 1 / (1 + exp(-x)) of every element.
pub fn sigmoid(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| 1.0 / (1.0 + (-f64::from(v)).exp())).collect()
}

/// x / (1 + exp(-x)) of every element.
pub fn silu(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v) / (1.0 + (-f64::from(v)).exp())).collect()
}

/// tanh of every element.
pub fn tanh(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v).tanh()).collect()
}

/// factor * x.
pub fn scale(x: &[f32], factor: f32) -> Vec<f64> {
    x.iter().map(|&v| f64::from(factor) * f64::from(v)).collect()
}

/// x (1 + factor)^times.
pub fn probe(x: &[f32], factor: f32, times: u32) -> Vec<f64> {
    x.iter().map(|&v| (0..times).fold(f64::from(v), |v, _| v * f64::from(factor) + v)).collect()
}

/// x * y, element by element.
pub fn mul(x: &[f32], y: &[f32]) -> Vec<f64> {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).collect()
}

/// silu(gate) * up for every row of x\[m,2n\] = gate | up.
pub fn swiglu(x: &[f32], n: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len() / 2);
    for row in x.chunks(2 * n.max(1)) {
        out.extend(silu(&row[..n]).iter().zip(&row[n..]).map(|(gate, &up)| gate * f64::from(up)));
    }
    out
}

/// Every row of x\[m,n\] to one number.
pub fn reduce(x: &[f32], (m, n): (usize, usize), how: Reduction) -> Vec<f64> {
    let mut out = Vec::with_capacity(m);
    for r in 0..m {
        let row = x[r * n..][..n].iter().map(|&v| f64::from(v));
        out.push(match how {
            Reduction::Sum => row.sum(),
            Reduction::Max => row.fold(f64::NEG_INFINITY, f64::max),
            Reduction::Mean => row.sum::<f64>() / n as f64,
        });
    }
    out
}

/// The sum of x y.
pub fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

/// weight\[token\] for every row, + positions\[position\] if there are any; both are `[_, k]`.
pub fn embed(rows: &[Row], weight: &[f32], positions: Option<&[f32]>, k: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows.len() * k);
    for row in rows {
        let (token, position) = (row.token as usize * k, row.position as usize * k);
        let at = |i: usize| positions.map_or(0.0, |positions| f64::from(positions[position + i]));
        out.extend((0..k).map(|i| f64::from(weight[token + i]) + at(i)));
    }
    out
}

/// Row ids\[r\] of w\[_,k\] for every r, or k zeros where there is none.
pub fn gather(ids: &[u32], w: &[f32], k: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(ids.len() * k);
    for &id in ids {
        let at = id as usize * k;
        out.extend((0..k).map(|i| w.get(at + i).map_or(0.0, |&v| f64::from(v))));
    }
    out
}

/// Every pair of the first heads of x\[m,columns\], turned by the (cos, sin) of table\[position, pair\].
pub fn rope(rows: &[Row], table: &[f32], x: &[f32], columns: usize, shape: &Rope) -> Vec<f64> {
    turned(rows, table, x.iter().map(|&v| f64::from(v)).collect(), columns, shape)
}

/// The first heads of x\[m,columns\], each as [`rms_norm`] has it with its row of weight\[heads, head_dim\], and turned as
/// [`rope`] does.
pub fn norm_rope(
    rows: &[Row],
    (weight, eps): (&[f32], f32),
    table: &[f32],
    x: &[f32],
    columns: usize,
    shape: &Rope,
) -> Vec<f64> {
    let d = shape.head_dim;
    let mut normed: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    for r in 0..rows.len() {
        for head in 0..shape.heads {
            let at = r * columns + head * d;
            normed[at..][..d].copy_from_slice(&rms_norm(&x[at..][..d], &weight[head * d..][..d], eps));
        }
    }
    turned(rows, table, normed, columns, shape)
}

fn turned(rows: &[Row], table: &[f32], mut x: Vec<f64>, columns: usize, shape: &Rope) -> Vec<f64> {
    let &Rope { heads, head_dim, rotary_dim, pairing } = shape;
    for (r, row) in rows.iter().enumerate() {
        for head in 0..heads {
            for pair in 0..rotary_dim / 2 {
                let (first, second) = match pairing {
                    Pairing::Interleaved => (2 * pair, 2 * pair + 1),
                    Pairing::Halves => (pair, pair + rotary_dim / 2),
                };
                let begin = r * columns + head * head_dim;
                let angle = row.position as usize * rotary_dim + 2 * pair;
                let (cos, sin) = (f64::from(table[angle]), f64::from(table[angle + 1]));
                let (a, b) = (x[begin + first], x[begin + second]);
                x[begin + first] = a * cos - b * sin;
                x[begin + second] = a * sin + b * cos;
            }
        }
    }
    x
}

/// For every row of x\[m,n\]: the lowest index of a largest element, and how many elements are NaN or infinite.
pub fn argmax(x: &[f32], n: usize) -> Vec<[u32; 2]> {
    x.chunks(n.max(1))
        .map(|row| {
            let mut best = 0;
            for i in 1..row.len() {
                if row[i] > row[best] {
                    best = i;
                }
            }
            [best as u32, row.iter().filter(|v| !v.is_finite()).count() as u32]
        })
        .collect()
}

/// A uniform in \[0, 1), in steps of 2^-24, of (seed, position, slot): pcg3d of Jarzynski and Olano, JCGT 9(3), 2020.
pub fn uniform(seed: u64, position: u32, slot: u32) -> f64 {
    let words = [seed as u32 ^ position, (seed >> 32) as u32 ^ slot, position.rotate_left(16) ^ !slot];
    let [mut x, mut y, mut z] = words.map(|v| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    for round in 0..2 {
        if round == 1 {
            (x, y, z) = (x ^ (x >> 16), y ^ (y >> 16), z ^ (z >> 16));
        }
        x = x.wrapping_add(y.wrapping_mul(z));
        y = y.wrapping_add(z.wrapping_mul(x));
        z = z.wrapping_add(x.wrapping_mul(y));
    }
    f64::from(z >> 8) / 16_777_216.0
}

/// What may be drawn, in the order in which it is, as (id, exp((logit - largest) / temperature)): all tokens by id, or,
/// where there is a top-k or a top-p, by descending logit and the k first. Top-p has not cut them yet.
pub fn candidates(logits: &[f32], sampler: &Sampler) -> Vec<(u32, f64)> {
    // Adding 0 makes -0 and 0 one.
    let mut all: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&v| f64::from(v) + 0.0)).collect();
    let largest = all.iter().map(|(_, logit)| *logit).fold(f64::MIN, f64::max);
    if sampler.top_k > 0 || sampler.top_p < 1.0 {
        // Stable: of equal logits the lowest id comes first.
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
    }
    if sampler.top_k > 0 {
        all.truncate(sampler.top_k);
    }
    all.iter().map(|(id, logit)| (*id, ((logit - largest) / f64::from(sampler.temperature)).exp())).collect()
}

/// For every row of x\[m,n\]: a token drawn for the position after that of `rows`, and how many elements are NaN or
/// infinite; where any are, the token means nothing.
pub fn sample(x: &[f32], n: usize, rows: &[Row], sampler: &Sampler) -> Vec<[u32; 2]> {
    let mut picked = argmax(x, n);
    if sampler.temperature == 0.0 {
        return picked;
    }
    for ((logits, at), picked) in x.chunks(n.max(1)).zip(rows).zip(&mut picked) {
        let candidates = candidates(logits, sampler);
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let before = |i: usize| candidates[..i].iter().map(|(_, weight)| weight).sum::<f64>();
        let cut = sampler.top_p < 1.0;
        let kept = (1..candidates.len()).find(|&i| cut && before(i) >= f64::from(sampler.top_p) * total);
        let kept = &candidates[..kept.unwrap_or(candidates.len())];
        let point = uniform(sampler.seed, at.position + 1, at.slot) * kept.iter().map(|(_, w)| w).sum::<f64>();
        let mut reached = 0.0;
        for (id, weight) in kept.iter().filter(|(_, weight)| *weight > 0.0) {
            picked[0] = *id;
            reached += weight;
            if reached > point {
                break;
            }
        }
    }
    picked
}

/// x, whose dense form is the same at every pitch.
pub fn repitch(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// out\[b,n,m\] = x\[b,m,n\], for words of any kind.
pub fn transpose(x: &[u32], (batches, m, n): (usize, usize, usize)) -> Vec<u32> {
    let mut out = vec![0; x.len()];
    for batch in 0..batches {
        for i in 0..m {
            for j in 0..n {
                out[(batch * n + j) * m + i] = x[(batch * m + i) * n + j];
            }
        }
    }
    out
}

/// The rows of the next step: the picked token, one position on.
pub fn advance(picked: &[[u32; 2]], rows: &mut [Row]) {
    for (row, [token, _]) in rows.iter_mut().zip(picked) {
        row.token = *token;
        row.position += 1;
    }
}

/// The bits of numbers of one type as those of another, an element in each word. A NaN stays one, quiet, with as much of its
/// payload as there is room for.
pub fn cast(x: &[u32], kind: Cast) -> Vec<u32> {
    x.iter()
        .map(|&bits| match kind {
            Cast::F32ToF16 => half_bits(bits),
            Cast::F16ToF32 => float_bits(bits, 10, 15),
            Cast::Bf16ToF32 => float_bits(bits, 7, 127),
        })
        .collect()
}
