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

/// What may be applied to a product before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// Either GELU.
    Gelu(Gelu),
    /// x / (1 + exp(-x)).
    Silu,
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
