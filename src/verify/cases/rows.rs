//! Rows of the ops that work on the rows of a batch.
//!
//! Weights in one piece and in chunks, since a vocabulary's matrix exceeds a binding on some adapters: a row must come from
//! its chunk, at its place in it. And batches beyond the 65,535 workgroups of one dimension of a grid.

use super::Table;
use crate::kernel::Format;
use crate::reference::{Pairing, Rope};
use crate::verify::rows::{Gather, Hidden, Turning, argmax, embed, gather, norm_rope, rope};

pub(super) fn rows(table: &mut Table) {
    embeds(table);
    gathers(table);
    ropes(table);
    argmaxes(table);
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
        for format in [Format::F32, Format::F16, Format::BF16] {
            let chunk = rows_per_chunk.map_or(String::new(), |rows| format!(" chunk={rows}"));
            let detail = format!("m={m},vocab={vocab},k={columns} {}{chunk}", format.name());
            let case = Gather { m, vocab, columns, format, rows_per_chunk };
            for positions in [true, false] {
                let detail = if positions { detail.clone() } else { format!("{detail} no positions") };
                table.typed(("embed", format.name(), class), &detail, m * columns, move |bench, inputs| {
                    embed(bench, &case, positions, inputs)
                });
            }
        }
    }
}

fn gathers(table: &mut Table) {
    let rows = [
        ("no rows", 0, 5, 7, None),
        ("no columns", 3, 5, 0, None),
        ("nothing to gather from", 5, 0, 6, None),
        ("one of one", 9, 1, 1, None),
        ("one row", 1, 9, 33, None),
        ("below a quad", 14, 9, 3, None),
        ("rows", 17, 129, 65, None),
        ("rows", 64, 33, 257, None),
        ("chunks", 40, 31, 17, Some(4)),
        ("chunks", 33, 129, 66, Some(64)),
        ("chunks", 30, 24, 5, Some(8)),
        ("GPT-2", 5, 1000, 768, None),
        ("vocabulary", 9, 50257, 12, Some(20_000)),
        ("folded grid", 65_601, 40, 9, None),
    ];
    for (class, m, vocab, columns, rows_per_chunk) in rows {
        for format in [Format::F32, Format::F16, Format::BF16] {
            let chunk = rows_per_chunk.map_or(String::new(), |rows| format!(" chunk={rows}"));
            let detail = format!("m={m},rows={vocab},k={columns} {}{chunk}", format.name());
            let case = Gather { m, vocab, columns, format, rows_per_chunk };
            table.typed(("gather", format.name(), class), &detail, m * columns, move |bench, inputs| {
                gather(bench, &case, inputs)
            });
        }
    }
}

fn ropes(table: &mut Table) {
    // (m, heads, head_dim, rotary_dim, columns beyond the heads, positions)
    let rows = [
        ("no rows", (0, 2, 8, 8, 0, 9)),
        ("no heads", (3, 0, 8, 8, 5, 9)),
        ("nothing to rotate", (3, 2, 8, 0, 0, 9)),
        ("no columns", (3, 0, 0, 0, 0, 9)),
        ("one pair", (1, 1, 2, 2, 0, 7)),
        ("one pair", (7, 1, 2, 2, 0, 1)),
        ("partial", (5, 3, 16, 4, 0, 33)),
        ("partial", (6, 2, 80, 32, 0, 100)),
        ("partial", (6, 2, 7, 6, 3, 100)),
        ("not a quad", (5, 3, 6, 6, 0, 33)),
        ("not a quad", (9, 5, 10, 10, 1, 20)),
        ("not a quad", (3, 7, 5, 2, 0, 20)),
        ("more columns", (9, 6, 16, 16, 32, 64)),
        ("more columns", (3, 10, 12, 12, 13, 64)),
        ("odd rows", (33, 4, 64, 64, 0, 257)),
        ("odd rows", (131, 1, 32, 32, 64, 512)),
        ("one row", (1, 32, 128, 128, 1024, 300)),
        ("far positions", (17, 3, 6, 4, 2, 131_072)),
        ("far positions", (9, 4, 4, 4, 0, 131_072)),
        ("folded grid", (65_601, 2, 66, 66, 0, 40)),
    ];
    for (class, (m, heads, head_dim, rotary_dim, more, positions)) in rows {
        for pairing in [Pairing::Interleaved, Pairing::Halves] {
            let kind = format!("{pairing:?}").to_lowercase();
            let detail = format!("m={m},heads={heads}x{head_dim}+{more} rotary={rotary_dim} to={positions} {kind}");
            let case = Turning { m, shape: Rope { heads, head_dim, rotary_dim, pairing }, more, positions };
            table.row(("rope", class), &detail, m * heads * head_dim, move |bench, inputs| rope(bench, &case, inputs));
            for eps in if m == 5 { vec![1e-6, 0.1] } else { vec![1e-6] } {
                let detail = format!("{detail} eps={eps:e}");
                table.row(("norm_rope", class), &detail, m * heads * head_dim, move |bench, inputs| {
                    norm_rope(bench, &case, eps, inputs)
                });
            }
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
