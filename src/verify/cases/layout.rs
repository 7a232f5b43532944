//! Rows of transpose.
//!
//! A tile is 32 by 32, and what goes wrong goes wrong at its edges: sides around it, long and tall matrices of a few rows,
//! and batches, of which there may be none.

use super::Table;
use crate::tensor::DType;
use crate::verify::layout::transpose;

pub(super) fn layout(table: &mut Table) {
    let mut rows: Vec<(_, _, usize, usize)> = vec![
        ("one element", None, 1, 1),
        ("one row", None, 1, 70),
        ("one column", None, 70, 1),
        ("no rows", None, 0, 5),
        ("no columns", None, 5, 0),
        ("no batches", Some(0), 5, 3),
        ("a tile", None, 32, 32),
        ("long", None, 3, 5000),
        ("tall", None, 5000, 3),
        ("GPT-2", None, 768, 257),
        ("folded grid", Some(65_601), 2, 3),
    ];
    for (m, n) in [(2, 3), (5, 4), (17, 31), (31, 33), (33, 32), (63, 65), (64, 66), (129, 95)] {
        rows.push((if m < 32 { "within a tile" } else { "several tiles" }, None, m, n));
        rows.push(("batches", Some(m % 4 + 1), n, m));
    }
    for (class, batches, m, n) in rows {
        for (dtype, name) in [(DType::F32, "f32"), (DType::U32, "u32")] {
            let batch = batches.map_or(String::new(), |batches| format!(" batch={batches}"));
            let detail = format!("m={m},n={n} {name}{batch}");
            // A workgroup carries a whole tile, however little is in it.
            let work = batches.unwrap_or(1) * m.next_multiple_of(32) * n.next_multiple_of(32);
            table.typed(("transpose", name, class), &detail, work, move |bench, inputs| {
                transpose(bench, (batches, m, n), dtype, inputs)
            });
        }
    }
}
