//! What was read back: either a copy in host memory, or the readback buffer itself, mapped. On a processor or a shared bus
//! a copy of a large tensor takes as long as its kernel, so [`Pass::view`](crate::Pass::view) makes none.

use std::marker::PhantomData;

use crate::queue::seam::Mapped;
use crate::tensor::unpitch;

/// The words of a tensor, with the padding of its rows.
pub(crate) enum Fetched {
    Host(Vec<u32>),
    /// The buffer goes back to its pool when this is dropped.
    Mapped(Mapped),
}

impl Fetched {
    pub(crate) fn words(&self) -> &[u32] {
        match self {
            Fetched::Host(words) => words,
            Fetched::Mapped(mapped) => mapped.words(),
        }
    }

    /// Dense rows in memory of their own: copied once, or not at all.
    pub(crate) fn into_vec<T: bytemuck::Pod>(self, (rows, columns): (usize, usize), pitch: usize) -> Vec<T> {
        let words = match self {
            Fetched::Host(words) if columns == pitch => match bytemuck::try_cast_vec(words) {
                Ok(mut all) => {
                    all.truncate(rows * columns);
                    return all;
                }
                Err((_, words)) => Fetched::Host(words),
            },
            other => other,
        };
        unpitch(words.words(), (rows, columns), pitch)
    }
}

/// The elements of a tensor as they were read back, in rows, not copied on the host. It holds a readback buffer of the
/// pool, which a later read can use once this is dropped; [`Pass::read`](crate::Pass::read) copies and holds nothing.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
/// use std::time::Duration;
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let x = gpu.tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
/// let mut pass = gpu.pass();
/// let result = pass.view::<f32>(&x)?;
/// pass.submit()?;
/// let view = result.wait(Duration::from_secs(60))?;
/// assert_eq!(view.rows().collect::<Vec<_>>(), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]);
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Readback<T> {
    fetched: Fetched,
    rows: usize,
    columns: usize,
    pitch: usize,
    element: PhantomData<T>,
}

impl<T: bytemuck::Pod> Readback<T> {
    pub(crate) fn new(fetched: Fetched, (rows, columns): (usize, usize), pitch: usize) -> Readback<T> {
        Readback { fetched, rows, columns, pitch, element: PhantomData }
    }

    /// The rows; those of a tensor of more than two dimensions follow one another.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> {
        // `T` is as large as an element, and no element is larger than a word.
        let all: &[T] = bytemuck::try_cast_slice(self.fetched.words()).unwrap_or_default();
        let row = |i: usize| all.get(i * self.pitch..i * self.pitch + self.columns).unwrap_or_default();
        (0..self.rows).map(row)
    }
}

impl<T> std::fmt::Debug for Readback<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Readback[{}, {}]", self.rows, self.columns)
    }
}
