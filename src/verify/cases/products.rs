//! Rows of the products.
//!
//! All triples of 21 sizes would be 9,261 cases; 21 triples in which every size stands once in every place find the same
//! edges. To them come the shapes of GPT-2, empty ones, and depths beyond what one dispatch sums.

use super::{FLOATS, Table};
use crate::kernel::Format;
use crate::reference::{Activation, Gelu};
use crate::verify::inputs::{Fill, Inputs};
use crate::verify::products::{Product, linear, matmul, matmul_transpose_b, matvec};
use crate::verify::runner::{Bench, Stop};

/// Sizes at which tiles, quads and subgroups end, and their neighbours.
const SIZES: [usize; 21] = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257];

pub(super) fn products(table: &mut Table) {
    matmuls(table);
    transposed(table);
    linears(table);
    matvecs(table);
}

/// (m, k, n) in which every size stands once in every place.
fn odd_shapes() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..SIZES.len()).map(|i| (SIZES[i], SIZES[(5 * i + 3) % 21], SIZES[(11 * i + 7) % 21]))
}

/// What is particular about (m, k, n).
fn class(m: usize, k: usize, n: usize) -> &'static str {
    match (m, k, n) {
        (0, _, _) => "m = 0",
        (_, 0, _) => "k = 0",
        (_, _, 0) => "n = 0",
        (_, 768.., 768..) => "GPT-2",
        (1, _, _) => "one row",
        (_, 1, _) => "k = 1",
        (_, _, 1) => "one column",
        (2..=8, _, _) => "few rows",
        (_, _, 2..=8) => "few columns",
        _ if m > 64 && n > 64 => "several tiles",
        _ if k > 64 => "several slices",
        _ => "within a tile",
    }
}

type RunProduct = fn(&mut Bench<'_>, &Product, Inputs) -> Result<f64, Stop>;

/// One product, named by all that it is.
pub(super) fn product(table: &mut Table, op: &'static str, class: &'static str, case: Product, run: RunProduct) {
    let Product { m, k, n, format, fill, bias, activation, scale, batches, shared, accumulate, .. } = case;
    let mut detail = format!("m={m},k={k},n={n} {} {}", format.name(), format!("{fill:?}").to_lowercase());
    for (said, word) in [
        (bias, " bias".to_owned()),
        (scale != 1.0, format!(" scale={scale}")),
        (batches > 0, format!(" batch={batches}")),
        (shared, " shared".to_owned()),
        (accumulate, " accumulate".to_owned()),
    ] {
        detail += if said { &word } else { "" };
    }
    if let Some(activation) = activation {
        detail += &format!(" {}", format!("{activation:?}").to_lowercase());
    }
    for (name, number) in [("chunk", case.rows_per_chunk), ("parts", case.parts)] {
        detail += &number.map_or(String::new(), |number| format!(" {name}={number}"));
    }
    table.typed((op, format.name(), class), &detail, batches.max(1) * m * k * n, move |bench, inputs| {
        run(bench, &case, inputs)
    });
}

/// Integers and U\[-1, 1\] at every odd shape, the formats in turn, and what GPT-2 asks for.
fn common(table: &mut Table, op: &'static str, run: RunProduct, shapes: &[(usize, usize, usize)], biases: bool) {
    for (i, &(m, k, n)) in shapes.iter().enumerate() {
        for (fill, format) in [
            (Fill::Integers, FLOATS[i % 2]),
            (Fill::Uniform, FLOATS[(i + 1) % 2]),
            (if i % 3 == 0 { Fill::Outliers } else { Fill::Integers }, FLOATS[(i + 1) % 2]),
        ] {
            let bias = biases && (i + fill as usize).is_multiple_of(2);
            product(table, op, class(m, k, n), Product { bias, ..Product::new((m, k, n), format, fill) }, run);
        }
    }
    for shape in [(0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0)] {
        let case = Product { bias: biases, ..Product::new(shape, Format::F32, Fill::Integers) };
        product(table, op, class(shape.0, shape.1, shape.2), case, run);
    }
}

fn matmuls(table: &mut Table) {
    let shapes: Vec<_> = odd_shapes().collect();
    common(table, "matmul", matmul, &shapes, false);
    for (shape, format) in [
        ((1, 768, 2304), Format::F16),
        ((5, 768, 768), Format::F32),
        ((17, 3072, 768), Format::F16),
        ((65, 768, 2304), Format::F32),
    ] {
        product(table, "matmul", "GPT-2", Product::new(shape, format, Fill::Uniform), matmul);
    }
    product(table, "matmul", "deep", Product::new((3, 16384, 5), Format::F32, Fill::Uniform), matmul);
    product(table, "matmul", "deep", Product::new((2, 65_588, 3), Format::F16, Fill::Integers), matmul);
    let shapes = [(1, 1, 1), (5, 7, 9), (33, 17, 65), (65, 64, 3), (70, 130, 129), (9, 768, 34), (6, 0, 5), (0, 4, 4)];
    epilogues(table, "matmul", matmul, &shapes, None);
    epilogues(table, "matmul", matmul, &[(2, 16_400, 5)], None);
    accumulating(
        table,
        "matmul",
        matmul,
        &[(1, 1, 1), (5, 7, 9), (33, 17, 66), (3, 16_400, 5), (6, 0, 5), (65, 64, 3)],
    );
}

/// Added to what is there: with bias and activation, with one of them, with neither; over parts of a depth as well.
fn accumulating(table: &mut Table, op: &'static str, run: RunProduct, shapes: &[(usize, usize, usize)]) {
    for (i, &shape) in shapes.iter().enumerate() {
        for (j, fill) in [Fill::Integers, Fill::Uniform, Fill::Outliers].into_iter().enumerate() {
            let activation = (i % 3 == 2).then_some(Activation::Silu);
            let base = Product::new(shape, FLOATS[(i + j) % 2], fill);
            product(table, op, "added", Product { bias: i % 2 == 0, activation, accumulate: true, ..base }, run);
        }
    }
}

/// Bias and activation, together and, at every other shape, alone. Of a product over one or no element the activation sees
/// small numbers, of one over many large ones.
fn epilogues(
    table: &mut Table,
    op: &'static str,
    run: RunProduct,
    shapes: &[(usize, usize, usize)],
    rows_per_chunk: Option<usize>,
) {
    let (tanh, exact) = (Activation::Gelu(Gelu::Tanh), Activation::Gelu(Gelu::Exact));
    for (i, &shape) in shapes.iter().enumerate() {
        // One format to an activation: the driver compiles each pair anew.
        for (j, activation) in [Activation::Relu, tanh, exact, Activation::Silu].into_iter().enumerate() {
            for fill in [Fill::Integers, Fill::Uniform, Fill::Outliers] {
                let base = Product::new(shape, FLOATS[j % 2], fill);
                let case = Product { bias: i % 2 == 0, activation: Some(activation), rows_per_chunk, ..base };
                product(table, op, "activation", case, run);
            }
        }
        let base = Product::new(shape, Format::F32, Fill::Outliers);
        product(table, op, "bias", Product { bias: true, rows_per_chunk, ..base }, run);
    }
}

fn transposed(table: &mut Table) {
    const OP: &str = "matmul_transpose_b";
    let shapes: Vec<_> = odd_shapes().collect();
    common(table, OP, matmul_transpose_b, &shapes, false);
    for (i, (batches, shape)) in
        [(1, (5, 7, 9)), (2, (33, 17, 65)), (3, (65, 64, 3)), (12, (17, 64, 17)), (5, (1, 3, 1))]
            .into_iter()
            .enumerate()
    {
        for shared in [false, true] {
            let format = FLOATS[i % 2];
            let class = if shared { "batches, shared b" } else { "batches" };
            let scale = [0.125, -0.3][i % 2];
            let base = Product::new(shape, format, Fill::Uniform);
            product(table, OP, class, Product { batches, shared, scale, ..base }, matmul_transpose_b);
            let base = Product::new(shape, format, Fill::Integers);
            product(table, OP, class, Product { batches, shared, scale: 0.5, ..base }, matmul_transpose_b);
        }
    }
    for (shape, format) in [((65, 768, 2304), Format::F16), ((9, 3072, 768), Format::F32), ((1, 768, 768), Format::F32)]
    {
        product(table, OP, "GPT-2", Product::new(shape, format, Fill::Uniform), matmul_transpose_b);
    }
    product(table, OP, "deep", Product::new((3, 16384, 5), Format::F16, Fill::Uniform), matmul_transpose_b);
    product(table, OP, "deep", Product::new((2, 65_588, 3), Format::F32, Fill::Integers), matmul_transpose_b);
}

fn linears(table: &mut Table) {
    epilogues(table, "linear", linear, &[(9, 1, 3), (33, 17, 65), (66, 64, 5), (12, 0, 6), (9, 16_400, 5)], None);
    epilogues(table, "linear", linear, &[(10, 20, 17)], Some(8));
    accumulating(
        table,
        "linear",
        linear,
        &[(9, 1, 3), (33, 17, 65), (66, 64, 5), (9, 16_400, 5), (12, 0, 6), (4, 40, 33)],
    );
    let shapes: Vec<_> = odd_shapes().filter(|(m, _, _)| *m > 3).collect();
    common(table, "linear", linear, &shapes, true);
    // Chunks of 4, 8 and 64 rows, the last of them short.
    for (i, (shape, rows)) in
        [((9, 33, 17), 4), ((70, 65, 31), 8), ((12, 12, 129), 64), ((4, 50, 29), 8)].into_iter().enumerate()
    {
        for fill in [Fill::Integers, Fill::Uniform] {
            let case = Product { bias: true, rows_per_chunk: Some(rows), ..Product::new(shape, FLOATS[i % 2], fill) };
            product(table, "linear", "chunks", case, linear);
        }
    }
    // Parts of the depth: more than divide it, as many as it has quads, of a weight in chunks, over several tiles.
    for (i, (shape, parts, rows_per_chunk)) in [
        ((9, 64, 5), 2, None),
        ((12, 37, 33), 3, None),
        ((10, 40, 6), 100, None),
        ((33, 100, 65), 5, Some(8)),
        ((70, 768, 129), 4, Some(64)),
        ((129, 1000, 70), 2, None),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, fill) in [Fill::Integers, Fill::Uniform].into_iter().enumerate() {
            let base = Product { parts: Some(parts), rows_per_chunk, ..Product::new(shape, FLOATS[(i + j) % 2], fill) };
            let case = Product { bias: (i + j) % 3 != 0, accumulate: i % 2 == j, ..base };
            product(table, "linear", "parts", case, linear);
        }
    }
    // More elements than one dimension of a grid has invocations.
    let case = Product { parts: Some(2), ..Product::new((9, 8, 466_061), Format::F32, Fill::Integers) };
    product(table, "linear", "folded grid", case, linear);
    // More columns than the CPU backend widens at a time, and more rows than it multiplies with them.
    for (shape, fill) in [((9, 40, 197), Fill::Integers), ((515, 5, 70), Fill::Uniform)] {
        let case = Product { bias: true, ..Product::new(shape, Format::F16, fill) };
        product(table, "linear", "panels", case, linear);
    }
    for (shape, format) in
        [((9, 768, 3072), Format::F16), ((64, 768, 2304), Format::F32), ((1, 3072, 768), Format::F32)]
    {
        let case = Product { bias: true, ..Product::new(shape, format, Fill::Uniform) };
        product(table, "linear", "GPT-2", case, linear);
    }
}

fn matvecs(table: &mut Table) {
    epilogues(table, "matvec", matvec, &[(1, 1, 1), (3, 33, 7), (1, 64, 66), (3, 0, 5)], None);
    epilogues(table, "matvec", matvec, &[(1, 20, 9)], Some(4));
    accumulating(
        table,
        "matvec",
        matvec,
        &[(1, 1, 1), (3, 33, 7), (1, 64, 66), (8, 129, 70), (3, 0, 5), (1, 768, 768)],
    );
    // Every number of rows, at every odd k and n.
    let shapes: Vec<_> = odd_shapes().enumerate().map(|(i, (_, k, n))| (i % 8 + 1, k, n)).collect();
    common(table, "matvec", matvec, &shapes, true);
    for (i, (shape, rows)) in
        [((1, 33, 17), 4), ((3, 65, 31), 8), ((8, 129, 70), 12), ((2, 64, 19), 8)].into_iter().enumerate()
    {
        for fill in [Fill::Integers, Fill::Uniform] {
            let case = Product { bias: true, rows_per_chunk: Some(rows), ..Product::new(shape, FLOATS[i % 2], fill) };
            product(table, "matvec", "chunks", case, matvec);
        }
    }
    for (shape, format, bias) in [
        ((1, 768, 2304), Format::F16, true),
        ((1, 768, 3072), Format::F32, true),
        ((4, 3072, 768), Format::F16, false),
        ((8, 768, 768), Format::F32, true),
        ((1, 768, 50257), Format::F32, false),
        ((1, 768, 50257), Format::F16, false),
    ] {
        let case = Product { bias, ..Product::new(shape, format, Fill::Uniform) };
        product(table, "matvec", "GPT-2", case, matvec);
    }
    // More workgroups than one dimension of a grid has.
    for (k, n, format) in [(3, 262_201, Format::F32), (32, 524_297, Format::F16)] {
        let case = Product::new((1, k, n), format, Fill::Integers);
        product(table, "matvec", "folded grid", case, matvec);
    }
}
