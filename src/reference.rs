//! The truth: every op as plain loops over slices, with sums in f64. Slow and obvious on purpose. Matrices are dense and
//! row-major, dimensions come as (m, k, n). Whatever computes an op, on whichever device, is compared with these.

/// One row of a batch: which token, whose sequence (`slot`), where in it, and the row of this batch at which that sequence
/// begins. As kernels read it, `array<Row>`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Row {
    /// Token id.
    pub token: u32,
    /// Index of the sequence in the key-value cache.
    pub slot: u32,
    /// Position within the sequence, from 0.
    pub position: u32,
    /// The row of this batch at which the sequence begins. Its rows follow each other, positions ascending by one.
    pub first: u32,
}

/// Shape and kind of an attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Positions per slot of the cache.
    pub context: usize,
    /// Factor of the scores, 1 / sqrt(head_dim) as a rule.
    pub scale: f32,
    /// A row does not see later rows of its slot.
    pub causal: bool,
}

/// The two forms of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), "gelu_new".
    Tanh,
    /// x Phi(x).
    Exact,
}

/// How the next token is chosen: temperature, then top-k, then top-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampler {
    /// Logits are divided by it. 0: the largest logit, the lowest id on a tie, and nothing is drawn.
    pub temperature: f32,
    /// Only so many of the largest logits are candidates; of equal ones the lowest ids, so that they are never more
    /// (transformers keeps all that equal the last). 0: every token is.
    pub top_k: usize,
    /// Only the likeliest candidates are drawn from, until the probability of those before reaches this; one at least.
    /// 1: all are.
    pub top_p: f32,
    /// The same seed draws the same tokens, wherever it is done.
    pub seed: u64,
}

impl Default for Sampler {
    /// The largest logit.
    fn default() -> Sampler {
        Sampler { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

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

/// y\[m,n\] = x\[m,k\] w\[n,k\]^T + bias\[n\].
pub fn matvec(x: &[f32], w: &[f32], bias: Option<&[f32]>, shape: (usize, usize, usize)) -> Vec<f64> {
    matmul_transpose_b(x, w, bias, 1.0, shape)
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

/// weight\[token\] + positions\[position\] for every row; both are `[_, k]`.
pub fn embed(rows: &[Row], weight: &[f32], positions: &[f32], k: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows.len() * k);
    for row in rows {
        let (token, position) = (row.token as usize * k, row.position as usize * k);
        out.extend((0..k).map(|i| f64::from(weight[token + i]) + f64::from(positions[position + i])));
    }
    out
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

/// The rows of the next step: the picked token, one position on.
pub fn advance(picked: &[[u32; 2]], rows: &mut [Row]) {
    for (row, [token, _]) in rows.iter_mut().zip(picked) {
        row.token = *token;
        row.position += 1;
    }
}
