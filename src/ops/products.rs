//! Products: matrix times matrix, and matrix times a transposed one. Bias and activation are part of the product, where its
//! sums are still in registers: apart they would read and write all of it again.
//!
//! A product deeper than one dispatch may sum is cut into several that add up, because a software adapter ends long loops
//! without an error.

use std::ops::Range;

use super::matrices::{Matrices, aligned_copy, has_shape};
use super::{accumulated, aligned, count, ensure, ensure_f32, flops, in_place, row_quads, through};
use crate::cpu;
use crate::error::Result;
use crate::gpu::Engine;
use crate::kernel::{Format, Kernel, MAX_GROUPS, kernels as k};
use crate::pass::Pass;
use crate::reference::{Activation, Gelu};
use crate::tensor::{DType, Tensor, device_bytes};

/// What kernels read as a weight.
fn ensure_weight(op: &'static str, b: &Tensor) -> Result<()> {
    let fits = matches!(b.dtype(), DType::F32 | DType::F16);
    ensure(op, fits, || format!("{b:?}; f32 or f16 is needed"))
}

/// The most that one dispatch multiplies along the depth; a deeper product is a sum of several. A software adapter (llvmpipe)
/// ends an invocation's loops after 65,535 rounds, all loops together, and says nothing.
const MAX_DEPTH: usize = 16_384;

/// Bytes that a product moves at least.
pub(super) fn bytes(operands: &[&Tensor], bias: Option<&Tensor>, out: u64) -> f64 {
    (operands.iter().copied().chain(bias).map(Tensor::bytes).sum::<u64>() + out) as f64
}

/// The parts of a depth, one dispatch each: at least one, so that a product over nothing is written too.
fn parts(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth.max(1)).step_by(MAX_DEPTH).map(move |first| first..depth.min(first + MAX_DEPTH))
}

/// What happens to a product before it is written: what is there already is added, then the bias, then the activation is
/// applied.
///
/// ```
/// use gristmill::ops::{self, Activation, Epilogue};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let (a, b) = (gpu.tensor(&[1.0, 2.0], &[1, 2])?, gpu.tensor(&[1.0, 0.0, 0.0, 1.0], &[2, 2])?);
/// let bias = gpu.tensor(&[0.5, -4.0], &[2])?;
/// let (mut pass, mut out) = (gpu.pass(), gpu.zeros(&[1, 2])?);
/// let epilogue = Epilogue { bias: Some(&bias), activation: Some(Activation::Relu), ..Epilogue::default() };
/// ops::matmul_with(&mut pass, &a, &b, epilogue, &mut out)?;
/// pass.submit()?;
/// assert_eq!(gpu.read::<f32>(&out)?, [1.5, 0.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// One element per column.
    pub bias: Option<&'a Tensor>,
    /// A function of every element.
    pub activation: Option<Activation>,
    /// Adds the product to what `out` holds, as a block of a transformer ends.
    pub accumulate: bool,
    /// Parts of the depth that [`linear_with`](super::linear_with) sums side by side and then adds up, where many rows have
    /// no activation; as many as divide the depth, if fewer. `None`: as many as keep the device busy. Others ignore it.
    pub parts: Option<usize>,
}

/// out\[m,n\] = a\[m,k\] b\[k,n\]; b may be f32 or f16, all else is f32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, or for another type.
pub fn matmul(pass: &mut Pass, a: &Tensor, b: &Tensor, out: &mut Tensor) -> Result<()> {
    matmul_with(pass, a, b, Epilogue::default(), out)
}

/// out\[m,n\] = activation(a\[m,k\] b\[k,n\] + bias\[n\]); with what out holds added, if it accumulates. One dispatch,
/// or one for each 16,384 of a depth k above that.
///
/// # Errors
/// As [`matmul`].
pub fn matmul_with(pass: &mut Pass, a: &Tensor, b: &Tensor, epilogue: Epilogue<'_>, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matmul";
    let Epilogue { bias, activation, accumulate, .. } = epilogue;
    let (m, depth, n) = (a.rows(), a.columns(), b.columns());
    let fits = b.rows() == depth && out.rows() == m && out.columns() == n;
    ensure(OP, fits && bias.is_none_or(|bias| bias.shape() == [n]), || {
        let bias = bias.map(Tensor::shape);
        format!("{:?} x {:?}, bias {bias:?} into {:?}", a.shape(), b.shape(), out.shape())
    })?;
    ensure_f32(OP, &[a, out, bias.unwrap_or(a)])?;
    ensure_weight(OP, b)?;
    if pass.is_cpu() {
        return accumulated(pass, accumulate, out, |_, out| cpu::matmul(a, b, out))
            .and_then(|()| cpu::epilogue(OP, bias, activation, out));
    }
    if !a.is_aligned() {
        let a = aligned(pass, a)?;
        return matmul_with(pass, &a, b, epilogue, out);
    }
    if !b.is_aligned() {
        let b = aligned(pass, b)?;
        return matmul_with(pass, a, &b, epilogue, out);
    }
    if let Some(unaligned) = bias.filter(|bias| !bias.is_aligned()) {
        let bias = Some(&aligned(pass, unaligned)?);
        return matmul_with(pass, a, b, Epilogue { bias, ..epilogue }, out);
    }
    if !out.is_aligned() {
        let run = |pass: &mut Pass, out: &mut Tensor| matmul_with(pass, a, b, epilogue, out);
        return if accumulate { in_place(pass, out, run) } else { through(pass, out, run) };
    }
    let (n_quads, broadcast) =
        (out.pitch() / 4, broadcasts(pass, &k::matmul_broadcast::KERNEL, (out, m), b.dtype().format()));
    for part in parts(depth) {
        let params = k::matmul::Params {
            m: count(OP, m)?,
            k: count(OP, part.len())?,
            depth: count(OP, part.start)?,
            x_pitch: row_quads(OP, a)?,
            w_pitch: row_quads(OP, b)?,
            n_quads: count(OP, n_quads)?,
        };
        let accumulate = (accumulate || part.start > 0).into();
        let Epilogue { bias, activation, .. } = if part.end == depth { epilogue } else { Epilogue::default() };
        let (with_bias, activation) = (bias.is_some().into(), mode(activation));
        pass.cost(flops(m, part.len(), n));
        pass.moves(bytes(&[a, b], bias, out.bytes()));
        let format = b.dtype().format();
        pass.reads(format);
        let (x, w, bias) = (a, b, bias.unwrap_or(a));
        if broadcast {
            use k::matmul_broadcast::{Args, Modes, Params, grid};
            let (knobs, params): (_, Params) = (pass.knobs_for(out, format), bytemuck::cast(params));
            let modes = Modes { accumulate, bias: with_bias, activation };
            pass.run(&Args { x, w, bias, out }, params, (knobs, modes), grid(&params, &knobs))?;
        } else {
            use k::matmul::{Args, Modes, grid};
            let (knobs, modes) = (pass.knobs_for(out, format), Modes { accumulate, bias: with_bias, activation });
            pass.run(&Args { x, w, bias, out }, params, (knobs, modes), grid(&params, &knobs))?;
        }
    }
    Ok(())
}

/// Whether a kernel for processors multiplies m rows: where the tuning chooses it, and its grid holds them. Such an adapter's
/// lanes are a vector register, which it shows as a subgroup; where none are asked for, the kernels that run anywhere do.
pub(super) fn broadcasts(pass: &Pass, kernel: &Kernel, (out, m): (&Tensor, usize), format: Format) -> bool {
    let subgroups = pass.gpu().engine().is_some_and(|engine| engine.subgroups);
    subgroups && pass.picks(kernel, false, out, format) && m.div_ceil(16) as u64 <= MAX_GROUPS
}

/// Elements of out\[m,n\] that [`matmul`] computes on a device, as a float: whole tiles, beyond the edges too.
pub(crate) fn tiled(m: usize, n: usize) -> f64 {
    let knobs = k::matmul::Knobs::default();
    let whole = |length: usize, tile: u32| (length as f64 / f64::from(tile)).ceil() * f64::from(tile);
    whole(m, knobs.bm) * whole(n, knobs.bn)
}

/// Whether a device whose bindings have at most `binding_bytes` takes a\[m,k\] b\[k,n\] of f32.
pub(crate) fn fits(binding_bytes: u64, (m, k, n): (usize, usize, usize)) -> bool {
    let knobs = k::matmul::Knobs::default();
    let held = |rows: usize, columns: usize| {
        device_bytes(&[rows, columns], DType::F32).is_ok_and(|bytes| bytes <= binding_bytes)
    };
    let groups = |length: usize, tile: u32| length as u64 <= MAX_GROUPS * u64::from(tile);
    held(m, k) && held(k, n) && held(m, n) && groups(m, knobs.bm) && groups(n, knobs.bn)
}

/// The number that the kernel has for an activation.
pub(super) fn mode(activation: Option<Activation>) -> u32 {
    match activation {
        None => 0,
        Some(Activation::Relu) => 1,
        Some(Activation::Gelu(Gelu::Tanh)) => 2,
        Some(Activation::Gelu(Gelu::Exact)) => 3,
        Some(Activation::Silu) => 4,
    }
}

/// out\[i,j,m,n\] = scale * a\[i,j,m,k\] b\[i/r,j/s,n,k\]^T, for tensors and for [`Matrices`] within tensors. The batches of a
/// are multiples of those of b, r and s to one, so that a matrix b serves every batch and a group of heads shares its keys;
/// leading dimensions of 1 may be left out. b may be f32 or f16. Rows that do not start at multiples of 16 bytes, or end
/// amid somebody else's, are copied first; f16 rows must not need it.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree; [`Error::TooLarge`](crate::Error::TooLarge) for more than 65,535 batches on a device.
pub fn matmul_transpose_b<'a, 'b>(
    pass: &mut Pass,
    a: impl Into<Matrices<'a>>,
    b: impl Into<Matrices<'b>>,
    scale: f32,
    out: &mut Tensor,
) -> Result<()> {
    transpose_b_of(pass, &a.into(), &b.into(), scale, out)
}

fn transpose_b_of(pass: &mut Pass, a: &Matrices<'_>, b: &Matrices<'_>, scale: f32, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matmul_transpose_b";
    let ([outer, inner, m, depth], [b_outer, b_inner, n, b_depth]) = (a.shape(), b.shape());
    let repeats = |of: usize, to: usize| if to == 0 { of == 0 } else { of.is_multiple_of(to) };
    let fits = depth == b_depth && repeats(outer, b_outer) && repeats(inner, b_inner);
    ensure(OP, fits && has_shape(out, [outer, inner, m, n]), || {
        format!("{:?} x {:?} transposed into {:?}", a.shape(), b.shape(), out.shape())
    })?;
    ensure_f32(OP, &[a.tensor(), out])?;
    ensure_weight(OP, b.tensor())?;
    if pass.is_cpu() {
        return cpu::matmul_transpose_b(a, b, scale, out);
    }
    if !a.reads_quads() {
        let a = aligned_copy(OP, pass, a)?;
        return transpose_b_of(pass, &Matrices::from(&a), b, scale, out);
    }
    if !b.reads_quads() {
        let b = aligned_copy(OP, pass, b)?;
        return transpose_b_of(pass, a, &Matrices::from(&b), scale, out);
    }
    transpose_b(pass, a, (b, b.dtype().format()), Epilogue::default(), scale, 0, out)
}

/// Which kernel multiplies with a transposed matrix.
enum Transposed {
    Plain,
    Broadcast,
    Matrix8,
    Matrix16,
}

impl Transposed {
    /// In halves where they are asked for and the adapter has units for them, however few the rows; the larger the matrices
    /// that those take, the better.
    fn of(pass: &Pass, (out, m): (&Tensor, usize), format: Format) -> Transposed {
        let picks = |kernel: &Kernel| pass.picks(kernel, true, out, format);
        match () {
            () if picks(&k::matmul_transpose_b_matrix16::KERNEL) => Transposed::Matrix16,
            () if picks(&k::matmul_transpose_b_matrix8::KERNEL) => Transposed::Matrix8,
            () if broadcasts(pass, &k::matmul_transpose_b_broadcast::KERNEL, (out, m), format) => Transposed::Broadcast,
            () => Transposed::Plain,
        }
    }
}

/// The dispatches of the kernel; w is the rows of a weight that make the columns of out from `column` on. Of a quantised one
/// the elements are words, and only rows and their pitch are looked at.
pub(super) fn transpose_b(
    pass: &mut Pass,
    x: &Matrices<'_>,
    (w, format): (&Matrices<'_>, Format),
    epilogue: Epilogue<'_>,
    scale: f32,
    column: usize,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "matmul_transpose_b";
    let ([outer, inner, m, depth], [w_outer, w_inner, n, _]) = (x.shape(), w.shape());
    let batches = outer * inner;
    // What exceeds 16 bits exceeds a grid too.
    let repeats = |of: usize, to: usize| count(OP, of / to.max(1)).map(|repeats| repeats & 0xffff);
    let quads = |elements: usize| count(OP, elements / 4);
    let ([x_outer, x_inner, x_pitch], [w_outer_stride, w_inner_stride, w_pitch]) = (x.strides(), w.strides());
    let whole = k::matmul_transpose_b::Params {
        m: count(OP, m)?,
        n: count(OP, n)?,
        quads: count(OP, depth.div_ceil(4))?,
        inner: count(OP, inner)?,
        repeats: repeats(outer, w_outer)? << 16 | repeats(inner, w_inner)?,
        x_offset: quads(x.offset())?,
        x_outer: quads(x_outer)?,
        x_inner: quads(x_inner)?,
        x_pitch: quads(x_pitch)?,
        w_offset: quads(w.offset())?,
        w_outer: quads(w_outer_stride)?,
        w_inner: quads(w_inner_stride)?,
        w_pitch: count(OP, w_pitch * w.dtype().bytes() / 16)?,
        out_pitch: count(OP, out.pitch())?,
        column: count(OP, column)?,
        scale,
    };
    let operands = (x.tensor(), (w.tensor(), format));
    let cut = cut(pass, &epilogue, (batches, m, depth, n));
    if cut > 1 {
        // Batches of one matrix: each begins where the one before ends, in every row.
        let mut sums = pass.tensor(&[cut, m, n])?;
        let (quads, cut, out_pitch) = (whole.quads / cut as u32, cut as u32, count(OP, sums.pitch())?);
        let (x_inner, w_inner) = (quads, quads);
        let each = k::matmul_transpose_b::Params { quads, inner: cut, x_inner, w_inner, out_pitch, column: 0, ..whole };
        multiply(pass, operands, each, (Epilogue::default(), false), cut.into(), &mut sums)?;
        return merge(pass, &sums, &epilogue, whole, out);
    }
    for part in parts(depth) {
        let added = epilogue.accumulate || part.start > 0;
        let epilogue = if part.end == depth { epilogue } else { Epilogue::default() };
        let [x_offset, w_offset] = [x.offset(), w.offset()].map(|offset| quads(offset + part.start));
        let (x_offset, w_offset, quads) = (x_offset?, w_offset?, count(OP, part.len().div_ceil(4))?);
        let params = k::matmul_transpose_b::Params { quads, x_offset, w_offset, ..whole };
        multiply(pass, operands, params, (epilogue, added), batches as u64, out)?;
    }
    Ok(())
}

/// Workgroups that keep a device busy: a guess, since a device does not tell how many it runs at once.
const BUSY: usize = 128;
/// At least as deep is a part that is worth a workgroup.
const SHALLOWEST: usize = 256;
/// More parts than this cost more to add up than they save.
const MOST_PARTS: usize = 8;

/// Parts of the depth that are multiplied side by side: as many as were asked for, or as the adapter suits.
fn cut(pass: &Pass, epilogue: &Epilogue<'_>, (batches, m, depth, n): (usize, usize, usize, usize)) -> usize {
    let software = pass.gpu().engine().is_none_or(|engine| engine.facts.software);
    let knobs = k::matmul_transpose_b::Knobs::default();
    let tiles = m.div_ceil(knobs.bm as usize) * n.div_ceil(knobs.bn as usize);
    if batches != 1 || tiles == 0 || depth > MAX_DEPTH || epilogue.activation.is_some() {
        return 1;
    }
    equal_parts(epilogue.parts.unwrap_or_else(|| busy_parts(software, tiles, depth)), depth)
}

/// As many as keep the adapter busy. A processor has no use for more of them than its few cores.
fn busy_parts(software: bool, tiles: usize, depth: usize) -> usize {
    if software { 1 } else { (BUSY / tiles).min(depth / SHALLOWEST).min(MOST_PARTS) }
}

/// At most `wanted` parts, of equally many quads.
fn equal_parts(wanted: usize, depth: usize) -> usize {
    let quads = depth.div_ceil(4);
    (2..=wanted.min(quads)).rev().find(|&parts| quads.is_multiple_of(parts)).unwrap_or(1)
}

/// out\[m,n\] of the parts in x\[parts,m,n\].
fn merge(
    pass: &mut Pass,
    x: &Tensor,
    epilogue: &Epilogue<'_>,
    whole: k::matmul_transpose_b::Params,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "linear";
    let k::matmul_transpose_b::Params { m, n, out_pitch, column, .. } = whole;
    let columns = n.next_multiple_of(4).min(out_pitch - column);
    count(OP, m as usize * columns as usize)?;
    let (parts, x_pitch) = (count(OP, x.rows())? / m, count(OP, x.pitch())?);
    let params = k::linear_merge::Params { m, n, columns, parts, x_pitch, out_pitch, column };
    let modes = k::linear_merge::Modes { accumulate: epilogue.accumulate.into(), bias: epilogue.bias.is_some().into() };
    let knobs = pass.knobs(out);
    let args = k::linear_merge::Args { x, bias: epilogue.bias.unwrap_or(x), out };
    pass.run(&args, params, (knobs, modes), k::linear_merge::grid(&params, &knobs))
}

/// One dispatch of a kernel, with what it adds and does at the end; `added`: to what is in out.
fn multiply(
    pass: &mut Pass,
    (x, (w, format)): (&Tensor, (&Tensor, Format)),
    params: k::matmul_transpose_b::Params,
    (Epilogue { bias, activation, .. }, added): (Epilogue<'_>, bool),
    batches: u64,
    out: &mut Tensor,
) -> Result<()> {
    let m = params.m as usize;
    let (kernel, lanes) = (Transposed::of(pass, (out, m), format), pass.gpu().engine().map_or(0, Engine::lanes));
    let (accumulate, with_bias, activation) = (added.into(), bias.is_some().into(), mode(activation));
    pass.cost(flops(batches as usize * m, 4 * params.quads as usize, params.n as usize));
    pass.moves(bytes(&[x, w], bias, out.bytes()));
    pass.reads(format);
    let bias = bias.unwrap_or(x);
    // They differ in how they go about it alone.
    macro_rules! run {
        ($kernel:ident $(, $lanes:ident)?) => {{
            use k::$kernel::{Args, Modes, Params, grid};
            let (knobs, params): (_, Params) = (pass.knobs_for(out, format), bytemuck::cast(params));
            let modes = Modes { accumulate, bias: with_bias, activation $(, $lanes)? };
            pass.run(&Args { x, w, bias, out }, params, (knobs, modes), grid(&params, &knobs, batches))
        }};
    }
    match kernel {
        Transposed::Plain => run!(matmul_transpose_b),
        Transposed::Broadcast => run!(matmul_transpose_b_broadcast),
        Transposed::Matrix8 => run!(matmul_transpose_b_matrix8, lanes),
        Transposed::Matrix16 => run!(matmul_transpose_b_matrix16, lanes),
    }
}

#[cfg(test)]
mod tests {
    use super::{busy_parts, equal_parts};

    /// Software adapters, on which the other tests run, have one part where none is asked for.
    #[test]
    fn parts_keep_hardware_busy_and_are_equal() {
        assert_eq!(busy_parts(true, 1, 4096), 1);
        // A prompt of a few rows, of which one tile in height covers all: 768 columns in tiles of 64.
        assert_eq!(busy_parts(false, 12, 3072), 8);
        assert_eq!(busy_parts(false, 12, 768), 3);
        assert_eq!(busy_parts(false, 48, 768), 2);
        for (tiles, depth) in [(12, 255), (129, 4096), (4096, 4096)] {
            assert!(busy_parts(false, tiles, depth) <= 1, "{tiles} tiles, {depth} deep");
        }
        assert_eq!(equal_parts(8, 3072), 8);
        assert_eq!(equal_parts(8, 768), 8);
        // 25 quads are 5 parts of 5; 7 quads are 7 parts; 11 quads of at most 8 parts are one.
        assert_eq!(equal_parts(8, 100), 5);
        assert_eq!(equal_parts(8, 26), 7);
        assert_eq!(equal_parts(8, 44), 1);
        for none in [0, 1] {
            assert_eq!(equal_parts(none, 3072), 1);
        }
    }
}
