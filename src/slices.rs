//! Ops on host slices: upload, compute, read back. For a call now and then; what runs often keeps its tensors on the
//! device and records a [`Pass`](crate::Pass).

use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::ops;
use crate::pass::Pass;
use crate::result::AsyncGpuResult;
use crate::tensor::{STAGING_BYTES, Tensor};

/// Elements of a piece, of which two are on their way to the device at once.
const PIECE: usize = STAGING_BYTES / 2 / 4;

/// On host slices, on whichever backend is open. Matrices are dense and row-major.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?; // or Gpu, or Auto
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
/// assert_eq!(gpu.matmul(&a, &b, 2, 3, 2)?, [4.0, 5.0, 10.0, 11.0]);
/// assert_eq!(gpu.dot(&a, &b)?, 16.0);
/// assert_eq!(gpu.relu(&[-1.0, 2.0])?, [0.0, 2.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
impl GpuCompute {
    /// C\[m,n\] = a\[m,k\] b\[k,n\].
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths are not m k and k n; [`Error::TooLarge`] if a matrix is over a binding.
    pub fn matmul(&self, a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Result<Vec<f32>> {
        const OP: &str = "matmul";
        let (a, b) = self.matrices(OP, (a, [m, k]), (b, [k, n]))?;
        self.once(&[m, n], |pass, out| ops::matmul(pass, &a, &b, out))
    }

    /// C\[m,n\] = a\[m,k\] b\[n,k\]^T.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths are not m k and n k; [`Error::TooLarge`] if a matrix is over a binding.
    pub fn matmul_transpose_b(&self, a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Result<Vec<f32>> {
        const OP: &str = "matmul_transpose_b";
        let (a, b) = self.matrices(OP, (a, [m, k]), (b, [n, k]))?;
        self.once(&[m, n], |pass, out| ops::matmul_transpose_b(pass, &a, &b, 1.0, out))
    }

    /// a\[m,k\] b\[k,n\] of tensors on the device, where the product stays.
    ///
    /// # Errors
    /// As [`ops::matmul`].
    pub fn matmul_tensor(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let mut pass = self.pass();
        let mut out = pass.tensor(&[a.rows(), b.columns()])?;
        ops::matmul(&mut pass, a, b, &mut out)?;
        pass.submit()?;
        Ok(out)
    }

    /// The sum of a b, of any length; 0 where there is nothing. Within a piece of 2^23 elements, or of a binding, the error is
    /// that of [`ops::dot`]; the pieces add up in f64.
    ///
    /// # Errors
    /// [`Error::Shape`] if one is longer than the other.
    pub fn dot(&self, a: &[f32], b: &[f32]) -> Result<f32> {
        if a.len() != b.len() {
            let message = format!("{} elements . {} elements", a.len(), b.len());
            return Err(Error::Shape { op: "dot", message });
        }
        let piece = self.piece();
        let mut sums = Vec::new();
        for (a, b) in a.chunks(piece).zip(b.chunks(piece)) {
            let (a, b) = (self.tensor(a, &[a.len()])?, self.tensor(b, &[b.len()])?);
            sums.push(self.start(&[1], |pass, out| ops::dot(pass, &a, &b, out))?);
        }
        Ok(self.gather(sums)?.into_iter().map(f64::from).sum::<f64>() as f32)
    }

    /// max(x, 0) of every element, of any number of them.
    ///
    /// # Errors
    /// What the device says.
    pub fn relu(&self, x: &[f32]) -> Result<Vec<f32>> {
        self.each(x, ops::relu)
    }

    /// 1 / (1 + exp(-x)) of every element, of any number of them.
    ///
    /// # Errors
    /// What the device says.
    pub fn sigmoid(&self, x: &[f32]) -> Result<Vec<f32>> {
        self.each(x, ops::sigmoid)
    }

    /// An op in place on pieces of x.
    fn each(&self, x: &[f32], op: impl Fn(&mut Pass, &mut Tensor) -> Result<()>) -> Result<Vec<f32>> {
        let mut results = Vec::new();
        for x in x.chunks(self.piece()) {
            let mut x = self.tensor(x, &[x.len()])?;
            let mut pass = self.pass();
            op(&mut pass, &mut x)?;
            results.push(pass.read(&x)?);
            drop(x);
            pass.submit()?;
        }
        self.gather(results)
    }

    /// Elements of a piece: whole quads, within a binding.
    fn piece(&self) -> usize {
        let bound = usize::try_from(self.binding_limit() / 16).unwrap_or(usize::MAX).saturating_mul(4);
        bound.clamp(4, PIECE)
    }

    /// Both operands of a product, uploaded once the lengths of both are right.
    pub(crate) fn matrices(
        &self,
        op: &'static str,
        a: (&[f32], [usize; 2]),
        b: (&[f32], [usize; 2]),
    ) -> Result<(Tensor, Tensor)> {
        for (data, [rows, columns]) in [a, b] {
            if rows.checked_mul(columns) != Some(data.len()) {
                let message = format!("{} elements for [{rows}, {columns}]", data.len());
                return Err(Error::Shape { op, message });
            }
        }
        Ok((self.tensor(a.0, &a.1)?, self.tensor(b.0, &b.1)?))
    }

    /// What an op writes, read back.
    fn once(&self, shape: &[usize], op: impl FnOnce(&mut Pass, &mut Tensor) -> Result<()>) -> Result<Vec<f32>> {
        let result = self.start(shape, op)?;
        self.wait(result)
    }

    /// [`GpuCompute::once`], not yet waited for.
    fn start(
        &self,
        shape: &[usize],
        op: impl FnOnce(&mut Pass, &mut Tensor) -> Result<()>,
    ) -> Result<AsyncGpuResult<Vec<f32>>> {
        let mut pass = self.pass();
        let mut out = pass.tensor(shape)?;
        op(&mut pass, &mut out)?;
        let result = pass.read(&out)?;
        drop(out);
        pass.submit()?;
        Ok(result)
    }

    fn gather(&self, results: Vec<AsyncGpuResult<Vec<f32>>>) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for result in results {
            all.extend(self.wait(result)?);
        }
        Ok(all)
    }
}
