//! Rows of the ops that read a weight, for the formats that only a weight has. Columns are whole blocks: rows of one part, of
//! parts that make no whole group, of groups, and of more than eight groups.

use super::Table;
use super::products::product;
use crate::kernel::Format;
use crate::reference::{Activation, Gelu};
use crate::verify::inputs::Fill;
use crate::verify::products::{Product, linear, matvec};
use crate::verify::rows::{Gather, embed, gather};

pub(super) fn formats(table: &mut Table) {
    for format in Format::ALL.into_iter().filter(|format| !super::FLOATS.contains(format)) {
        products(table, format);
        rows(table, format);
    }
}

/// `columns`, as the next whole number of blocks.
fn whole(columns: usize, format: Format) -> usize {
    columns.next_multiple_of(format.block().0)
}

fn products(table: &mut Table, format: Format) {
    let silu = Some(Activation::Silu);
    let gelu = Some(Activation::Gelu(Gelu::Tanh));
    // (class, (m, k, n), fill, bias, activation, rows of a chunk)
    for (class, (m, k, n), fill, bias, activation, rows_per_chunk) in [
        ("k = 0", (3, 0, 7), Fill::Integers, true, None, None),
        ("one block", (1, 32, 1), Fill::Integers, false, None, None),
        ("one block", (1, 32, 9), Fill::Uniform, false, None, None),
        ("odd rows", (1, 96, 33), Fill::Integers, true, None, None),
        ("groups", (1, 256, 65), Fill::Integers, false, None, None),
        ("groups", (1, 512, 30), Fill::Uniform, true, silu, None),
        ("groups and a block", (3, 288, 17), Fill::Integers, true, None, None),
        ("groups and blocks", (8, 736, 7), Fill::Uniform, false, None, None),
        ("many groups", (1, 4096, 5), Fill::Integers, false, None, None),
        ("many groups", (3, 2336, 13), Fill::Outliers, true, None, None),
        ("chunks", (1, 544, 31), Fill::Uniform, false, None, Some(8)),
        ("GPT-2", (1, 768, 768), Fill::Uniform, true, None, None),
    ] {
        let base = Product::new((m, whole(k, format), n), format, fill);
        product(table, "matvec", class, Product { bias, activation, rows_per_chunk, ..base }, matvec);
    }
    for (class, (m, k, n), fill, bias, activation, rows_per_chunk) in [
        ("k = 0", (9, 0, 7), Fill::Integers, true, None, None),
        ("one block", (9, 32, 1), Fill::Integers, false, None, None),
        ("odd rows", (11, 96, 33), Fill::Uniform, true, None, None),
        ("several tiles", (66, 256, 67), Fill::Integers, false, None, None),
        ("groups and a block", (13, 288, 129), Fill::Integers, true, None, None),
        ("groups", (17, 512, 30), Fill::Uniform, false, gelu, None),
        ("many groups", (10, 4096, 5), Fill::Integers, false, None, None),
        ("many groups", (31, 2336, 21), Fill::Outliers, true, None, None),
        ("chunks", (12, 544, 31), Fill::Uniform, true, None, Some(8)),
        ("deep", (9, 16_640, 3), Fill::Uniform, false, None, None),
        ("panels", (515, 32, 197), Fill::Uniform, true, None, None),
    ] {
        let base = Product::new((m, whole(k, format), n), format, fill);
        product(table, "linear", class, Product { bias, activation, rows_per_chunk, ..base }, linear);
    }
    let base = Product::new((17, whole(1536, format), 37), format, Fill::Uniform);
    product(table, "linear", "parts", Product { bias: true, parts: Some(6), ..base }, linear);
}

fn rows(table: &mut Table, format: Format) {
    if !format.is_quantized() {
        // Among the floats of embed and gather.
        return;
    }
    for (class, m, vocab, k, rows_per_chunk) in [
        ("no columns", 3, 5, 0, None),
        ("one block", 1, 1, 32, None),
        ("blocks", 33, 19, 224, None),
        ("groups", 40, 31, 256, None),
        ("groups and a block", 17, 129, 288, None),
        ("many groups", 9, 5, 4896, None),
        ("chunks", 40, 31, 544, Some(4)),
    ] {
        let columns = whole(k, format);
        let chunk = rows_per_chunk.map_or(String::new(), |rows| format!(" chunk={rows}"));
        let detail = |of: &str| format!("m={m},{of}={vocab},k={columns} {}{chunk}", format.name());
        let case = Gather { m, vocab, columns, format, rows_per_chunk };
        table.typed(("embed", format.name(), class), &detail("vocab"), m * columns, move |bench, inputs| {
            embed(bench, &case, m % 2 == 1, inputs)
        });
        table.typed(("gather", format.name(), class), &detail("rows"), m * columns, move |bench, inputs| {
            gather(bench, &case, inputs)
        });
    }
}
