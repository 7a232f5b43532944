//! The layers of a model: a product with a weight, and what stands around it.
//!
//! There are two ways to multiply because there are two bounds: a few rows are limited by how fast the weight is read, and
//! each weight is read once by a kernel that spends no thought on tiles; more rows are limited by arithmetic, and tiles
//! reuse what they read. The caller says `linear`, and the number of rows decides.
//!
//! Where rows are few the dispatches themselves are what takes time on a discrete adapter, some microseconds each. So a
//! layer there takes the norm before it, the gate after it and the addition to the residual stream into its own dispatch.

use super::matrices::Matrices;
use super::products::{Epilogue, bytes, mode, transpose_b};
use super::{accumulated, aligned, count, ensure, ensure_f32, flops, layer_norm, rms_norm, row_quads, swiglu};
use crate::cpu;
use crate::error::Result;
use crate::kernel::{Format, kernels as k};
use crate::pass::Pass;
use crate::reference::Activation;
use crate::tensor::{Chunk, Tensor, Weight};

/// Rows up to which a product is matrix times vectors rather than matrix times matrix.
pub const MATVEC_ROWS: usize = 8;

/// How rows are normalised: with a bias [`layer_norm`](super::layer_norm), without [`rms_norm`](super::rms_norm).
///
/// ```
/// use gristmill::ops::{self, Epilogue, Norm};
/// use gristmill::{ComputeBackend, Format, GpuCompute, Weight};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let x = gpu.tensor(&[3.0, 4.0], &[1, 2])?;
/// let ones = gpu.tensor(&[1.0, 1.0], &[2])?;
/// let w = Weight::from_f32(&gpu, &[2.0, 0.0, 0.0, 1.0], (2, 2), Format::F32)?;
/// let (mut pass, mut out) = (gpu.pass(), gpu.zeros(&[1, 2])?);
/// let norm = Norm { weight: &ones, bias: None, eps: 0.0 };
/// ops::norm_linear(&mut pass, &x, Some(&norm), &w, Epilogue::default(), false, &mut out)?;
/// pass.submit()?;
/// let root_mean_square = 12.5f32.sqrt();
/// assert_eq!(gpu.read::<f32>(&out)?, [6.0 / root_mean_square, 4.0 / root_mean_square]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// A factor per column, `[n]`.
    pub weight: &'a Tensor,
    /// A summand per column, `[n]`.
    pub bias: Option<&'a Tensor>,
    /// Added to the variance, or to the mean square.
    pub eps: f32,
}

impl Norm<'_> {
    /// The norm of rows `first_row..first_row + m` of x, into out\[m,n\].
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree.
    pub fn of(&self, pass: &mut Pass, (x, first_row): (&Tensor, usize), out: &mut Tensor) -> Result<()> {
        match self.bias {
            Some(bias) => layer_norm(pass, (x, first_row), self.weight, bias, self.eps, out),
            None => rms_norm(pass, (x, first_row), self.weight, self.eps, out),
        }
    }
}

/// out\[m,n\] = x\[m,k\] w\[n,k\]^T + bias\[n\]: a layer of a model. Few rows take [`matvec`], more take the kernels of
/// [`matmul_transpose_b`](super::matmul_transpose_b); a weight in chunks takes a dispatch per chunk. More rows take one
/// for each 16,384 of a depth k above that, and another, `linear_merge`, where the depth is cut into parts
/// ([`Epilogue::parts`]).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree, or x, bias or out is not f32.
pub fn linear(pass: &mut Pass, x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &mut Tensor) -> Result<()> {
    linear_with(pass, x, w, Epilogue { bias, ..Epilogue::default() }, out)
}

/// [`linear`] with an [`Epilogue`], which takes no dispatch of its own; with an activation the depth is not cut.
///
/// # Errors
/// As [`linear`].
pub fn linear_with(pass: &mut Pass, x: &Tensor, w: &Weight, epilogue: Epilogue<'_>, out: &mut Tensor) -> Result<()> {
    if x.rows() <= MATVEC_ROWS || pass.is_cpu() {
        return matvec_with(pass, x, w, epilogue, out);
    }
    check_linear("linear", x, w, (epilogue.bias, 1), out)?;
    if !x.is_aligned() {
        let x = aligned(pass, x)?;
        return linear_with(pass, &x, w, epilogue, out);
    }
    // Whatever its dimensions, x is rows here.
    let rows = x.first_rows(x.rows())?;
    for chunk in &w.chunks {
        let rows_of_w = (&Matrices::from(&chunk.tensor), chunk.format);
        transpose_b(pass, &Matrices::from(&rows), rows_of_w, epilogue, 1.0, chunk.first_row, out)?;
    }
    Ok(())
}

/// [`linear_with`] of norm(x), or of x, and gated if so asked: then w\[2n,k\] holds the rows of a gate and after them those of another
/// layer, and out\[m,n\] = silu(first) * second, as [`swiglu`](super::swiglu) has it. For up to [`MATVEC_ROWS`] rows and a weight in one
/// chunk all of it is one dispatch; else the norm and the gate have their own.
///
/// # Errors
/// As [`linear`]; [`Error::Shape`](crate::Error::Shape) too if a gated layer has another activation or is to
/// accumulate, or the norm another shape or type; [`Error::Alias`](crate::Error::Alias) if out shares a buffer with x
/// or the norm.
pub fn norm_linear(
    pass: &mut Pass,
    x: &Tensor,
    norm: Option<&Norm<'_>>,
    w: &Weight,
    epilogue: Epilogue<'_>,
    gated: bool,
    out: &mut Tensor,
) -> Result<()> {
    const OP: &str = "norm_linear";
    check_linear(OP, x, w, (epilogue.bias, 1 + usize::from(gated)), out)?;
    let plain = epilogue.activation.is_none() && !epilogue.accumulate;
    ensure(OP, !gated || plain, || format!("{epilogue:?} of a gated layer"))?;
    let vectors = || [norm.map(|norm| norm.weight), norm.and_then(|norm| norm.bias)].into_iter().flatten();
    ensure(OP, vectors().all(|t| t.shape() == [x.columns()]), || format!("x {:?}, {norm:?}", x.shape()))?;
    vectors().try_for_each(|t| ensure_f32(OP, &[t]))?;
    if let Some(Norm { weight, bias, .. }) = norm {
        // Where there are several dispatches, none of them sees all of these.
        let operands = [("x", x), ("norm.weight", weight), ("norm.bias", bias.unwrap_or(weight)), ("out", out)];
        match pass.is_cpu() {
            true => cpu::check_apart(OP, &operands, 1)?,
            false => pass.check_apart(OP, operands.get(..3).unwrap_or_default(), ("out", out))?,
        }
    }
    let whole = x.rows() <= MATVEC_ROWS && !pass.is_cpu() && (!gated || w.chunks.len() == 1);
    if whole && x.is_aligned() && vectors().all(Tensor::is_aligned) {
        return products(pass, x, w, &Around { norm, gated, ..Around::from(epilogue) }, out);
    }
    if let Some(norm) = norm {
        let mut normed = pass.tensor(x.shape())?;
        norm.of(pass, (x, 0), &mut normed)?;
        return norm_linear(pass, &normed, None, w, epilogue, gated, out);
    }
    if !gated {
        return linear_with(pass, x, w, epilogue, out);
    }
    let mut both = pass.tensor(&[x.rows(), w.rows()])?;
    linear_with(pass, x, w, epilogue, &mut both)?;
    swiglu(pass, &both, out)
}

/// `parts` rows of w make one column of out.
fn check_linear(
    op: &'static str,
    x: &Tensor,
    w: &Weight,
    (bias, parts): (Option<&Tensor>, usize),
    out: &Tensor,
) -> Result<()> {
    let message = || {
        let bias = bias.map(Tensor::shape);
        let w = [w.rows(), w.columns()];
        format!("x {:?}, w {w:?}, bias {bias:?} into {:?}", x.shape(), out.shape())
    };
    let columns = out.columns().checked_mul(parts);
    let fits = x.columns() == w.columns() && out.rows() == x.rows() && columns == Some(w.rows());
    ensure(op, fits && bias.is_none_or(|bias| bias.shape() == [w.rows()]), message)?;
    ensure_f32(op, &[x, out])?;
    bias.map_or(Ok(()), |bias| ensure_f32(op, &[bias]))
}

/// out\[m,n\] = x\[m,k\] w\[n,k\]^T + bias\[n\] for m = 1..=8. The subgroup kernel where the adapter has subgroups, else the
/// plain one; on processors one that reads floats and halves as larger numbers, where k is a multiple of 32.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the dimensions disagree or m > 8.
pub fn matvec(pass: &mut Pass, x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &mut Tensor) -> Result<()> {
    matvec_with(pass, x, w, Epilogue { bias, ..Epilogue::default() }, out)
}

/// [`matvec`] with an activation of what it writes, in the same dispatches.
///
/// # Errors
/// As [`matvec`].
pub fn matvec_with(pass: &mut Pass, x: &Tensor, w: &Weight, epilogue: Epilogue<'_>, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matvec";
    let Epilogue { bias, activation, accumulate, .. } = epilogue;
    check_linear(OP, x, w, (bias, 1), out)?;
    if pass.is_cpu() {
        let added = bias.filter(|_| !accumulate);
        accumulated(pass, accumulate, out, |_, out| cpu::linear(x, w, added, out))?;
        return cpu::epilogue(OP, bias.filter(|_| accumulate), activation, out);
    }
    let m = x.rows();
    ensure(OP, m <= MATVEC_ROWS, || format!("{m} rows of x; at most {MATVEC_ROWS}"))?;
    if !x.is_aligned() {
        let x = aligned(pass, x)?;
        return matvec_with(pass, &x, w, epilogue, out);
    }
    products(pass, x, w, &Around::from(epilogue), out)
}

/// What stands around the products of a few rows.
#[derive(Default)]
struct Around<'a> {
    norm: Option<&'a Norm<'a>>,
    gated: bool,
    epilogue: Epilogue<'a>,
}

impl<'a> From<Epilogue<'a>> for Around<'a> {
    fn from(epilogue: Epilogue<'a>) -> Around<'a> {
        Around { epilogue, ..Around::default() }
    }
}

/// The dispatches of the kernels, one per chunk of w.
fn products(pass: &mut Pass, x: &Tensor, w: &Weight, around: &Around<'_>, out: &mut Tensor) -> Result<()> {
    const OP: &str = "matvec";
    let &Around { norm, gated, epilogue: Epilogue { bias, activation, accumulate, .. } } = around;
    let m = x.rows();
    if m == 0 {
        return Ok(());
    }
    let subgroups = pass.gpu().engine().is_some_and(|engine| engine.subgroups);
    let parts = 1 + usize::from(gated);
    let activation = if gated { Some(Activation::Silu) } else { activation };
    for (chunk, columns) in chunk_columns(w, parts, out) {
        let params = k::matvec::Params {
            n: count(OP, chunk.tensor.rows() / parts)?,
            k: count(OP, x.columns())?,
            x_pitch: row_quads(OP, x)?,
            w_pitch: row_quads(OP, &chunk.tensor)?,
            out_pitch: count(OP, out.pitch())?,
            column: count(OP, chunk.first_row)?,
            columns: count(OP, columns)?,
            eps: norm.map_or(0.0, |norm| norm.eps),
        };
        let (w, format) = (&chunk.tensor, chunk.format);
        let (gain, shift) = (norm.map_or(x, |norm| norm.weight), norm.and_then(|norm| norm.bias));
        let by_mean = shift.is_some();
        let (bias_or_any, shift, with_bias) = (bias.unwrap_or(x), shift.unwrap_or(x), bias.is_some().into());
        let norm = norm.map_or(0, |_| 1 + u32::from(by_mean));
        let (accumulate, gated, activation) = (accumulate.into(), gated.into(), mode(activation));
        pass.reads(format);
        pass.cost(flops(m, x.columns(), w.rows()));
        pass.moves(bytes(&[x, w], bias, (4 * m * columns) as u64));
        let halves = match format {
            Format::F32 => Some(false),
            Format::F16 => Some(true),
            _ => None,
        };
        let wide = halves.filter(|_| norm == 0 && x.columns().is_multiple_of(32));
        let wide = wide.filter(|_| pass.picks(&k::matvec_wide::KERNEL, false, out, format));
        if let Some(halves) = wide {
            use k::matvec_wide::{Args, Modes, Params, grid};
            let knobs = pass.knobs_for(out, format);
            let modes = Modes { m: m as u32, half: halves.into(), bias: with_bias, activation, accumulate, gated };
            let k::matvec::Params { n, k, x_pitch, w_pitch, out_pitch, column, columns, .. } = params;
            let (x_pitch, w_pitch) = (x_pitch / 2, w_pitch / 2);
            let params = Params { n, blocks: k / 32, x_pitch, w_pitch, out_pitch, column, columns };
            let groups = grid(&params, &knobs);
            pass.run(&Args { x, w, bias: bias_or_any, out }, params, (knobs, modes), groups)?;
        } else if subgroups && !pass.picks(&k::matvec::KERNEL, false, out, format) {
            use k::matvec_subgroup::{Args, Modes, Params, grid};
            let knobs = pass.knobs_for(out, format);
            let modes = Modes { m: m as u32, bias: with_bias, activation, accumulate, norm, gated };
            let params: Params = bytemuck::cast(params);
            let groups = grid(&params, &knobs);
            let args = Args { x, w, bias: bias_or_any, gain, shift, out };
            pass.run(&args, params, (knobs, modes), groups)?;
        } else {
            use k::matvec::{Args, Modes, grid};
            let knobs = pass.knobs_for(out, format);
            let modes = Modes { m: m as u32, bias: with_bias, activation, accumulate, norm, gated };
            let groups = grid(&params, &knobs);
            let args = Args { x, w, bias: bias_or_any, gain, shift, out };
            pass.run(&args, params, (knobs, modes), groups)?;
        }
    }
    Ok(())
}

/// The chunks of w, each with the columns of out it writes: the last one also writes the row's padding.
fn chunk_columns<'a>(w: &'a Weight, parts: usize, out: &Tensor) -> Vec<(&'a Chunk, usize)> {
    let pitch = out.pitch();
    let columns = |chunk: &Chunk| {
        let end = chunk.first_row + chunk.tensor.rows();
        if end == w.rows() { pitch - chunk.first_row } else { chunk.tensor.rows() / parts }
    };
    w.chunks.iter().map(|chunk| (chunk, columns(chunk))).collect()
}
