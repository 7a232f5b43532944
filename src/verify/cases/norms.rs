//! Rows of the norms and softmaxes.
//!
//! Lengths around the subgroup and the workgroup and up to a model's widest, means far from zero, constant rows, where the
//! variance is nothing but eps, and rows that are not the first of their tensor.

use super::Table;
use crate::verify::inputs::Inputs;
use crate::verify::norms::{Logits, Norm, add_layer_norm, add_rms_norm, layer_norm, log_softmax, rms_norm, softmax};
use crate::verify::runner::{Bench, Stop};

pub(super) fn norms(table: &mut Table) {
    all_norms(table);
    softmaxes(table);
}

const BASE: Norm = Norm { m: 3, n: 768, mean: 0.0, eps: 1e-5, first_row: 0, constant: false };

/// What all norms are tried on.
fn common() -> Vec<(&'static str, Norm)> {
    let mut rows = Vec::new();
    for (i, n) in [2, 3, 5, 33, 63, 64, 65, 129, 255, 768, 1025, 4096, 12288].into_iter().enumerate() {
        rows.push(("length", Norm { m: i % 4 + 1, n, ..BASE }));
    }
    for mean in [1.0, 10.0, 100.0, 1e3, 1e4, -1e4] {
        rows.push(("large mean", Norm { mean, ..BASE }));
        rows.push(("large mean", Norm { mean, n: 33, ..BASE }));
    }
    for eps in [0.0, 1e-6, 1e-4, 0.1, 10.0] {
        rows.push(("eps", Norm { eps, n: 132, ..BASE }));
    }
    for mean in [0.0, 0.1, 1e4] {
        rows.push(("constant rows", Norm { mean, constant: true, n: 70, ..BASE }));
    }
    rows.push(("one column", Norm { n: 1, ..BASE }));
    rows.push(("one column", Norm { n: 1, mean: 3.0, eps: 10.0, ..BASE }));
    rows.push(("no rows", Norm { m: 0, n: 5, ..BASE }));
    rows.push(("no columns", Norm { n: 0, ..BASE }));
    rows.push(("GPT-2", Norm { m: 64, ..BASE }));
    rows.push(("many rows", Norm { m: 30, n: 35, ..BASE }));
    // With eight rows to a workgroup too, and the last workgroup with some of its own.
    rows.push(("folded grid", Norm { m: 524_295, n: 5, ..BASE }));
    rows
}

/// Rows of x that are not the first.
fn later() -> impl Iterator<Item = (&'static str, Norm)> {
    [(1, 5), (7, 64), (100, 17)].into_iter().map(|(first_row, n)| ("later rows", Norm { first_row, n, ..BASE }))
}

type RunNorm = fn(&mut Bench<'_>, &Norm, Inputs) -> Result<f64, Stop>;

fn norm(table: &mut Table, op: &'static str, (class, case): (&'static str, Norm), run: RunNorm) {
    let Norm { m, n, mean, eps, first_row, constant } = case;
    let constant = if constant { " constant" } else { "" };
    let detail = format!("m={m},n={n} mean={mean} eps={eps} first={first_row}{constant}");
    table.row((op, class), &detail, m * n, move |bench, inputs| run(bench, &case, inputs));
}

fn all_norms(table: &mut Table) {
    // The mean times 1 / sqrt(eps) is no number: what lies behind a row must not be computed from it.
    let far = ("far out", Norm { mean: 3e36, constant: true, n: 70, ..BASE });
    for row in common().into_iter().chain(later()).chain([far]) {
        norm(table, "layer_norm", row, layer_norm);
    }
    for row in common() {
        norm(table, "add_layer_norm", row, add_layer_norm);
        norm(table, "add_rms_norm", row, add_rms_norm);
    }
    // Squares up to 1e36, and down to what may be flushed.
    let far = [(1e15, 0.0), (-1e18, 1e-5), (1e-15, 0.0), (1e-15, 1e-30), (3e-19, 0.0)];
    let far = far.map(|(mean, eps)| ("far out", Norm { mean, eps, constant: true, n: 129, ..BASE }));
    let llama = ("Llama", Norm { m: 5, n: 4096, eps: 1e-6, ..BASE });
    for row in common().into_iter().chain(later()).chain(far).chain([llama]) {
        norm(table, "rms_norm", row, rms_norm);
    }
}

fn softmaxes(table: &mut Table) {
    let mut rows = vec![
        ("no rows", (0, 5), Logits::Scaled(1.0)),
        ("no columns", (5, 0), Logits::Scaled(1.0)),
        ("vocabulary", (2, 50257), Logits::Scaled(10.0)),
        ("vocabulary", (1, 50257), Logits::Dominant(30.0)),
        ("long", (1, 200_000), Logits::Scaled(5.0)),
        ("many rows", (134, 33), Logits::Scaled(3.0)),
        ("folded grid", (524_295, 5), Logits::Scaled(1.0)),
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
    rows.push(("far out", (37, 35), Logits::Scaled(1e4)));
    rows.push(("far out", (2, 33), Logits::Dominant(1e30)));
    for (class, (m, n), logits) in rows {
        let detail = format!("m={m},n={n} {}", format!("{logits:?}").to_lowercase());
        let (shape, work) = ((m, n), 2 * m * n);
        table.row(("softmax", class), &detail, work, move |bench, inputs| softmax(bench, shape, logits, inputs));
        table
            .row(("log_softmax", class), &detail, work, move |bench, inputs| log_softmax(bench, shape, logits, inputs));
    }
}
