//! Cases of products of views: batches, repeats, permutations and parts of tensors. And of the numbers and the identities
//! that products must get right whatever their shape.
//!
//! A view is four strides and an offset, and two of them exchanged give a product of the same size from the wrong elements.
//! So views are cut from larger tensors whose other elements are numbers as well: whoever reads those computes something
//! else.

use super::bounds;
use super::inputs::{Fill, Inputs};
use super::products::{Sizes, check, magnitudes};
use super::runner::{Bench, Stop, compare, compare_words};
use super::stored::Stored;
use crate::kernel::Format;
use crate::ops::Matrices;
use crate::tensor::{DType, Tensor};
use crate::{ops, reference};

/// Matrices within a tensor: what is seen, and what lies around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// `[outer, inner, rows, columns]` as the op sees them.
    pub(crate) shape: [usize; 4],
    /// Dimension i of what is seen is dimension `order[i]` of the tensor.
    pub(crate) order: [usize; 3],
    /// Rows before and after what is seen.
    pub(crate) rows: [usize; 2],
    /// Columns before and after.
    pub(crate) columns: [usize; 2],
}

impl View {
    /// All of a tensor.
    pub(crate) fn new(shape: [usize; 4]) -> View {
        View { shape, order: [0, 1, 2], rows: [0; 2], columns: [0; 2] }
    }

    pub(crate) fn permuted(self, order: [usize; 3]) -> View {
        View { order, ..self }
    }

    pub(crate) fn within(self, rows: [usize; 2], columns: [usize; 2]) -> View {
        View { rows, columns, ..self }
    }

    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The tensor's dimensions.
    fn dims(&self) -> [usize; 4] {
        let [outer, inner, rows, columns] = self.shape;
        let seen = [outer, inner, self.rows[0] + rows + self.rows[1]];
        let mut dims = [0, 0, 0, self.columns[0] + columns + self.columns[1]];
        for (i, &to) in self.order.iter().enumerate() {
            dims[to] = seen[i];
        }
        dims
    }

    /// What is seen of a tensor's elements, one by one.
    fn gather(&self, data: &[f32]) -> Vec<f32> {
        let (dims, [outer, inner, rows, columns]) = (self.dims(), self.shape);
        let mut seen = Vec::with_capacity(self.count());
        for i in 0..outer {
            for j in 0..inner {
                for row in 0..rows {
                    let mut at = [0; 3];
                    at[self.order[0]] = i;
                    at[self.order[1]] = j;
                    at[self.order[2]] = self.rows[0] + row;
                    let start = ((at[0] * dims[1] + at[1]) * dims[2] + at[2]) * dims[3] + self.columns[0];
                    seen.extend(&data[start..start + columns]);
                }
            }
        }
        seen
    }

    /// The view of a tensor, made as a user would.
    fn of<'a>(&self, tensor: &'a Tensor) -> crate::Result<Matrices<'a>> {
        let [_, _, rows, columns] = self.shape;
        let view = Matrices::from(tensor).permuted(self.order)?;
        view.rows(self.rows[0]..self.rows[0] + rows)?.columns(self.columns[0]..self.columns[0] + columns)
    }
}

/// A product of views.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batched {
    pub(crate) a: View,
    pub(crate) b: View,
    pub(crate) format: Format,
    pub(crate) fill: Fill,
    pub(crate) scale: f32,
}

impl Batched {
    /// Products with the truth about them.
    fn judge(&self, bench: &Bench<'_>, got: &[f32], a: &[f32], b: &[f32]) -> Result<f64, Stop> {
        let ([outer, inner, m, k], [b_outer, b_inner, n, _]) = (self.a.shape, self.b.shape);
        let product = |a: &[f32], b: &[f32], scale| {
            reference::matmul_batched((a, [outer, inner]), (b, [b_outer, b_inner]), scale, (m, k, n))
        };
        let truth = product(a, b, self.scale);
        if self.fill == Fill::Integers {
            return check(self.fill, (k, n), got, &truth, &Sizes::default());
        }
        let of = |a: &[f32], b: &[f32]| product(a, b, self.scale.abs());
        let sizes = Sizes::new(bench, (&magnitudes(a), a), (&magnitudes(b), b), of);
        check(self.fill, (k, n), got, &truth, &sizes)
    }
}

pub(crate) fn batched(bench: &mut Bench<'_>, case: &Batched, mut inputs: Inputs) -> Result<f64, Stop> {
    let mut draw = |view: &View| inputs.fill(case.fill, view.dims().iter().product(), view.dims()[3]);
    let a = draw(&case.a);
    let stored = Stored::round(draw(&case.b), case.format);
    let (x, w) = (bench.input(&a, &case.a.dims())?, bench.matrix(&stored, &case.b.dims())?);
    let b = stored.values;
    let ([outer, inner, m, _], n) = (case.a.shape, case.b.shape[2]);
    let mut out = bench.output(&[outer, inner, m, n], DType::F32)?;
    bench.run(|pass| ops::matmul_transpose_b(pass, case.a.of(&x)?, case.b.of(&w)?, case.scale, &mut out.tensor))?;
    case.judge(bench, &bench.read_f32(&out)?, &case.a.gather(&a), &case.b.gather(&b))
}

/// Scores of attention, as a model may ask for them: queries and keys are heads of one tensor \[m, heads + 2 kv_heads, d\].
pub(crate) fn heads(
    bench: &mut Bench<'_>,
    (m, heads, kv_heads, d): (usize, usize, usize, usize),
    fill: Fill,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let width = heads + 2 * kv_heads;
    let data = inputs.fill(fill, m * width * d, d);
    let qkv = bench.input(&data, &[m, width, d])?;
    let mut out = bench.output(&[heads, m, m], DType::F32)?;
    let of = |range: std::ops::Range<usize>| Matrices::from(&qkv).rows(range)?.permuted([0, 2, 1]);
    bench.run(|pass| {
        let (queries, keys) = (of(0..heads)?, of(heads..heads + kv_heads)?);
        ops::matmul_transpose_b(pass, queries, keys, 0.125, &mut out.tensor)
    })?;
    let head = |h: usize| (0..m).flat_map(|row| &data[(row * width + h) * d..][..d]).copied().collect::<Vec<f32>>();
    let a: Vec<f32> = (0..heads).flat_map(head).collect();
    let b: Vec<f32> = (heads..heads + kv_heads).flat_map(head).collect();
    let (a_view, b_view) = (View::new([1, heads, m, d]), View::new([1, kv_heads, m, d]));
    let case = Batched { a: a_view, b: b_view, format: Format::F32, fill, scale: 0.125 };
    case.judge(bench, &bench.read_f32(&out)?, &a, &b)
}

/// A view as a tensor of its own, bit for bit.
pub(crate) fn contiguous(bench: &mut Bench<'_>, view: &View, mut inputs: Inputs) -> Result<f64, Stop> {
    let data = inputs.uniform(view.dims().iter().product());
    let x = bench.input(&data, &view.dims())?;
    let mut out = bench.output(&view.shape, DType::F32)?;
    bench.run(|pass| ops::contiguous(pass, view.of(&x)?, &mut out.tensor))?;
    let truth: Vec<u32> = bytemuck::cast_vec(view.gather(&data));
    compare_words("element", &bench.read(&out)?, &truth, view.shape[3])
}

/// The two products of one pair of matrices: a\[m,k\] times b\[k,n\], and a times b's transpose\[n,k\] transposed.
struct Both {
    shape: (usize, usize, usize),
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Both {
    fn transposed(&self) -> Vec<f32> {
        let (_, k, n) = self.shape;
        (0..n).flat_map(|j| (0..k).map(move |l| self.b[l * n + j])).collect()
    }

    fn run(&self, bench: &mut Bench<'_>, transposed: bool) -> Result<Vec<f32>, Stop> {
        let (m, k, n) = self.shape;
        let x = bench.input(&self.a, &[m, k])?;
        let mut out = bench.output(&[m, n], DType::F32)?;
        if transposed {
            let w = bench.input(&self.transposed(), &[n, k])?;
            bench.run(|pass| ops::matmul_transpose_b(pass, &x, &w, 1.0, &mut out.tensor))?;
        } else {
            let w = bench.input(&self.b, &[k, n])?;
            bench.run(|pass| ops::matmul(pass, &x, &w, &mut out.tensor))?;
        }
        bench.read_f32(&out)
    }
}

/// A row of a that is 1 at one place and 0 elsewhere selects a row of b, to the bit but for the sign of a zero; or what becomes
/// of it as halves.
pub(crate) fn one_hot(
    bench: &mut Bench<'_>,
    shape: (usize, usize, usize),
    transposed: bool,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let (m, k, n) = shape;
    let picks: Vec<usize> = (0..m).map(|_| inputs.below(k)).collect();
    let a = picks.iter().flat_map(|&pick| (0..k).map(move |l| f32::from(u8::from(l == pick)))).collect();
    let both = Both { shape, a, b: inputs.uniform(k * n) };
    let got = both.run(bench, transposed)?;
    let truth: Vec<f64> = picks.iter().flat_map(|&pick| &both.b[pick * n..][..n]).map(|&v| f64::from(v)).collect();
    let halves = bench.halves();
    compare(&got, &truth, n, |i| if halves { bounds::halved(truth[i]) } else { 0.0 })
}

/// Of integers, the product and the transposed product of b's transpose are the same numbers.
pub(crate) fn either_way(bench: &mut Bench<'_>, shape: (usize, usize, usize), mut inputs: Inputs) -> Result<f64, Stop> {
    let (m, k, n) = shape;
    let a = inputs.fill(Fill::Integers, m * k, k);
    let both = Both { shape, a, b: inputs.fill(Fill::Integers, k * n, n) };
    let plain: Vec<f64> = both.run(bench, false)?.into_iter().map(f64::from).collect();
    compare(&both.run(bench, true)?, &plain, n, |_| 0.0)
}

/// The pair of factors at depth l: zeros of either sign, subnormal numbers, products that are, factors far apart, and
/// terms that cancel. A row of a has some of them, else a large one would hide the small.
fn peculiar(l: usize, inputs: &mut Inputs) -> (f32, f32) {
    let small = |exponent: i32, v: f32| (f64::from(v) * 2f64.powi(exponent)) as f32;
    match l % 8 {
        0 => (-0.0, inputs.unit()),
        1 => (inputs.unit(), -0.0),
        2 => (small(-130, inputs.unit()), inputs.unit()),
        3 => (small(-70, inputs.unit()), small(-70, inputs.unit())),
        4 => (1e30 * inputs.unit(), 1e-30),
        5 => (1e-30, 1e30 * inputs.unit()),
        // Equal but for the sign of the first factor: pairs cancel.
        6 => (4096.0, 0.75),
        _ => (-4096.0, 0.75),
    }
}

pub(crate) fn special(
    bench: &mut Bench<'_>,
    shape: (usize, usize, usize),
    transposed: bool,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let (m, k, n) = shape;
    let chosen = |row: usize, l: usize| match row % 4 {
        0 => l % 8 < 4,
        1 => (4..6).contains(&(l % 8)),
        2 => l % 8 > 5,
        _ => true,
    };
    let a = (0..m)
        .flat_map(|row| (0..k).map(move |l| (row, l)))
        .map(|(row, l)| if chosen(row, l) { peculiar(l, &mut inputs).0 } else { 0.0 })
        .collect();
    let b = (0..k).flat_map(|l| (0..n).map(move |_| l)).map(|l| peculiar(l, &mut inputs).1).collect();
    let both = Both { shape, a, b };
    let truth = reference::matmul(&both.a, &both.b, shape);
    let got = both.run(bench, transposed)?;
    let factors = ((&*magnitudes(&both.a), &*both.a), (&*magnitudes(&both.b), &*both.b));
    Sizes::new(bench, factors.0, factors.1, |a, b| reference::matmul(a, b, shape)).compare((k, n), &got, &truth)
}

/// One number of a's second row is beyond halves: that row is as good as ever, or not finite, and the others are as they were.
pub(crate) fn beyond_halves(
    bench: &mut Bench<'_>,
    shape: (usize, usize, usize),
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let (m, k, n) = shape;
    let mut a = inputs.uniform(m * k);
    a[k + inputs.below(k)] = 1e5;
    let both = Both { shape, a, b: inputs.uniform(k * n) };
    let got = both.run(bench, true)?;
    let truth = reference::matmul(&both.a, &both.b, shape);
    let factors = ((&*magnitudes(&both.a), &*both.a), (&*magnitudes(&both.b), &*both.b));
    Sizes::new(bench, factors.0, factors.1, |a, b| reference::matmul(a, b, shape)).compare((k, n), &got, &truth)
}
