//! The table: which ops at which shapes. A new op adds a paragraph here; `tests/house.rs` says so if it does not.

use super::Case;
use super::attention::{Attending, attention};
use super::elementwise::{Elements, Values, add, gelu, relu};
use super::inputs::{Fill, Inputs};
use super::products::{Product, linear, matmul, matmul_transpose_b, matvec};
use super::rows::{Gather, Hidden, Logits, Norm, advance, argmax, embed, layer_norm, softmax};
use super::runner::{Bench, Stop};
use crate::kernel::Format;
use crate::reference::Gelu;

/// Sizes at which tiles, quads and subgroups end, and their neighbours.
const SIZES: [usize; 21] = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257];
/// Work, in elements touched or multiplied, above which a case is large.
const LARGE: usize = 6 << 20;

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    /// A case named `op detail`, its inputs seeded by that name.
    fn row(
        &mut self,
        (op, shape_class): (&'static str, &'static str),
        detail: &str,
        work: usize,
        run: impl Fn(&mut Bench<'_>, Inputs) -> Result<f64, Stop> + Send + Sync + 'static,
    ) {
        let name = format!("{op} {detail}");
        let seed = name.clone();
        let run = Box::new(move |bench: &mut Bench<'_>| run(bench, Inputs::new(&seed)));
        self.0.push(Case { name, op, shape_class, large: work > LARGE, run });
    }
}

/// Every case, in the order of the ops.
pub fn cases() -> Vec<Case> {
    let mut table = Table::default();
    matmuls(&mut table);
    transposed(&mut table);
    linears(&mut table);
    matvecs(&mut table);
    attentions(&mut table);
    layer_norms(&mut table);
    softmaxes(&mut table);
    elementwise(&mut table);
    embeds(&mut table);
    argmaxes(&mut table);
    advances(&mut table);
    table.0
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
fn product(table: &mut Table, op: &'static str, class: &'static str, case: Product, run: RunProduct) {
    let Product { m, k, n, format, fill, bias, scale, batches, shared, rows_per_chunk } = case;
    let mut detail = format!("m={m},k={k},n={n} {} {}", format.name(), format!("{fill:?}").to_lowercase());
    for (said, word) in [
        (bias, " bias".to_owned()),
        (scale != 1.0, format!(" scale={scale}")),
        (batches > 0, format!(" batch={batches}")),
        (shared, " shared".to_owned()),
    ] {
        detail += if said { &word } else { "" };
    }
    if let Some(rows) = rows_per_chunk {
        detail += &format!(" chunk={rows}");
    }
    table.row((op, class), &detail, batches.max(1) * m * k * n, move |bench, inputs| run(bench, &case, inputs));
}

/// Integers and U\[-1, 1\] at every odd shape, the formats in turn, and what GPT-2 asks for.
fn common(table: &mut Table, op: &'static str, run: RunProduct, shapes: &[(usize, usize, usize)], biases: bool) {
    for (i, &(m, k, n)) in shapes.iter().enumerate() {
        for (fill, format) in [
            (Fill::Integers, Format::ALL[i % 2]),
            (Fill::Uniform, Format::ALL[(i + 1) % 2]),
            (if i % 3 == 0 { Fill::Outliers } else { Fill::Integers }, Format::ALL[(i + 1) % 2]),
        ] {
            let bias = biases && (i + fill as usize) % 2 == 0;
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
            let format = Format::ALL[i % 2];
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
}

fn linears(table: &mut Table) {
    let shapes: Vec<_> = odd_shapes().filter(|(m, _, _)| *m > 3).collect();
    common(table, "linear", linear, &shapes, true);
    // Chunks of 4, 8 and 64 rows, the last of them short.
    for (i, (shape, rows)) in
        [((9, 33, 17), 4), ((70, 65, 31), 8), ((12, 12, 129), 64), ((4, 50, 29), 8)].into_iter().enumerate()
    {
        for fill in [Fill::Integers, Fill::Uniform] {
            let case =
                Product { bias: true, rows_per_chunk: Some(rows), ..Product::new(shape, Format::ALL[i % 2], fill) };
            product(table, "linear", "chunks", case, linear);
        }
    }
    for (shape, format) in
        [((9, 768, 3072), Format::F16), ((64, 768, 2304), Format::F32), ((1, 3072, 768), Format::F32)]
    {
        let case = Product { bias: true, ..Product::new(shape, format, Fill::Uniform) };
        product(table, "linear", "GPT-2", case, linear);
    }
}

fn matvecs(table: &mut Table) {
    // Every number of rows, at every odd k and n.
    let shapes: Vec<_> = odd_shapes().enumerate().map(|(i, (_, k, n))| (i % 8 + 1, k, n)).collect();
    common(table, "matvec", matvec, &shapes, true);
    for (i, (shape, rows)) in [((1, 33, 17), 4), ((3, 65, 31), 8), ((8, 129, 70), 12)].into_iter().enumerate() {
        for fill in [Fill::Integers, Fill::Uniform] {
            let case =
                Product { bias: true, rows_per_chunk: Some(rows), ..Product::new(shape, Format::ALL[i % 2], fill) };
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
    let case = Product::new((1, 3, 262_201), Format::F32, Fill::Integers);
    product(table, "matvec", "folded grid", case, matvec);
}

/// A class, heads, key heads, head dimension, causal, and the sequences.
type AttentionRow = (&'static str, usize, usize, usize, bool, Vec<(usize, usize)>);

fn attentions(table: &mut Table) {
    let mut rows: Vec<AttentionRow> = vec![
        ("no rows", 2, 2, 8, true, vec![]),
        ("one position", 1, 1, 1, true, vec![(0, 1)]),
        ("one position", 3, 1, 5, false, vec![(0, 1)]),
        ("GPT-2", 12, 12, 64, true, vec![(0, 20)]),
        ("GPT-2", 12, 12, 64, true, vec![(113, 1)]),
        ("ragged batch", 4, 2, 22, true, vec![(0, 3), (65, 1), (7, 9)]),
        ("ragged batch", 2, 2, 10, false, vec![(5, 4), (0, 70), (64, 2), (1, 1)]),
        ("ragged batch", 6, 3, 12, true, vec![(63, 1), (400, 1), (0, 1), (113, 1), (12, 1)]),
        ("long prefix", 2, 1, 64, true, vec![(400, 1)]),
        ("long prefix", 2, 1, 16, false, vec![(400, 7)]),
    ];
    for (i, head_dim) in [1, 10, 12, 22, 64, 80, 128, 300].into_iter().enumerate() {
        let causal = i % 3 != 1;
        rows.push(("head size", 2, 1, head_dim, causal, vec![(0, 66)]));
        rows.push(("head size", 2, 2, head_dim, causal, vec![(66, 1)]));
        rows.push(("head size", 1, 1, head_dim, !causal, vec![(3, 5), (0, 2)]));
    }
    for (i, prefix) in [0, 1, 63, 64, 65, 113].into_iter().enumerate() {
        rows.push(("decode", 2, 2, 12, true, vec![(prefix, 1)]));
        rows.push(("prefill after a prefix", 2, 1, 10, i % 2 == 0, vec![(prefix, 17)]));
        rows.push(("prefill after a prefix", 1, 1, 22, i % 2 == 1, vec![(prefix, 64), (prefix, 1)]));
    }
    for group in 1..=8 {
        rows.push(("grouped heads", 2 * group, 2, 12, true, vec![(9, 4)]));
    }
    for (i, (class, heads, kv_heads, head_dim, causal, sequences)) in rows.into_iter().enumerate() {
        let fill = if i % 5 == 4 { Fill::Outliers } else { Fill::Uniform };
        let kind = if causal { "causal" } else { "full" };
        let written: Vec<String> = sequences.iter().map(|(prefix, rows)| format!("{prefix}+{rows}")).collect();
        let detail = format!("h={heads},g={kv_heads},d={head_dim} {kind} {}", written.join(","));
        let detail = format!("{detail} {}", format!("{fill:?}").to_lowercase());
        let positions: usize = sequences.iter().map(|(prefix, rows)| (prefix + rows) * (prefix + rows)).sum();
        let case = Attending { heads, kv_heads, head_dim, causal, sequences, fill };
        table.row(("attention", class), &detail, positions * heads * head_dim, move |bench, inputs| {
            attention(bench, &case, inputs)
        });
    }
}

fn layer_norms(table: &mut Table) {
    let base = Norm { m: 3, n: 768, mean: 0.0, eps: 1e-5, first_row: 0, constant: false };
    let mut rows = Vec::new();
    for (i, n) in [2, 3, 5, 33, 63, 64, 65, 129, 255, 768, 1025, 4096, 12288].into_iter().enumerate() {
        rows.push(("length", Norm { m: i % 4 + 1, n, ..base }));
    }
    for mean in [1.0, 10.0, 100.0, 1e3, 1e4, -1e4] {
        rows.push(("large mean", Norm { mean, ..base }));
        rows.push(("large mean", Norm { mean, n: 33, ..base }));
    }
    for eps in [0.0, 1e-6, 1e-4, 0.1, 10.0] {
        rows.push(("eps", Norm { eps, n: 132, ..base }));
    }
    for mean in [0.0, 0.1, 1e4] {
        rows.push(("constant rows", Norm { mean, constant: true, n: 70, ..base }));
    }
    rows.push(("one column", Norm { n: 1, ..base }));
    rows.push(("one column", Norm { n: 1, mean: 3.0, eps: 10.0, ..base }));
    for (first_row, n) in [(1, 5), (7, 64), (100, 17)] {
        rows.push(("later rows", Norm { first_row, n, ..base }));
    }
    rows.push(("no rows", Norm { m: 0, n: 5, ..base }));
    rows.push(("no columns", Norm { n: 0, ..base }));
    rows.push(("GPT-2", Norm { m: 64, ..base }));
    rows.push(("folded grid", Norm { m: 65_601, n: 130, ..base }));
    for (class, case) in rows {
        let Norm { m, n, mean, eps, first_row, constant } = case;
        let constant = if constant { " constant" } else { "" };
        let detail = format!("m={m},n={n} mean={mean} eps={eps} first={first_row}{constant}");
        table.row(("layer_norm", class), &detail, m * n, move |bench, inputs| layer_norm(bench, &case, inputs));
    }
}

fn softmaxes(table: &mut Table) {
    let mut rows = vec![
        ("no rows", (0, 5), Logits::Scaled(1.0)),
        ("no columns", (5, 0), Logits::Scaled(1.0)),
        ("vocabulary", (2, 50257), Logits::Scaled(10.0)),
        ("vocabulary", (1, 50257), Logits::Dominant(30.0)),
        ("long", (1, 200_000), Logits::Scaled(5.0)),
        ("many rows", (129, 33), Logits::Scaled(3.0)),
        ("folded grid", (65_601, 97), Logits::Scaled(1.0)),
    ];
    for (i, n) in [1, 2, 3, 15, 16, 17, 63, 64, 65, 257, 1023, 1024].into_iter().enumerate() {
        rows.push(("length", (i % 3 + 1, n), Logits::Scaled([1.0, 40.0][i % 2])));
    }
    for n in [2, 65, 1023] {
        rows.push(("shift", (3, n), Logits::Shifted));
        rows.push(("all equal", (2, n), Logits::Equal(-3.0)));
        rows.push(("one dominant", (3, n), Logits::Dominant(200.0)));
    }
    rows.push(("far out", (2, 65), Logits::Equal(-3e38)));
    rows.push(("far out", (2, 65), Logits::Scaled(1e4)));
    rows.push(("far out", (2, 33), Logits::Dominant(1e30)));
    for (class, (m, n), logits) in rows {
        let detail = format!("m={m},n={n} {}", format!("{logits:?}").to_lowercase());
        table.row(("softmax", class), &detail, 2 * m * n, move |bench, inputs| softmax(bench, (m, n), logits, inputs));
    }
}

fn elementwise(table: &mut Table) {
    let rows: Vec<(&'static str, Vec<usize>, Values)> = vec![
        ("one element", vec![1], Values::Scaled(1)),
        ("one element", vec![1, 1], Values::Scaled(10)),
        ("below a quad", vec![5, 3], Values::Scaled(3)),
        ("quads", vec![7, 8], Values::Scaled(3)),
        ("one row", vec![257], Values::Scaled(4)),
        ("a workgroup", vec![64, 4], Values::Constant),
        ("past a workgroup", vec![65, 5], Values::Scaled(12)),
        ("three dimensions", vec![3, 5, 17], Values::Scaled(2)),
        ("no rows", vec![0, 5], Values::Constant),
        ("no columns", vec![5, 0], Values::Constant),
        ("every exponent", vec![256, 256], Values::Sweep),
        ("every exponent", vec![65_536], Values::Sweep),
        ("extremes", vec![3, 22], Values::Extremes),
        ("extremes", vec![67, 23], Values::Extremes),
        ("GPT-2", vec![16, 3072], Values::Scaled(5)),
        ("folded grid", vec![16_777_000 / 4 + 77, 3], Values::Constant),
    ];
    for (class, shape, values) in rows {
        let detail = format!("{shape:?} {}", format!("{values:?}").to_lowercase());
        let (work, case) = (shape.iter().product(), Elements { shape, values });
        for form in [Gelu::Tanh, Gelu::Exact] {
            let (case, detail) = (case.clone(), format!("{detail} {}", format!("{form:?}").to_lowercase()));
            table.row(("gelu", class), &detail, work, move |bench, inputs| gelu(bench, &case, form, inputs));
        }
        let of_relu = case.clone();
        table.row(("relu", class), &detail, work, move |bench, inputs| relu(bench, &of_relu, inputs));
        table.row(("add", class), &detail, work, move |bench, inputs| add(bench, &case, inputs));
    }
}

fn embeds(table: &mut Table) {
    let rows = [
        ("no rows", 0, 5, 7, None),
        ("no columns", 3, 5, 0, None),
        ("one of one", 1, 1, 1, None),
        ("one row", 1, 9, 33, None),
        ("below a quad", 4, 9, 3, None),
        ("rows", 17, 129, 65, None),
        ("rows", 64, 33, 257, None),
        ("chunks", 19, 31, 17, Some(4)),
        ("chunks", 33, 129, 66, Some(64)),
        ("GPT-2", 5, 1000, 768, None),
        ("vocabulary", 9, 50257, 12, Some(20_000)),
        ("folded grid", 65_601, 40, 9, None),
    ];
    for (class, m, vocab, columns, rows_per_chunk) in rows {
        for format in Format::ALL {
            let chunk = rows_per_chunk.map_or(String::new(), |rows| format!(" chunk={rows}"));
            let detail = format!("m={m},vocab={vocab},k={columns} {}{chunk}", format.name());
            let case = Gather { m, vocab, columns, format, rows_per_chunk };
            table.row(("embed", class), &detail, m * columns, move |bench, inputs| embed(bench, &case, inputs));
        }
    }
}

fn argmaxes(table: &mut Table) {
    let mut rows = vec![
        ("no rows", (0, 5), Hidden::Nothing),
        ("vocabulary", (2, 50257), Hidden::Nothing),
        ("vocabulary", (1, 50257), Hidden::Ties),
        ("many rows", (200, 65), Hidden::Nothing),
        ("folded grid", (65_601, 3), Hidden::Ties),
    ];
    for (i, n) in [1, 2, 3, 5, 63, 64, 65, 129, 257].into_iter().enumerate() {
        rows.push(("length", (i % 3 + 1, n), Hidden::Nothing));
        rows.push(("ties", (3, n), Hidden::Ties));
        rows.push(("signed zeros", (2, n), Hidden::Zeros));
    }
    for n in [3, 70, 1000] {
        rows.push(("negative", (2, n), Hidden::Negative));
        rows.push(("infinities", (3, n), Hidden::Infinite));
        rows.push(("NaN", (3, n), Hidden::NaN));
    }
    for (class, (m, n), hidden) in rows {
        let detail = format!("m={m},n={n} {}", format!("{hidden:?}").to_lowercase());
        table.row(("argmax", class), &detail, m * n, move |bench, inputs| argmax(bench, (m, n), hidden, inputs));
    }
}

fn advances(table: &mut Table) {
    let rows = [
        ("no rows", 0, 0),
        ("one row", 1, 0),
        ("few rows", 3, 7),
        ("rows", 33, 0),
        ("below a workgroup", 63, 5),
        ("a workgroup", 64, 0),
        ("past a workgroup", 65, 0),
        ("workgroups", 257, 1),
        ("far positions", 9, 131_072),
        ("many rows", 5000, 0),
        ("folded grid", 65_535 * 64 + 70, 0),
    ];
    for (class, m, position) in rows {
        let detail = format!("m={m} position={position}");
        table.row(("advance", class), &detail, 4 * m, move |bench, inputs| advance(bench, m, position, inputs));
    }
}
