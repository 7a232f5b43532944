//! Attention over a key-value cache: of any rows, and of one new row of each sequence, which is what decoding asks for. There
//! one row has little to do and much to read, so its work is spread over heads and parts of the positions, and what comes
//! before it, norms and rotation, is not worth a dispatch.

use super::products::broadcasts;
use super::{count, ensure, ensure_f32, flops, norm_rope, repitch, rope};
use crate::cpu;
use crate::error::{Error, Result};
use crate::kernel::{Format, kernels as k};
use crate::pass::Pass;
use crate::reference::{Attention, Pairing, Rope};
use crate::reflect::{MAX_INVOCATIONS, MAX_WORKGROUP_BYTES};
use crate::tensor::{DType, Tensor};

/// Attention of `rows` (\[m,4\] words, see [`Row`](crate::ops::Row)) over a key-value cache. `qkv` is \[m, (heads + 2 kv_heads) head_dim\];
/// its keys and values are appended to `keys` and `values`, \[slots * context, kv_heads * head_dim\]; `out` is
/// \[m, heads * head_dim\]. The caller vouches for slots and positions.
///
/// Keys and values are kept in the type of those two tensors, f32 or f16. Halves are rounded when they are appended, and
/// every row sees them rounded, its own too; beyond 65504 they are no numbers.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree, or `head_dim` is odd where two halves are to share a word;
/// [`Error::TooLarge`] for heads beyond workgroup memory.
pub fn attention(
    pass: &mut Pass,
    rows: &Tensor,
    qkv: &Tensor,
    (keys, values): (&mut Tensor, &mut Tensor),
    shape: &Attention,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "attention";
    let &Attention { heads, kv_heads, head_dim, context, scale, causal } = shape;
    let m = rows.rows();
    check(OP, rows, qkv, (keys, values), shape, out)?;
    if pass.is_cpu() {
        return cpu::attention(rows, qkv, keys, values, shape, out);
    }
    let limit = (crate::reflect::MAX_WORKGROUP_BYTES / 8).into();
    if head_dim as u64 > limit {
        return Err(Error::TooLarge { what: "head_dim of attention".to_owned(), needed: head_dim as u64, limit });
    }
    cost(pass, qkv, keys, shape, out);
    let half = (keys.dtype() == DType::F16).into();
    let (d, causal) = (count(OP, head_dim)?, causal.into());
    let kv_bytes = keys.pitch() * keys.dtype().bytes();
    let params = k::attention::Params {
        m: count(OP, m)?,
        heads: count(OP, heads)?,
        kv_heads: count(OP, kv_heads)?,
        qkv_pitch: count(OP, qkv.pitch())?,
        kv_pitch: count(OP, kv_bytes / 4)?,
        out_pitch: count(OP, out.pitch())?,
        context: count(OP, context)?,
        scale,
    };
    let aligned = [qkv, keys, values, out].into_iter().all(|tensor| tensor.is_aligned());
    let fits = aligned && head_dim.is_multiple_of(8) && head_dim <= BROADCAST_DIM;
    let in_quads = || {
        let [qkv_pitch, out_pitch] = [params.qkv_pitch / 4, params.out_pitch / 4];
        k::attention::Params { qkv_pitch, out_pitch, kv_pitch: params.kv_pitch / 2, ..params }
    };
    if fits && broadcasts(pass, &k::attention_broadcast::KERNEL, (out, m), Format::F32) {
        use k::attention_broadcast::{Args, Modes, Params, grid};
        let (params, knobs): (Params, _) = (bytemuck::cast(in_quads()), pass.knobs(out));
        let args = Args { rows, qkv, keys, values, out };
        return pass.run(&args, params, (knobs, Modes { d, causal, half }), grid(&params, &knobs));
    }
    let knobs = pass.knobs(out);
    let picks = |kernel| pass.picks(kernel, false, out, Format::F32);
    // The kernel for processors may be preferred, and not run here.
    let tiled = picks(&k::attention_tile::KERNEL) || m >= TILED && !picks(&k::attention::KERNEL);
    if tiled && aligned && tiles(head_dim, &knobs) {
        use k::attention_tile::{Args, Modes, Params, grid};
        let params: Params = bytemuck::cast(in_quads());
        let args = Args { rows, qkv, keys, values, out };
        return pass.run(&args, params, (knobs, Modes { d, causal, half }), grid(&params, &knobs));
    }
    let modes = k::attention::Modes { d, causal, half };
    let knobs = pass.knobs(out);
    let args = k::attention::Args { rows, qkv, keys, values, out };
    pass.run(&args, params, (knobs, modes), k::attention::grid(&params, &knobs))
}

/// The widest head of the kernel for processors, whose weights of a tile must fit workgroup memory.
const BROADCAST_DIM: usize = 224;

/// Rows that are worth a tile of them. Below that most of it would be computed for nothing.
const TILED: usize = 8;

/// Whether a tile of keys and values of this size fits workgroup memory, beside the weights and maxima of its rows.
fn tiles(head_dim: usize, knobs: &k::attention_tile::Knobs) -> bool {
    let (quads, fours) = (head_dim / 4, knobs.rows as usize / 4);
    let stride = quads | 1;
    let bytes = 16 * (8 * (stride + fours) + 8 * fours);
    head_dim.is_multiple_of(4) && bytes <= crate::reflect::MAX_WORKGROUP_BYTES as usize
}

fn cost(pass: &mut Pass, qkv: &Tensor, keys: &Tensor, shape: &Attention, out: &Tensor) {
    let (m, context) = (out.rows(), shape.context);
    // A guess: half the context is filled.
    pass.cost(flops(m * shape.heads, shape.head_dim, context));
    pass.moves((qkv.bytes() + out.bytes()) as f64 + (m * context * keys.columns() * keys.dtype().bytes()) as f64);
}

fn check(
    op: &'static str,
    rows: &Tensor,
    qkv: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    shape: &Attention,
    out: &Tensor,
) -> Result<()> {
    let &Attention { heads, kv_heads, head_dim, context, .. } = shape;
    let m = rows.rows();
    ensure(op, kv_heads > 0 && heads % kv_heads == 0 && head_dim > 0, || format!("{shape:?}"))?;
    let width = |heads: usize| heads.checked_mul(head_dim);
    let all_heads = kv_heads.checked_mul(2).and_then(|kv_heads| heads.checked_add(kv_heads));
    let fits = rows.columns() == 4
        && rows.dtype() == DType::U32
        && (qkv.rows(), Some(qkv.columns())) == (m, all_heads.and_then(width))
        && (out.rows(), Some(out.columns())) == (m, width(heads))
        && keys.shape() == values.shape()
        && keys.dtype() == values.dtype()
        && (keys.dtype() == DType::F32 || keys.dtype() == DType::F16 && head_dim.is_multiple_of(2))
        && Some(keys.columns()) == width(kv_heads)
        && (context == 0 || keys.rows() % context == 0);
    let shapes = || {
        let (rows, qkv, keys, keys_dtype) = (rows.shape(), qkv.shape(), keys.shape(), keys.dtype());
        let dtypes = (keys_dtype, values.dtype());
        format!("rows {rows:?}, qkv {qkv:?}, keys {keys:?} {dtypes:?}, out {:?}, {shape:?}", out.shape())
    };
    ensure(op, fits, shapes)?;
    ensure_f32(op, &[qkv, out])
}

/// How queries and keys are made ready: each head divided by its root mean square and multiplied by its own weights, if it
/// has such a norm, then turned by its row's position.
///
/// ```
/// use gristmill::ops::{self, Attention, Decode, Pairing, Row, Turn};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let rows = gpu.tensor_u32(bytemuck::cast_slice(&[Row::default()]), &[1, 4])?;
/// let table = gpu.tensor(&ops::rope_table(1, &ops::rope_frequencies(2, 10_000.0), 1.0), &[1, 2])?;
/// let qkv = gpu.tensor(&[1.0, 0.0, 1.0, 0.0, 5.0, 6.0], &[1, 6])?; // query, key, value of one head of two
/// let (mut keys, mut values, mut out) = (gpu.zeros(&[4, 2])?, gpu.zeros(&[4, 2])?, gpu.zeros(&[1, 2])?);
/// let attention = Attention { heads: 1, kv_heads: 1, head_dim: 2, context: 4, scale: 1.0, causal: true };
/// let turn = Turn { table: &table, rotary_dim: 2, pairing: Pairing::Halves, norm: None };
/// let decode = Decode { attention, turn: Some(turn), parts: None };
/// let mut pass = gpu.pass();
/// ops::attention_decode(&mut pass, &rows, &qkv, (&mut keys, &mut values), &decode, &mut out)?;
/// pass.submit()?;
/// assert_eq!(gpu.read::<f32>(&out)?, [5.0, 6.0]); // it sees itself alone
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// `[positions, rotary_dim]`, of [`rope_table`](super::rope_table).
    pub table: &'a Tensor,
    /// Elements of a head that are turned: its first ones, an even number.
    pub rotary_dim: usize,
    /// Which elements make a pair.
    pub pairing: Pairing,
    /// Weights `[heads + kv_heads, head_dim]` of queries and keys, and what is added to a mean square.
    pub norm: Option<(&'a Tensor, f32)>,
}

/// An attention of one new row of each sequence.
///
/// ```
/// use gristmill::ops::{Attention, Decode};
///
/// let attention = Attention { heads: 8, kv_heads: 2, head_dim: 64, context: 4096, scale: 0.125, causal: true };
/// let decode = Decode { attention, turn: None, parts: Some(4) }; // for a device that 2 workgroups a row would leave idle
/// assert_eq!(decode.attention.heads / decode.attention.kv_heads, 4);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Decode<'a> {
    /// Heads and context.
    pub attention: Attention,
    /// What is done to queries and keys first.
    pub turn: Option<Turn<'a>>,
    /// Parts that the positions are cut into, a workgroup for each; `None`: as many as keep the adapter busy.
    pub parts: Option<usize>,
}

/// Positions that a part has at least, of a context that is full.
const PART_POSITIONS: usize = 128;
/// Workgroups that keep a discrete adapter busy.
const BUSY_GROUPS: usize = 512;
/// Heads of a workgroup at most.
const MAX_QUERIES: usize = 8;

impl Decode<'_> {
    /// As many parts as were asked for, or as the adapter suits. A software adapter has as many lanes as its cores.
    fn parts(&self, software: bool, groups: usize) -> usize {
        let most = self.attention.context.div_ceil(PART_POSITIONS).max(1);
        let busy = if software { 1 } else { BUSY_GROUPS.div_ceil(groups.max(1)) };
        self.parts.unwrap_or_else(|| busy.min(most)).max(1)
    }
}

/// [`attention`] of one row of each sequence, all of different slots, as [`rope`](super::rope) or
/// [`norm_rope`](super::norm_rope) before it would have it: in one dispatch, or, where the positions are cut into parts, in
/// two. `qkv` is not changed. The caller vouches for slots and positions. Heads that are no multiple of 8, or too large for the
/// memory of a workgroup, take those ops apart.
///
/// # Errors
/// As [`attention`] and [`rope`](super::rope).
pub fn attention_decode(
    pass: &mut Pass,
    rows: &Tensor,
    qkv: &Tensor,
    (keys, values): (&mut Tensor, &mut Tensor),
    decode: &Decode<'_>,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "attention_decode";
    let Attention { heads, kv_heads, head_dim: d, context, scale, .. } = decode.attention;
    check(OP, rows, qkv, (keys, values), &decode.attention, out)?;
    check_turn(OP, decode)?;
    let knobs: k::attention_decode::Knobs = pass.knobs(out);
    let Some(software) = pass.gpu().engine().map(|engine| engine.facts.software) else {
        return apart(pass, rows, qkv, (keys, values), decode, out);
    };
    let fits = d.is_multiple_of(8) && keys.is_aligned() && values.is_aligned();
    let Some(queries) = queries(heads / kv_heads, d, &knobs).filter(|_| fits) else {
        return apart(pass, rows, qkv, (keys, values), decode, out);
    };
    let (m, groups) = (rows.rows(), heads / queries);
    let parts = decode.parts(software, m * groups);
    let pairing = decode.turn.map(|turn| turn.pairing);
    let norm = decode.turn.and_then(|turn| turn.norm);
    let table = decode.turn.map_or(qkv, |turn| turn.table);
    let params = k::attention_decode::Params {
        m: count(OP, m)?,
        heads: count(OP, heads)?,
        kv_heads: count(OP, kv_heads)?,
        groups: count(OP, groups)?,
        parts: count(OP, parts)?,
        qkv_pitch: count(OP, qkv.pitch())?,
        kv_pitch: count(OP, keys.pitch() * keys.dtype().bytes() / 16)?,
        out_pitch: count(OP, out.pitch())?,
        context: count(OP, context)?,
        scale,
        pairs: count(OP, decode.turn.map_or(0, |turn| turn.rotary_dim / 2))?,
        table_pitch: count(OP, table.pitch() / 2)?,
        weight_pitch: count(OP, norm.map_or(0, |(weight, _)| weight.pitch()))?,
        eps: norm.map_or(0.0, |(_, eps)| eps),
    };
    let modes = k::attention_decode::Modes {
        d: count(OP, d)?,
        queries: count(OP, queries)?,
        half: (keys.dtype() == DType::F16).into(),
        turn: pairing.map_or(0, |pairing| 1 + u32::from(pairing == Pairing::Halves)),
        norm: norm.is_some().into(),
        split: (parts > 1).into(),
    };
    let weight = norm.map_or(qkv, |(weight, _)| weight);
    cost(pass, qkv, keys, &decode.attention, out);
    if parts == 1 {
        let args = k::attention_decode::Args { rows, qkv, table, weight, keys, values, out };
        return pass.run(&args, params, (knobs, modes), k::attention_decode::grid(&params, &knobs));
    }
    let mut split = pass.tensor(&[m * parts, heads * d + heads])?;
    let params = k::attention_decode::Params { out_pitch: count(OP, split.pitch())?, ..params };
    let args = k::attention_decode::Args { rows, qkv, table, weight, keys, values, out: &mut split };
    pass.run(&args, params, (knobs, modes), k::attention_decode::grid(&params, &knobs))?;
    merge(pass, &split, (parts, d), out)
}

/// out\[m, heads d\] of the parts in x\[m parts, heads d + heads\].
fn merge(pass: &mut Pass, x: &Tensor, (parts, head_dim): (usize, usize), out: &mut Tensor) -> Result<()> {
    const OP: &str = "attention_decode";
    let params = k::attention_merge::Params {
        m: count(OP, out.rows())?,
        columns: count(OP, out.columns())?,
        head_dim: count(OP, head_dim)?,
        parts: count(OP, parts)?,
        x_pitch: count(OP, x.pitch())?,
        out_pitch: count(OP, out.pitch())?,
    };
    count(OP, out.rows() * out.columns())?;
    let knobs = pass.knobs(out);
    let args = k::attention_merge::Args { x, out };
    pass.run(&args, params, (knobs, Default::default()), k::attention_merge::grid(&params, &knobs))
}

/// Query heads of a workgroup: as many of those that share keys as have invocations in it, in groups of one size; `None` where
/// it has no room for one head.
fn queries(shared: usize, d: usize, knobs: &k::attention_decode::Knobs) -> Option<usize> {
    let (wg, lanes) = (knobs.wg as usize, d / 8);
    // What a tile of four positions takes, sums that meet where several of them are read at a time, and what the rounding of
    // two arrays to 16 bytes adds.
    let words = |n: usize| n * (8 * lanes + 5) + 6 + 9 * if wg / (lanes * n).max(1) > 1 { wg } else { 1 };
    let fits = |n: usize| {
        (n == 1 || n * lanes <= wg)
            && wg.max(n * lanes) <= MAX_INVOCATIONS as usize
            && 4 * words(n) <= MAX_WORKGROUP_BYTES as usize
    };
    (1..=MAX_QUERIES.min(shared)).rev().find(|&n| shared.is_multiple_of(n) && fits(n))
}

fn check_turn(op: &'static str, decode: &Decode<'_>) -> Result<()> {
    let Some(turn) = decode.turn else { return Ok(()) };
    let &Attention { heads, kv_heads, head_dim, .. } = &decode.attention;
    let fits = turn.table.columns() == turn.rotary_dim
        && turn.rotary_dim.is_multiple_of(2)
        && turn.rotary_dim <= head_dim
        && turn.norm.is_none_or(|(weight, _)| weight.shape() == [heads + kv_heads, head_dim]);
    ensure(op, fits, || format!("{decode:?}"))?;
    ensure_f32(op, &[turn.table, turn.norm.map_or(turn.table, |(weight, _)| weight)])
}

/// The same by the ops for any rows.
fn apart(
    pass: &mut Pass,
    rows: &Tensor,
    qkv: &Tensor,
    kv: (&mut Tensor, &mut Tensor),
    decode: &Decode<'_>,
    out: &mut Tensor,
) -> Result<()> {
    let Some(Turn { table, rotary_dim, pairing, norm }) = decode.turn else {
        return attention(pass, rows, qkv, kv, &decode.attention, out);
    };
    let Attention { heads, kv_heads, head_dim, .. } = decode.attention;
    let mut turned = pass.tensor(qkv.shape())?;
    repitch(pass, qkv, &mut turned)?;
    // Keys follow queries, and so both are the first heads of a row.
    let shape = Rope { heads: heads + kv_heads, head_dim, rotary_dim, pairing };
    match norm {
        Some(norm) => norm_rope(pass, rows, norm, table, &mut turned, &shape)?,
        None => rope(pass, rows, table, &mut turned, &shape)?,
    }
    attention(pass, rows, &turned, kv, &decode.attention, out)
}

#[cfg(test)]
mod tests {
    use super::{k::attention_decode::Knobs, queries};

    /// What is no kernel's is left to the ops for any rows.
    #[test]
    fn a_workgroup_has_the_heads_that_fit() {
        let knobs = |wg| Knobs { wg, each: 4 };
        assert_eq!(queries(8, 64, &knobs(64)), Some(8));
        assert_eq!(queries(7, 128, &knobs(64)), Some(1));
        assert_eq!(queries(4, 64, &knobs(8)), Some(1));
        // Larger than the workgroup of the knobs, than any workgroup, and a workgroup that is too large for its memory.
        assert_eq!(queries(2, 2048, &knobs(8)), Some(1));
        assert_eq!(queries(2, 2056, &knobs(8)), None);
        assert_eq!(queries(1, 8, &knobs(512)), None);
    }
}
