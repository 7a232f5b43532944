//! Rows of the ops that look at one element at a time.

use super::Table;
use crate::reference::Gelu;
use crate::verify::elementwise::{Elements, Values, add, gelu, relu, repitch};

pub(super) fn elementwise(table: &mut Table) {
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
        ("folded grid", vec![16_777_000 / 4 + 777, 3], Values::Constant),
    ];
    for (class, shape, values) in rows {
        let detail = format!("{shape:?} {}", format!("{values:?}").to_lowercase());
        let (work, case) = (shape.iter().product(), Elements { shape, values });
        for form in [Gelu::Tanh, Gelu::Exact] {
            let (case, detail) = (case.clone(), format!("{detail} {}", format!("{form:?}").to_lowercase()));
            table.row(("gelu", class), &detail, work, move |bench, inputs| gelu(bench, &case, form, inputs));
        }
        let (of_relu, of_repitch) = (case.clone(), case.clone());
        table.row(("relu", class), &detail, work, move |bench, inputs| relu(bench, &of_relu, inputs));
        table.row(("repitch", class), &detail, work, move |bench, inputs| repitch(bench, &of_repitch, inputs));
        table.row(("add", class), &detail, work, move |bench, inputs| add(bench, &case, inputs));
    }
}
