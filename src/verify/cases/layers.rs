//! Rows of layers with a norm before them: both norms, what may follow, formats, odd shapes, few rows and many.

use super::Table;
use crate::kernel::Format;
use crate::reference::{Activation, Gelu};
use crate::verify::layers::{After, Layered, norm_linear};

pub(super) fn layers(table: &mut Table) {
    let afters = [
        After::Nothing,
        After::Gate,
        After::Activation(Activation::Gelu(Gelu::Tanh)),
        After::Accumulate,
        After::Activation(Activation::Gelu(Gelu::Exact)),
    ];
    let shapes = [
        ("one column", (1, 1, 1)),
        ("odd", (1, 33, 7)),
        ("odd", (3, 130, 9)),
        ("few rows", (8, 65, 31)),
        ("few rows", (5, 257, 6)),
        ("one row", (1, 96, 65)),
        ("many rows", (9, 50, 33)),
        ("many rows", (21, 64, 10)),
        ("no rows", (0, 8, 4)),
        ("GPT-2", (1, 768, 130)),
    ];
    for (i, (class, (m, k, n))) in shapes.into_iter().enumerate() {
        for (j, after) in afters.into_iter().enumerate() {
            let by_mean = (i + j) % 2 == 0;
            let mean = [0.0, 3.0, 100.0][if by_mean { (i + j) / 2 % 3 } else { i % 2 }];
            let (format, bias) = (super::FLOATS[j % 2], (i / 2 + j) % 2 == 0);
            let case = Layered { m, k, n, format, mean, by_mean, bias, after, rows_per_chunk: None, apart: false };
            layer(table, class, case);
        }
    }
    for (i, format) in Format::ALL.into_iter().enumerate() {
        let k = 544usize.next_multiple_of(format.block().0);
        for (m, n, after) in [(1, 17, After::Gate), (2, 9, After::Accumulate), (10, 5, After::Nothing)] {
            let by_mean = i % 2 == 0;
            let case =
                Layered { m, k, n, format, mean: 0.5, by_mean, bias: true, after, rows_per_chunk: None, apart: false };
            layer(table, "formats", case);
        }
    }
    // A gate in several chunks has dispatches of its own.
    for after in [After::Gate, After::Accumulate] {
        let format = Format::F32;
        let case = Layered {
            m: 2,
            k: 20,
            n: 9,
            format,
            mean: 1.0,
            by_mean: true,
            bias: true,
            after,
            rows_per_chunk: Some(4),
            apart: false,
        };
        layer(table, "chunks", case);
    }
    apart(table);
}

/// The norm in a dispatch of its own, as models on processors have it.
fn apart(table: &mut Table) {
    let shapes: [(usize, usize, usize); 7] =
        [(1, 32, 3), (1, 768, 65), (3, 96, 17), (8, 64, 9), (2, 544, 33), (1, 37, 10), (13, 64, 6)];
    for (i, (m, k, n)) in shapes.into_iter().enumerate() {
        for (j, format) in [Format::F32, Format::F16, Format::Q8_0].into_iter().enumerate() {
            let (bias, k) = ((i + j) % 2 == 0, k.next_multiple_of(format.block().0));
            for after in [After::Gate, After::Accumulate] {
                let case = Layered {
                    m,
                    k,
                    n,
                    format,
                    mean: 0.0,
                    by_mean: j == 1,
                    bias,
                    after,
                    rows_per_chunk: None,
                    apart: true,
                };
                layer(table, "norm apart", case);
            }
        }
    }
}

fn layer(table: &mut Table, class: &'static str, case: Layered) {
    let Layered { m, k, n, format, mean, by_mean, bias, after, rows_per_chunk, apart } = case;
    let norm = if by_mean { "layer norm" } else { "rms norm" };
    let mut detail = format!("m={m},k={k},n={n} {} {norm}, mean {mean}", format.name());
    detail += if bias { " bias" } else { "" };
    detail += &match after {
        After::Nothing => String::new(),
        After::Activation(activation) => format!(" {}", format!("{activation:?}").to_lowercase()),
        After::Gate => " gated".to_owned(),
        After::Accumulate => " accumulate".to_owned(),
    };
    detail += if apart { " norm apart" } else { "" };
    if let Some(rows) = rows_per_chunk {
        detail += &format!(" chunk={rows}");
    }
    table.typed(("norm_linear", format.name(), class), &detail, 2 * m * k * n, move |bench, inputs| {
        norm_linear(bench, &case, inputs)
    });
}
