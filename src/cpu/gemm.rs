//! The one call of the `gemm` crate. It takes pointers and strides, and trusts them; here they come from slices, and are
//! checked against their lengths.

use crate::error::{Error, Result};

/// A matrix \[rows, columns\] somewhere in a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) shape: (usize, usize),
    /// Elements from one row to the next, and from one column to the next.
    pub(super) strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// Dense rows.
    pub(super) fn dense(data: &'a [f32], (rows, columns): (usize, usize)) -> Matrix<'a> {
        Matrix { data, shape: (rows, columns), strides: (columns, 1) }
    }

    /// The same numbers with rows as columns.
    pub(super) fn transposed(self) -> Matrix<'a> {
        Matrix { data: self.data, shape: (self.shape.1, self.shape.0), strides: (self.strides.1, self.strides.0) }
    }
}

/// Elements from the first to the last one of a matrix, both included; `None` if they cannot be counted.
fn span((rows, columns): (usize, usize), (row, column): (usize, usize)) -> Option<usize> {
    if rows == 0 || columns == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(row)?.checked_add((columns - 1).checked_mul(column)?)?.checked_add(1)
}

/// out = scale * a b, or added to out if `add`; rows of out are dense. `threads`: on rayon's, else on this one.
///
/// # Errors
/// [`Error::Shape`] if the dimensions disagree, or a slice is too short for its matrix.
pub(super) fn gemm(scale: f32, a: Matrix<'_>, b: Matrix<'_>, add: bool, out: &mut [f32], threads: bool) -> Result<()> {
    let ((m, k), (depth, n)) = (a.shape, b.shape);
    let held = |matrix: Matrix<'_>| span(matrix.shape, matrix.strides).is_some_and(|span| span <= matrix.data.len());
    let steps = [a.strides.0, a.strides.1, b.strides.0, b.strides.1, n].map(isize::try_from);
    let ([Ok(a_row), Ok(a_column), Ok(b_row), Ok(b_column), Ok(out_row)], true) =
        (steps, k == depth && held(a) && held(b) && m.checked_mul(n) == Some(out.len()))
    else {
        let message = format!("[{m}, {k}] x [{depth}, {n}] into {} elements", out.len());
        return Err(Error::Shape { op: "gemm", message });
    };
    if out.is_empty() {
        return Ok(());
    }
    if k == 0 {
        if !add {
            out.fill(0.0);
        }
        return Ok(());
    }
    let parallelism = if threads { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    let (from_a, from_b, to) = (a.data.as_ptr(), b.data.as_ptr(), out.as_mut_ptr());
    #[expect(unsafe_code, reason = "the crate's interface is pointers; every element they reach was counted above")]
    // SAFETY: `span` elements from the start of a and of b lie in their slices, and all m n of out in its own; no dimension
    // is zero. The slice of out is borrowed mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            out_row,
            add,
            from_a,
            a_column,
            a_row,
            from_b,
            b_column,
            b_row,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Matrix, gemm};

    #[test]
    fn what_does_not_fit_is_an_error() {
        let data = [1.0f32; 12];
        let fits = Matrix::dense(&data, (3, 4));
        let mut out = [f32::NAN; 9];
        assert!(gemm(1.0, fits, fits.transposed(), false, &mut out, false).is_ok());
        assert_eq!(out, [4.0; 9]);
        assert!(gemm(0.5, fits, fits.transposed(), true, &mut out, true).is_ok());
        assert_eq!(out, [6.0; 9]);
        let short = Matrix::dense(&data[..11], (3, 4));
        let far = Matrix { strides: (usize::MAX, 2), ..fits };
        let long = Matrix { strides: (5, 1), ..fits };
        for (a, b, length) in [
            (short, fits.transposed(), 9),
            (fits, short.transposed(), 9),
            (far, fits.transposed(), 9),
            (long, fits.transposed(), 9),
            (fits, fits, 9),
            (fits, fits.transposed(), 8),
        ] {
            assert!(gemm(1.0, a, b, false, &mut out[..length], false).is_err(), "{a:?} {b:?}");
        }
        // Nothing to sum, and nothing to write.
        let empty = Matrix::dense(&[], (3, 0));
        assert!(gemm(1.0, empty, empty.transposed(), true, &mut out, false).is_ok());
        assert_eq!(out, [6.0; 9]);
        assert!(gemm(1.0, empty, empty.transposed(), false, &mut out, false).is_ok());
        assert_eq!(out, [0.0; 9]);
        assert!(gemm(1.0, empty.transposed(), fits, false, &mut [], false).is_ok());
    }
}
