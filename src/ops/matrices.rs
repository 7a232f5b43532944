//! Matrices that lie within a tensor: the operands of batched products.
//!
//! The heads of an activation are columns of its rows. Copying them into matrices of their own, as a product of plain
//! tensors would ask, costs a dispatch and the memory for each of q, k and v. A view is an offset and strides that the
//! kernel takes as they are. It can only be cut from a tensor and made smaller, so none reaches outside its tensor and no
//! check has to be made again. General strides were refused: elements of a row stay neighbours, because a kernel reads them
//! four at a time. What does not start at a multiple of 16 bytes is copied first.

use std::ops::Range;

use super::{count, ensure};
use crate::cpu;
use crate::error::Result;
use crate::kernel::kernels as k;
use crate::pass::Pass;
use crate::tensor::{DType, Tensor};

/// Matrices `[outer, inner, rows, columns]` within a tensor: a first element, and how far it is from one outer batch, inner
/// batch and row to the next. The elements of a row are neighbours. Every view is cut from a tensor and only ever becomes
/// smaller, so none reaches outside it.
///
/// A tensor of less than four dimensions is one with leading dimensions of 1; a vector is a matrix of one row.
///
/// ```
/// use gristmill::ops::{self, Matrices};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let x = gpu.tensor(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], &[2, 2, 2])?; // [m, heads, d]
/// let heads = Matrices::from(&x).permuted([0, 2, 1])?; // a matrix [m, d] of each head, and nothing is moved
/// assert_eq!(heads.shape(), [1, 2, 2, 2]);
/// let (mut pass, mut scores) = (gpu.pass(), gpu.zeros(&[2, 2, 2])?);
/// ops::matmul_transpose_b(&mut pass, heads, heads, 1.0, &mut scores)?;
/// pass.submit()?;
/// assert_eq!(gpu.read::<f32>(&scores)?, [1.0, 5.0, 5.0, 41.0, 13.0, 33.0, 33.0, 85.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Matrices<'a> {
    tensor: &'a Tensor,
    /// The first element.
    offset: usize,
    /// Outer batches, inner batches, rows.
    counts: [usize; 3],
    /// Elements from one of them to the next.
    strides: [usize; 3],
    /// The columns of the tensor that belong to it.
    columns: (usize, usize),
}

impl<'a> From<&'a Tensor> for Matrices<'a> {
    fn from(tensor: &'a Tensor) -> Matrices<'a> {
        let [outer, inner, rows, columns] = four(tensor.shape());
        // A tensor without elements may have dimensions whose product no machine word holds, and nothing to stride over.
        let row = if tensor.rows() == 0 { 0 } else { tensor.pitch() };
        let strides = [inner * rows * row, rows * row, row];
        let strides = if row == 0 { [0; 3] } else { strides };
        Matrices { tensor, offset: 0, counts: [outer, inner, rows], strides, columns: (0, columns) }
    }
}

/// A shape of at most four dimensions with leading ones.
fn four(shape: &[usize]) -> [usize; 4] {
    let mut dims = [1; 4];
    for (to, &dimension) in dims.iter_mut().rev().zip(shape.iter().rev()) {
        *to = dimension;
    }
    dims
}

impl<'a> Matrices<'a> {
    /// The same elements with outer batches, inner batches and rows in another order: dimension i of the result is
    /// dimension `order[i]` of this. `[0, 2, 1]` makes batches of the heads of an activation `[m, heads, d]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) unless `order` has 0, 1 and 2.
    pub fn permuted(self, order: [usize; 3]) -> Result<Matrices<'a>> {
        let mut sorted = order;
        sorted.sort_unstable();
        ensure("Matrices", sorted == [0, 1, 2], || format!("{order:?} is no order of three dimensions"))?;
        let (counts, strides) = (order.map(|i| self.counts[i]), order.map(|i| self.strides[i]));
        Ok(Matrices { counts, strides, ..self })
    }

    /// Some rows of every matrix.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) unless there are such rows.
    pub fn rows(self, range: Range<usize>) -> Result<Matrices<'a>> {
        let [outer, inner, rows] = self.counts;
        ensure("Matrices", range.start <= range.end && range.end <= rows, || format!("rows {range:?} of {rows}"))?;
        let offset = self.offset + range.start * self.strides[2];
        Ok(Matrices { offset, counts: [outer, inner, range.len()], ..self })
    }

    /// Some columns of every matrix.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) unless there are such columns.
    pub fn columns(self, range: Range<usize>) -> Result<Matrices<'a>> {
        let columns = self.shape()[3];
        let fits = range.start <= range.end && range.end <= columns;
        ensure("Matrices", fits, || format!("columns {range:?} of {columns}"))?;
        let first = self.columns.0;
        let offset = self.offset + range.start;
        Ok(Matrices { offset, columns: (first + range.start, first + range.end), ..self })
    }

    /// `[outer, inner, rows, columns]`.
    pub fn shape(&self) -> [usize; 4] {
        let [outer, inner, rows] = self.counts;
        [outer, inner, rows, self.columns.1 - self.columns.0]
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.tensor.dtype()
    }

    pub(crate) fn tensor(&self) -> &'a Tensor {
        self.tensor
    }

    /// The first element, counted from the beginning of the tensor.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Elements from one outer batch, inner batch and row to the next.
    pub(crate) fn strides(&self) -> [usize; 3] {
        self.strides
    }

    /// Whether a kernel may read quads: all rows start at multiples of 16 bytes, and what a last quad holds beyond the
    /// columns is zero, not somebody else's elements.
    pub(crate) fn reads_quads(&self) -> bool {
        let (_, end) = self.columns;
        let whole = end == self.tensor.columns() || self.shape()[3].is_multiple_of(4);
        let starts = self.strides.into_iter().chain([self.offset]);
        whole && starts.map(|at| at * self.dtype().bytes()).all(|byte| byte.is_multiple_of(16))
    }

    /// The words of every row in order, dense; `words` are those of the tensor.
    pub(crate) fn gather<'w>(&self, words: &'w [u32]) -> impl Iterator<Item = &'w [u32]> {
        let (Matrices { offset, strides, .. }, [outer, inner, rows, columns]) = (*self, self.shape());
        let batches = (0..outer).flat_map(move |i| (0..inner).map(move |j| i * strides[0] + j * strides[1]));
        let starts = batches.flat_map(move |batch| (0..rows).map(move |row| offset + batch + row * strides[2]));
        starts.map(move |start| words.get(start..start + columns).unwrap_or_default())
    }
}

/// Whether a tensor has the shape `[outer, inner, rows, columns]`, leading ones aside.
pub(super) fn has_shape(tensor: &Tensor, shape: [usize; 4]) -> bool {
    four(tensor.shape()) == shape
}

/// out\[outer,inner,m,n\] = x\[outer,inner,m,n\], the elements of a view as a tensor of their own; 32-bit elements of any
/// kind.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) if the shapes disagree, or for f16.
pub fn contiguous<'a>(pass: &mut Pass, x: impl Into<Matrices<'a>>, out: &mut Tensor) -> Result<()> {
    const OP: &str = "repitch";
    let x: Matrices<'a> = x.into();
    let shape @ [_, inner, m, n] = x.shape();
    let fits = has_shape(out, shape) && x.dtype() == out.dtype() && x.dtype().bytes() == 4;
    ensure(OP, fits, || format!("{x:?} to {out:?}; rows of halves must start at multiples of 16 bytes"))?;
    if pass.is_cpu() {
        return cpu::contiguous(&x, out);
    }
    let ([x_outer, x_inner, x_pitch], rows) = (x.strides, out.rows());
    let params = k::repitch::Params {
        rows: count(OP, rows)?,
        m: count(OP, m)?,
        inner: count(OP, inner)?,
        n: count(OP, n)?,
        x_offset: count(OP, x.offset)?,
        x_outer: count(OP, x_outer)?,
        x_inner: count(OP, x_inner)?,
        x_pitch: count(OP, x_pitch)?,
        out_pitch: count(OP, out.pitch())?,
    };
    let knobs = pass.knobs(out);
    let args = k::repitch::Args { x: x.tensor, out };
    pass.run(&args, params, (knobs, Default::default()), k::repitch::grid(&params, &knobs))
}

/// A copy of a view in scratch memory, rows at multiples of 16 bytes.
pub(super) fn aligned_copy(op: &'static str, pass: &mut Pass, x: &Matrices<'_>) -> Result<Tensor> {
    ensure(op, x.dtype().bytes() == 4, || {
        let need =
            "rows of f16 must start at multiples of 8 elements, and end where the tensor's do or after a multiple of 4";
        format!("{:?} of {:?}: {need}; choose such columns, or f32", x.shape(), x.tensor)
    })?;
    let mut copy = pass.tensor_of(&x.shape(), x.dtype())?;
    contiguous(pass, *x, &mut copy)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ops};

    #[test]
    fn f16_views_that_cannot_be_read_in_quads_are_refused() {
        // Said aloud where there is no adapter: the host reads any view.
        let Some((gpu, _)) = crate::faults::open(|_| ()) else { return };
        let b = gpu.exact_tensor(&[2, 3, 21], DType::F16).unwrap();
        let outcome = |columns: Range<usize>| {
            let a = gpu.zeros(&[2, 4, columns.len()]).unwrap();
            let mut pass = gpu.pass();
            let mut out = pass.tensor(&[2, 4, 3]).unwrap();
            let b = Matrices::from(&b).columns(columns).unwrap();
            ops::matmul_transpose_b(&mut pass, &a, b, 1.0, &mut out)
        };
        for columns in [0..21, 8..21, 16..21, 0..4, 8..20] {
            assert!(outcome(columns.clone()).is_ok(), "{columns:?}");
        }
        for columns in [1..21, 4..8, 0..7, 8..19] {
            let outcome = outcome(columns.clone());
            let refused = matches!(&outcome, Err(Error::Shape { op: "matmul_transpose_b", .. }));
            assert!(refused, "{columns:?}: {outcome:?}");
        }
    }
}
