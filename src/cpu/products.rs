//! Products on the host: few rows by loops of our own, many by the `gemm` crate. Halves stay halves: a block of them that
//! fits the cache is widened, used and forgotten.

use half::f16;
use half::slice::HalfFloatSliceExt;
use pulp::Arch;
use rayon::prelude::*;

use super::gemm::{Matrix, gemm};
use super::quants::{row_bytes, widen};
use super::vectors::vectors;
use super::{floats, floats_mut, lock};
use crate::error::Result;
use crate::kernel::Format;
use crate::ops::MATVEC_ROWS;
use crate::tensor::{Chunk, DType, Tensor, Weight};

/// Halves that are widened at a time: as f32 they take half of a core's second cache.
const PANEL: usize = 128 << 10;
/// Columns of a panel at least, so that a product with it is worth calling.
const PANEL_COLUMNS: usize = 32;
/// Rows of x that meet a panel at a time.
const PANEL_ROWS: usize = 512;

/// The elements of a matrix as they are stored.
#[derive(Clone, Copy)]
pub(super) enum Stored<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// Rows that are read by [`widen`], and the bytes of each.
    Bytes {
        format: Format,
        rows: &'a [u8],
        row_bytes: usize,
    },
}

impl<'a> Stored<'a> {
    /// A weight's rows of `columns`.
    fn new(words: &'a [u32], format: Format, columns: usize) -> Stored<'a> {
        match format {
            Format::F32 => Stored::F32(floats(words)),
            Format::F16 => Stored::F16(bytemuck::cast_slice(words)),
            _ => Stored::Bytes { format, rows: bytemuck::cast_slice(words), row_bytes: row_bytes(format, columns) },
        }
    }
}

pub(crate) fn matmul(a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    let (shape, dtype) = ((a.rows(), a.columns(), b.columns()), b.dtype());
    let mut locked = lock("matmul", [("a", a), ("b", b)], ("out", out))?;
    let ([a, b], out) = locked.parts();
    let (m, k, n) = shape;
    match dtype {
        DType::F16 => {
            let b: &[f16] = bytemuck::cast_slice(b);
            // Of every row of b the part that belongs to these columns of out.
            let widen = |first: usize, panel: &mut [f32]| {
                let columns = panel.len() / k.max(1);
                for (part, row) in panel.chunks_mut(columns.max(1)).zip(b.chunks(n)) {
                    row[first..][..columns].convert_to_f32_slice(part);
                }
                (columns, 1)
            };
            panels(1.0, floats(a), widen, None, shape, floats_mut(out))
        }
        _ => {
            gemm(1.0, Matrix::dense(floats(a), (m, k)), Matrix::dense(floats(b), (k, n)), false, floats_mut(out), true)
        }
    }
}

/// out\[m,n\] = a\[m,k\] b\[k,n\], or a b\[n,k\]^T if `transposed`, where all of them lie: nothing is copied.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if a slice is not as long as its matrix.
pub(crate) fn product_of_slices(
    a: &[f32],
    b: &[f32],
    transposed: bool,
    (m, k, n): (usize, usize, usize),
    out: &mut [f32],
) -> Result<()> {
    if transposed && b.len() == n.saturating_mul(k) && a.len() == m.saturating_mul(k) {
        return transpose_b(1.0, a, Stored::F32(b), None, (m, k, n), out);
    }
    gemm(1.0, Matrix::dense(a, (m, k)), Matrix::dense(b, (k, n)), false, out, true)
}

pub(crate) fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &Tensor) -> Result<()> {
    let (m, k, columns) = (x.rows(), x.columns(), w.rows());
    for Chunk { first_row, format, tensor } in &w.chunks {
        let (first, n) = (*first_row, tensor.rows());
        let inputs = [("x", x), ("w", tensor), ("bias", bias.unwrap_or(x))];
        let mut locked = lock("linear", inputs, ("out", out))?;
        let ([x, w, some], out) = locked.parts();
        let (x, w, out) = (floats(x), Stored::new(w, *format, k), floats_mut(out));
        let bias = bias.map(|_| &floats(some)[first..][..n]);
        // The columns of a chunk lie together if they are all there are, or if there is one row.
        if n == columns || m == 1 {
            transpose_b(1.0, x, w, bias, (m, k, n), &mut out[first..][..m * n])?;
            continue;
        }
        let mut product = vec![0.0; m * n];
        transpose_b(1.0, x, w, bias, (m, k, n), &mut product)?;
        for (out, product) in out.chunks_exact_mut(columns).zip(product.chunks_exact(n.max(1))) {
            out[first..][..n].copy_from_slice(product);
        }
    }
    Ok(())
}

/// out\[m,n\] = scale * x\[m,k\] w\[n,k\]^T + bias\[n\].
pub(super) fn transpose_b(
    scale: f32,
    x: &[f32],
    w: Stored<'_>,
    bias: Option<&[f32]>,
    (m, k, n): (usize, usize, usize),
    out: &mut [f32],
) -> Result<()> {
    if m <= MATVEC_ROWS {
        vectors(scale, x, w, bias, (m, k, n), out);
        return Ok(());
    }
    match w {
        Stored::F32(w) => {
            if let Some(bias) = bias {
                out.chunks_exact_mut(n.max(1)).for_each(|row| row.copy_from_slice(bias));
            }
            let w = Matrix::dense(&w[..n * k], (n, k)).transposed();
            gemm(scale, Matrix::dense(x, (m, k)), w, bias.is_some(), out, true)
        }
        Stored::F16(w) => {
            let widen = |first: usize, panel: &mut [f32]| {
                w[first * k..][..panel.len()].convert_to_f32_slice(panel);
                (1, k)
            };
            panels(scale, x, widen, bias, (m, k, n), out)
        }
        Stored::Bytes { format, rows, row_bytes } => {
            let arch = Arch::new();
            let widen = |first: usize, panel: &mut [f32]| {
                let rows = rows[first * row_bytes..].chunks(row_bytes.max(1));
                // A call for all rows, so that the loops in it are compiled for this processor.
                arch.dispatch(|| {
                    for (wide, row) in panel.chunks_exact_mut(k.max(1)).zip(rows) {
                        widen(format, row, 0, wide);
                    }
                });
                (1, k)
            };
            panels(scale, x, widen, bias, (m, k, n), out)
        }
    }
}

/// out\[m,n\] = scale * x\[m,k\] b + bias, some columns at a time: `widen(first, panel)` fills the panel with k elements of
/// each of them and returns their strides.
fn panels(
    scale: f32,
    x: &[f32],
    widen: impl Fn(usize, &mut [f32]) -> (usize, usize) + Sync,
    bias: Option<&[f32]>,
    (m, k, n): (usize, usize, usize),
    out: &mut [f32],
) -> Result<()> {
    if m * n == 0 {
        return Ok(());
    }
    let per_thread = n.div_ceil(2 * rayon::current_num_threads());
    let columns = (PANEL / k.max(1)).min(per_thread) / PANEL_COLUMNS * PANEL_COLUMNS;
    let columns = columns.max(PANEL_COLUMNS).min(n);
    for (block, out) in out.chunks_mut(PANEL_ROWS * n).enumerate() {
        let m = out.len() / n;
        let x = Matrix::dense(&x[block * PANEL_ROWS * k..][..m * k], (m, k));
        let buffers = || (Vec::new(), Vec::new());
        let of_all = columns_of(out, n, columns).into_par_iter().enumerate();
        of_all.try_for_each_init(buffers, |(panel, product), (i, mut pieces)| {
            let (first, count) = (i * columns, pieces.first().map_or(0, |piece| piece.len()));
            panel.resize(k * count, 0.0);
            let strides = widen(first, panel);
            product.resize(m * count, 0.0);
            if let Some(bias) = bias {
                product.chunks_exact_mut(count).for_each(|row| row.copy_from_slice(&bias[first..][..count]));
            }
            let b = Matrix { data: panel, shape: (k, count), strides };
            gemm(scale, x, b, bias.is_some(), product, false)?;
            for (piece, row) in pieces.iter_mut().zip(product.chunks_exact(count)) {
                piece.copy_from_slice(row);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The rows of out\[m,n\] in pieces of `columns`: of each piece its part of every row.
pub(super) fn columns_of(out: &mut [f32], n: usize, columns: usize) -> Vec<Vec<&mut [f32]>> {
    let rows = out.len() / n;
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..n.div_ceil(columns)).map(|_| Vec::with_capacity(rows)).collect();
    for row in out.chunks_exact_mut(n) {
        for (piece, part) in pieces.iter_mut().zip(row.chunks_mut(columns)) {
            piece.push(part);
        }
    }
    pieces
}
