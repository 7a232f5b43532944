//! Few rows against the rows of a matrix: what decoding does all the time, and what is bound by reading that matrix.
//!
//! Halves are used as they lie, two to a word, without a table, a shuffle or a conversion of the processor's: the sign of a
//! half and the rest of it, moved to where an f32 has sign, exponent and mantissa, are that number times 2^-112, be it
//! subnormal or not. The even elements of a row are the lower halves of its words and the odd ones the upper, so x is taken
//! apart the same way, once, and multiplied by 2^96 so that no product is too small for an f32; 2^16 are left for the sum.
//! That holds for finite halves and |x| < 2^31. Anything else takes the plain way, as do all other formats but f32: rows are
//! widened a block at a time.

use half::f16;
use half::slice::HalfFloatSliceExt;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::MIN_WORK;
use super::products::{Stored, columns_of};
use super::quants::widen;

/// Rows of w that are read side by side.
const ROWS: usize = 4;
/// Elements of a row that are widened at a time: whole groups of a quantised one.
const BLOCK: usize = 512;
/// 2^96, by which x is multiplied ahead of products with halves.
const AHEAD: f32 = f32::from_bits((127 + 96) << 23);
/// 2^16, what is left to multiply the sums by.
const LEFT: f32 = 65536.0;
/// x is below it in magnitude wherever it is multiplied by [`AHEAD`].
const LARGE: f32 = f32::from_bits((127 + 31) << 23);
/// The least that an infinity or a NaN becomes when its bits are moved.
const INFINITE: f32 = f32::from_bits(31 << 23);

/// out\[m,n\] = scale * x\[m,k\] w\[n,k\]^T + bias\[n\].
pub(super) fn vectors(
    scale: f32,
    x: &[f32],
    w: Stored<'_>,
    bias: Option<&[f32]>,
    (m, k, n): (usize, usize, usize),
    out: &mut [f32],
) {
    if m * n == 0 {
        return;
    }
    let apart = match w {
        Stored::F16(_) if k.is_multiple_of(2) && x.iter().all(|v| v.abs() < LARGE) => take_apart(&x[..m * k], k),
        _ => Vec::new(),
    };
    let tasks = 4 * rayon::current_num_threads();
    let rows = n.div_ceil(tasks).max(MIN_WORK / (m * k).max(1)).next_multiple_of(ROWS);
    let part = |first_row, out| Part { scale, x, apart: &apart, w, bias, k, first_row, out };
    if rows >= n {
        return Arch::new().dispatch(part(0, out.chunks_exact_mut(n).collect()));
    }
    let parts = columns_of(out, n, rows).into_par_iter().enumerate();
    parts.for_each(|(i, out)| Arch::new().dispatch(part(i * rows, out)));
}

/// Of every row of x its even elements, then its odd ones, times 2^96.
fn take_apart(x: &[f32], k: usize) -> Vec<f32> {
    let mut apart = Vec::with_capacity(x.len());
    for row in x.chunks_exact(k.max(1)) {
        apart.extend(row.iter().step_by(2).map(|v| AHEAD * v));
        apart.extend(row.iter().skip(1).step_by(2).map(|v| AHEAD * v));
    }
    apart
}

/// Some columns of out, which are rows of w.
struct Part<'a> {
    scale: f32,
    x: &'a [f32],
    /// See [`take_apart`]; empty where that cannot be used.
    apart: &'a [f32],
    w: Stored<'a>,
    bias: Option<&'a [f32]>,
    k: usize,
    first_row: usize,
    /// Of each row of out these columns.
    out: Vec<&'a mut [f32]>,
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (m, n) = (self.out.len(), self.out.first().map_or(0, |out| out.len()));
        let whole = n / ROWS * ROWS;
        for row in (0..whole).step_by(ROWS) {
            for x in (0..m).step_by(4) {
                // Sixteen registers hold eight sums and what goes into them.
                match m - x {
                    1 => self.rows::<S, ROWS, 1>(simd, row, x),
                    2 => self.rows::<S, ROWS, 2>(simd, row, x),
                    3 => {
                        self.rows::<S, 2, 3>(simd, row, x);
                        self.rows::<S, 2, 3>(simd, row + 2, x);
                    }
                    _ => {
                        self.rows::<S, 2, 4>(simd, row, x);
                        self.rows::<S, 2, 4>(simd, row + 2, x);
                    }
                }
            }
        }
        for row in whole..n {
            for x in 0..m {
                self.rows::<S, 1, 1>(simd, row, x);
            }
        }
    }
}

impl<'a> Part<'a> {
    /// R rows of w, from `row` on, times M rows of x, from `first` on.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const M: usize>(&mut self, simd: S, row: usize, first: usize) {
        let (k, at) = (self.k, self.first_row + row);
        let sums = match self.w {
            Stored::F32(w) => {
                let w = std::array::from_fn(|r| &w[(at + r) * k..][..k]);
                dots::<S, R, M>(simd, w, std::array::from_fn(|i| &self.x[(first + i) * k..][..k]))
            }
            Stored::F16(w) => {
                let halves = std::array::from_fn(|r| &w[(at + r) * k..][..k]);
                match self.halves(simd, halves, first) {
                    Some(sums) => sums,
                    None => self.widened(simd, at, first),
                }
            }
            Stored::Bytes { .. } => self.widened(simd, at, first),
        };
        for (r, sums) in sums.into_iter().enumerate() {
            let bias = self.bias.map_or(0.0, |bias| bias[at + r]);
            for (i, sum) in sums.into_iter().enumerate() {
                self.out[first + i][row + r] = self.scale * sum + bias;
            }
        }
    }

    /// The sums of rows of halves as they lie, if that gives them.
    #[inline(always)]
    fn halves<S: Simd, const R: usize, const M: usize>(
        &self,
        simd: S,
        w: [&'a [f16]; R],
        first: usize,
    ) -> Option<[[f32; M]; R]> {
        let half = self.k / 2;
        let even = |i: usize| self.apart.get((first + i) * self.k..)?.get(..half);
        // Without x taken apart there is nothing to multiply.
        even(0).filter(|even| !even.is_empty())?;
        let mut words = [[].as_slice(); R];
        for (words, w) in words.iter_mut().zip(w) {
            *words = bytemuck::try_cast_slice::<f16, u32>(w).ok()?;
        }
        let even = std::array::from_fn(|i| even(i).unwrap_or_default());
        let odd = std::array::from_fn(|i| &self.apart[(first + i) * self.k + half..][..half]);
        let (sums, largest) = word_dots::<S, R, M>(simd, words, even, odd);
        (largest < INFINITE).then(|| sums.map(|sums| sums.map(|sum| LEFT * sum)))
    }

    /// The elements of a row of w from `start` on.
    #[inline(always)]
    fn widen_row(&self, row: usize, start: usize, wide: &mut [f32]) {
        match self.w {
            Stored::F32(w) => wide.copy_from_slice(&w[row * self.k + start..][..wide.len()]),
            Stored::F16(w) => w[row * self.k + start..][..wide.len()].convert_to_f32_slice(wide),
            Stored::Bytes { format, rows, row_bytes } => {
                widen(format, &rows[row * row_bytes..][..row_bytes], start, wide);
            }
        }
    }

    /// The sums of rows of w from `at` on, a block at a time widened.
    #[inline(always)]
    fn widened<S: Simd, const R: usize, const M: usize>(&self, simd: S, at: usize, first: usize) -> [[f32; M]; R] {
        let mut sums = [[0.0; M]; R];
        let mut wide = [[0.0; BLOCK]; R];
        for start in (0..self.k).step_by(BLOCK) {
            let length = BLOCK.min(self.k - start);
            for (r, wide) in wide.iter_mut().enumerate() {
                self.widen_row(at + r, start, &mut wide[..length]);
            }
            let x = std::array::from_fn(|i| &self.x[(first + i) * self.k + start..][..length]);
            let part = dots::<S, R, M>(simd, wide.each_ref().map(|wide| &wide[..length]), x);
            sums.iter_mut().flatten().zip(part.into_iter().flatten()).for_each(|(sum, part)| *sum += part);
        }
        sums
    }
}

/// Inner products of R rows with M others, all of the same length.
#[inline(always)]
pub(super) fn dots<S: Simd, const R: usize, const M: usize>(simd: S, w: [&[f32]; R], x: [&[f32]; M]) -> [[f32; M]; R] {
    let (w, x) = (w.map(|w| S::as_simd_f32s(w)), x.map(|x| S::as_simd_f32s(x)));
    let count = x[0].0.len();
    let (whole_w, whole_x) = (w.map(|w| &w.0[..count]), x.map(|x| &x.0[..count]));
    let mut sums = [[simd.splat_f32s(0.0); M]; R];
    for i in 0..count {
        for r in 0..R {
            for c in 0..M {
                sums[r][c] = simd.mul_add_e_f32s(whole_w[r][i], whole_x[c][i], sums[r][c]);
            }
        }
    }
    // Loops, not closures: what a closure does is compiled for any processor, unless it happens to be inlined.
    let mut products = [[0.0; M]; R];
    for r in 0..R {
        let rest = simd.partial_load_f32s(w[r].1);
        for c in 0..M {
            let sum = simd.mul_add_e_f32s(rest, simd.partial_load_f32s(x[c].1), sums[r][c]);
            products[r][c] = simd.reduce_sum_f32s(sum);
        }
    }
    products
}

/// Inner products of R rows of halves, two to a word, with the even and odd elements of M rows, all times 2^-112; and the
/// largest half, its bits moved as well.
#[inline(always)]
fn word_dots<S: Simd, const R: usize, const M: usize>(
    simd: S,
    w: [&[u32]; R],
    even: [&[f32]; M],
    odd: [&[f32]; M],
) -> ([[f32; M]; R], f32) {
    let w = w.map(|w| S::as_simd_u32s(w));
    let (even, odd) = (even.map(|x| S::as_simd_f32s(x)), odd.map(|x| S::as_simd_f32s(x)));
    let count = w[0].0.len();
    let whole = w.map(|w| &w.0[..count]);
    let (whole_even, whole_odd) = (even.map(|x| &x.0[..count]), odd.map(|x| &x.0[..count]));
    let mut sums = [[simd.splat_f32s(0.0); M]; R];
    let mut largest = simd.splat_u32s(0);
    for i in 0..count {
        for r in 0..R {
            let (low, high) = moved(simd, whole[r][i], &mut largest);
            for c in 0..M {
                sums[r][c] = simd.mul_add_e_f32s(low, whole_even[c][i], sums[r][c]);
                sums[r][c] = simd.mul_add_e_f32s(high, whole_odd[c][i], sums[r][c]);
            }
        }
    }
    let mut products = [[0.0; M]; R];
    for r in 0..R {
        let (low, high) = moved(simd, simd.partial_load_u32s(w[r].1), &mut largest);
        for c in 0..M {
            let sum = simd.mul_add_e_f32s(low, simd.partial_load_f32s(even[c].1), sums[r][c]);
            let sum = simd.mul_add_e_f32s(high, simd.partial_load_f32s(odd[c].1), sum);
            products[r][c] = simd.reduce_sum_f32s(sum);
        }
    }
    (products, simd.reduce_max_f32s(simd.transmute_f32s_u32s(largest)))
}

/// The lower and the upper halves of words, each times 2^-112. `largest` keeps up with their magnitudes.
#[inline(always)]
fn moved<S: Simd>(simd: S, words: S::u32s, largest: &mut S::u32s) -> (S::f32s, S::f32s) {
    let (low_magnitude, low) = moved_upper(simd, simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16)));
    let (high_magnitude, high) = moved_upper(simd, words);
    *largest = simd.max_u32s(*largest, simd.max_u32s(low_magnitude, high_magnitude));
    (low, high)
}

/// The magnitude of the upper halves, moved, and with their signs.
#[inline(always)]
fn moved_upper<S: Simd>(simd: S, words: S::u32s) -> (S::u32s, S::f32s) {
    let magnitude = simd.and_u32s(words, simd.splat_u32s(0x7fff_0000));
    let magnitude = simd.wrapping_dyn_shr_u32s(magnitude, simd.splat_u32s(3));
    let sign = simd.and_u32s(words, simd.splat_u32s(0x8000_0000));
    (magnitude, simd.transmute_f32s_u32s(simd.or_u32s(magnitude, sign)))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::vectors;
    use crate::cpu::products::Stored;

    /// What the case table does not draw: halves that are infinite, NaN or subnormal, and x beyond 2^31.
    #[test]
    fn unusual_halves_and_factors() {
        let (m, n) = (3, 9);
        for (k, far) in [(70, 1.0), (71, 1.0), (70, 2f32.powi(40))] {
            let x: Vec<f32> = (0..m * k).map(|i| far * ((i % 13) as f32 - 6.5)).collect();
            let mut w: Vec<f16> = (0..n * k).map(|i| f16::from_f32((i % 11) as f32 - 5.0)).collect();
            for (row, bits) in [(1, 0x7c00), (3, 0xfc00), (6, 0x7e01)] {
                w[row * k + 2] = f16::from_bits(bits);
            }
            // Every magnitude of a subnormal half, and both signs.
            (0..k).for_each(|i| w[8 * k + i] = f16::from_bits((i * 29 % 1024) as u16 | ((i % 2) as u16) << 15));
            let mut out = vec![0.0; m * n];
            vectors(0.5, &x, Stored::F16(&w), None, (m, k, n), &mut out);
            for (i, &got) in out.iter().enumerate() {
                let pairs = x[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]);
                let products: Vec<f64> = pairs.map(|(x, w)| 0.5 * f64::from(*x) * w.to_f64()).collect();
                let (sum, size): (f64, f64) = (products.iter().sum(), products.iter().map(|v| v.abs()).sum());
                let got = f64::from(got);
                let same = got == sum || got.is_nan() && sum.is_nan() || (got - sum).abs() <= 1e-5 * size;
                assert!(same, "k {k}, {far}, element {i}: {got} for {sum}");
            }
        }
    }
}
