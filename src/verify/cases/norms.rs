//! Rows of the norms and softmax.

use super::Table;
use crate::verify::rows::{Logits, Norm, layer_norm, softmax};

pub(super) fn norms(table: &mut Table) {
    layer_norms(table);
    softmaxes(table);
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
