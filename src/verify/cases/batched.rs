//! Rows of the products of views. The shapes are those with which ggml tries its own, in our order (m, k, n), and what lies
//! between them.

use super::{FLOATS, Table};
use crate::kernel::Format;
use crate::verify::batched::{Batched, View, batched, beyond_halves, contiguous, either_way, heads, one_hot, special};
use crate::verify::inputs::Fill;

const OP: &str = "matmul_transpose_b";
/// Every order of outer batches, inner batches and rows but the plain one.
const ORDERS: [[usize; 3]; 5] = [[0, 2, 1], [1, 0, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]];

pub(super) fn batched_products(table: &mut Table) {
    few_rows(table);
    repeats(table);
    permutations(table);
    parts(table);
    large(table);
    identities(table);
    beyond(table);
    copies(table);
}

fn product(table: &mut Table, class: &'static str, case: Batched) {
    let describe = |view: &View| {
        let View { shape: [outer, inner, rows, columns], order, rows: more_rows, columns: more } = view;
        let mut text = format!("[{outer},{inner},{rows},{columns}]");
        if *order != [0, 1, 2] {
            text += &format!(" order={order:?}");
        }
        if more_rows != &[0; 2] || more != &[0; 2] {
            text += &format!(" within rows={more_rows:?} columns={more:?}");
        }
        text.replace(", ", ",")
    };
    let Batched { a, b, format, fill, scale } = case;
    let (format, fill) = (format.name(), format!("{fill:?}").to_lowercase());
    let detail = format!("a={} b={} {format} {fill} scale={scale}", describe(&a), describe(&b));
    let work = a.count() * b.shape[2];
    table.typed((OP, format, class), &detail, work, move |bench, inputs| batched(bench, &case, inputs));
}

/// Formats and fills in turn.
fn kind(i: usize) -> (Format, Fill, f32) {
    let fills = [Fill::Integers, Fill::Uniform, Fill::Integers, Fill::Outliers];
    (FLOATS[i % 2], fills[(i / 2) % 4], [1.0, 0.5][(i / 2) % 2])
}

fn plain(table: &mut Table, class: &'static str, i: usize, (a, b): (View, View)) {
    let (format, fill, scale) = kind(i);
    product(table, class, Batched { a, b, format, fill, scale });
}

/// a of `batches` times `repeats`, b of `batches`.
fn pair([outer, inner]: [usize; 2], [r, s]: [usize; 2], (m, k, n): (usize, usize, usize)) -> (View, View) {
    (View::new([outer * r, inner * s, m, k]), View::new([outer, inner, n, k]))
}

fn few_rows(table: &mut Table) {
    for m in 1..=9 {
        for (i, k) in [4, 256, 1024].into_iter().enumerate() {
            for j in 0..2 {
                plain(table, "few rows", 3 * m + i + 3 * j, pair([1, 1], [1, 1], (m, k, 16)));
            }
        }
    }
}

fn repeats(table: &mut Table) {
    let mut i = 0;
    for batches in [[1, 1], [1, 3], [3, 1], [2, 3], [3, 2]] {
        for repeats in [[1, 1], [1, 2], [2, 1], [2, 2], [1, 3], [3, 2]] {
            for shape in [(1, 64, 16), (16, 33, 5)] {
                plain(table, "batches, repeated b", i, pair(batches, repeats, shape));
                i += 1;
            }
        }
    }
    for (i, (batches, repeats, shape)) in [
        ([1536, 1], [1, 1], (2, 4, 3)),
        ([1, 768], [1, 2], (1, 5, 2)),
        ([48, 16], [2, 1], (3, 8, 1)),
        ([1, 1], [1, 1536], (1, 16, 4)),
    ]
    .into_iter()
    .enumerate()
    {
        plain(table, "many batches", i, pair(batches, repeats, shape));
    }
    // One dimension of nothing each.
    for (i, (a, b)) in [
        ([0, 2, 3, 4], [0, 2, 5, 4]),
        ([2, 0, 3, 4], [1, 0, 5, 4]),
        ([2, 3, 0, 4], [2, 3, 5, 4]),
        ([2, 3, 4, 0], [2, 1, 5, 0]),
        ([2, 3, 4, 5], [2, 3, 0, 5]),
        ([0, 3, 4, 5], [2, 3, 2, 5]),
    ]
    .into_iter()
    .enumerate()
    {
        plain(table, "empty batches", i, (View::new(a), View::new(b)));
    }
}

fn permutations(table: &mut Table) {
    let mut i = 0;
    for order in ORDERS {
        for (batches, repeats, shape) in [
            ([2, 3], [1, 1], (1, 256, 16)),
            ([2, 3], [1, 1], (8, 64, 16)),
            ([2, 3], [2, 2], (8, 33, 5)),
            ([3, 2], [1, 2], (17, 6, 4)),
            ([1, 3], [2, 1], (66, 20, 67)),
        ] {
            let (a, b) = pair(batches, repeats, shape);
            plain(table, "permuted", i, (a.permuted(order), b.permuted(order)));
            plain(table, "permuted a", i + 1, (a.permuted(order), b));
            plain(table, "permuted b", i + 2, (a, b.permuted(order)));
            i += 3;
        }
    }
    for (i, shape) in
        [(5, 3, 1, 8), (17, 12, 12, 64), (9, 6, 2, 20), (33, 8, 1, 7), (1, 4, 2, 6)].into_iter().enumerate()
    {
        let (m, of, kv, d) = shape;
        let fill = [Fill::Integers, Fill::Uniform][i % 2];
        let detail = format!("heads={of} kv_heads={kv} m={m} d={d} {}", format!("{fill:?}").to_lowercase());
        table.row((OP, "heads of one tensor"), &detail, of * m * m * d, move |bench, inputs| {
            heads(bench, shape, fill, inputs)
        });
    }
}

/// Some rows and columns of wider tensors, where quads of them can be read and where they cannot.
fn parts(table: &mut Table) {
    let mut i = 0;
    for (n, k) in [(1056, 128), (1056, 129), (1057, 128), (1057, 129)] {
        let (a, b) = pair([1, 1], [1, 1], (1, k, n));
        plain(table, "one row", i, (a, b));
        plain(table, "rows of more", i + 1, (a.within([1, 1], [0; 2]), b.within([2, 1], [0; 2])));
        i += 1;
    }
    // Columns before, and after: whole quads of them, or not, or up to the end of the row.
    for (before, after) in [(0, 8), (4, 0), (8, 8), (1, 0), (0, 3), (3, 5), (16, 1)] {
        for (m, k, n) in [(1, 129, 1057), (5, 64, 17), (66, 12, 7), (3, 6, 70)] {
            let (a, b) = pair([2, 1], [1, 2], (m, k, n));
            let (_, fill, scale) = kind(i);
            let within = |view: View| view.within([i % 3, i % 2], [before, after]);
            let case = Batched { a, b, format: Format::F32, fill, scale };
            // A neighbour's number does no harm where the other operand has a zero, and so both are cut.
            product(table, "columns of both", Batched { a: within(a), b: within(b), ..case });
            product(table, "columns of more", Batched { a: within(a), ..case });
            product(table, "columns of more", Batched { b: within(b).permuted(ORDERS[i % 5]), ..case });
            i += 1;
        }
    }
    for (before, after, k) in [(0, 8, 64), (8, 0, 21), (16, 4, 12)] {
        let (a, b) = pair([2, 2], [2, 1], (4, k, 19));
        let case =
            Batched { a, b: b.within([1, 2], [before, after]), format: Format::F16, fill: Fill::Integers, scale: 0.5 };
        product(table, "columns of more", case);
        product(table, "columns of more", Batched { fill: Fill::Uniform, b: case.b.permuted([2, 1, 0]), ..case });
    }
}

fn large(table: &mut Table) {
    // Two dispatches along the depth.
    for i in 0..4 {
        let (a, b) = pair([1, 2], [2, 1], (2, 16_404, 3));
        plain(table, "deep batches", i, (a.permuted([2, 0, 1]), b.within([1, 0], [8, 8])));
    }
    plain(table, "batches", 1, pair([1, 12], [1, 1], (77, 77, 64)));
    for (i, shape) in [(32, 2880, 2880), (512, 576, 576), (2048, 8192, 1), (4096, 5120, 6)].into_iter().enumerate() {
        plain(table, "large", i + 1, pair([1, 1], [1, 1], shape));
    }
}

/// Numbers that products must get right, and what two of them have in common.
fn identities(table: &mut Table) {
    for (i, shape) in [(1, 1, 1), (4, 8, 5), (9, 33, 17), (70, 65, 66), (5, 512, 3)].into_iter().enumerate() {
        let (m, k, n) = shape;
        for (op, transposed) in [("matmul", false), (OP, true)] {
            let detail = |what: &str| format!("m={m},k={k},n={n} {what}");
            table.row((op, "one-hot rows"), &detail("one-hot"), m * k * n, move |bench, inputs| {
                one_hot(bench, shape, transposed, inputs)
            });
            table.row((op, "special values"), &detail("special"), m * k * n, move |bench, inputs| {
                special(bench, shape, transposed, inputs)
            });
            if i % 2 == usize::from(transposed) {
                let detail = detail("either way");
                table.row((op, "both products"), &detail, 2 * m * k * n, move |bench, inputs| {
                    either_way(bench, shape, inputs)
                });
            }
        }
    }
}

/// Where factors are rounded to halves, what is beyond those must not pass for a number.
fn beyond(table: &mut Table) {
    for shape in [(9, 33, 17), (70, 130, 66)] {
        let (m, k, n) = shape;
        let detail = format!("m={m},k={k},n={n} beyond halves");
        table.row((OP, "beyond halves"), &detail, m * k * n, move |bench, inputs| beyond_halves(bench, shape, inputs));
    }
}

/// Views as tensors of their own.
fn copies(table: &mut Table) {
    let mut copy = |class: &'static str, view: View| {
        let View { shape, order, rows, columns } = view;
        let detail = format!("{shape:?} order={order:?} within rows={rows:?} columns={columns:?}").replace(", ", ",");
        // Read and written.
        table.row(("repitch", class), &detail, 2 * view.count(), move |bench, inputs| contiguous(bench, &view, inputs));
    };
    for order in ORDERS {
        for shape in [[2, 3, 4, 5], [1, 7, 2, 8], [3, 1, 65, 3]] {
            copy("permuted", View::new(shape).permuted(order));
            copy("permuted part", View::new(shape).permuted(order).within([1, 2], [3, 1]));
        }
    }
    for (before, after) in [(0, 0), (0, 1), (1, 0), (4, 4), (5, 7)] {
        copy("part", View::new([2, 3, 5, 9]).within([before, after], [after, before]));
    }
    copy("empty part", View::new([2, 3, 0, 9]).within([1, 1], [0, 1]));
    copy("empty part", View::new([2, 3, 4, 0]).within([0, 1], [3, 1]));
    copy("folded grid", View::new([3, 7, 40_007, 5]).permuted([1, 0, 2]).within([1, 0], [1, 0]));
}
