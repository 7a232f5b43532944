//! Rows of the ops that look at one element at a time.
//!
//! One list of shapes and numbers for all of them, so that an op that is added gets every shape that the others have; among
//! them columns that are too few or too many for a quad, whose padding must stay zero.

use super::Table;
use crate::reference::Gelu;
use crate::verify::elementwise::{
    Elements, Values, add, gelu, mul, probe, relu, repitch, scale, sigmoid, silu, swiglu, tanh,
};
use crate::verify::inputs::Inputs;
use crate::verify::runner::{Bench, Stop};

type Runner = fn(&mut Bench<'_>, &Elements, Inputs) -> Result<f64, Stop>;

pub(super) fn elementwise(table: &mut Table) {
    let rows: Vec<(&'static str, Vec<usize>, Values)> = vec![
        ("one element", vec![1], Values::Scaled(1)),
        ("one element", vec![1, 1], Values::Scaled(10)),
        ("below a quad", vec![5, 3], Values::Scaled(3)),
        ("quads", vec![7, 8], Values::Scaled(3)),
        ("half a quad", vec![9, 6], Values::Scaled(3)),
        ("one row", vec![257], Values::Scaled(4)),
        ("a workgroup", vec![64, 4], Values::Constant),
        ("past a workgroup", vec![65, 5], Values::Scaled(12)),
        ("three dimensions", vec![3, 5, 17], Values::Scaled(2)),
        ("no rows", vec![0, 5], Values::Constant),
        ("no columns", vec![5, 0], Values::Constant),
        ("every exponent", vec![256, 256], Values::Sweep),
        ("every exponent", vec![65_536], Values::Sweep),
        // Odd numbers of quads.
        ("every exponent", vec![65_532], Values::Sweep),
        ("extremes", vec![3, 22], Values::Extremes),
        ("extremes", vec![67, 23], Values::Extremes),
        ("extremes", vec![67, 18], Values::Extremes),
        ("GPT-2", vec![16, 3072], Values::Scaled(5)),
        ("folded grid", vec![16_777_000 / 4 + 777, 1], Values::Constant),
    ];
    for (class, shape, values) in rows {
        let detail = format!("{shape:?} {}", format!("{values:?}").to_lowercase());
        // With the padding that these ops look at too.
        let work = shape.iter().product::<usize>() * if shape.last() == Some(&1) { 4 } else { 1 };
        let case = Elements { shape, values };
        for form in [Gelu::Tanh, Gelu::Exact] {
            let (case, detail) = (case.clone(), format!("{detail} {}", format!("{form:?}").to_lowercase()));
            table.row(("gelu", class), &detail, work, move |bench, inputs| gelu(bench, &case, form, inputs));
        }
        let runners: [(&'static str, Runner); 8] = [
            ("relu", relu),
            ("sigmoid", sigmoid),
            ("silu", silu),
            ("tanh", tanh),
            ("add", add),
            ("mul", mul),
            ("swiglu", swiglu),
            ("repitch", repitch),
        ];
        for (op, run) in runners {
            let case = case.clone();
            table.row((op, class), &detail, work, move |bench, inputs| run(bench, &case, inputs));
        }
        let probed = case.clone();
        let detail_of_probe = format!("{detail} by=-0.63 times=11");
        table.row(("probe", class), &detail_of_probe, work, move |bench, inputs| {
            probe(bench, &probed, (-0.63, 11), inputs)
        });
        let detail = format!("{detail} by=-0.37");
        table.row(("scale", class), &detail, work, move |bench, inputs| scale(bench, &case, -0.37, inputs));
    }
    probes(table);
    for by in [0.0, 1.0, -1.0, 1e-30, 1e30] {
        let case = Elements { shape: vec![5, 67], values: Values::Scaled(3) };
        let detail = format!("[5, 67] scaled(3) by={by:e}");
        table.row(("scale", "factors"), &detail, 335, move |bench, inputs| scale(bench, &case, by, inputs));
    }
}

fn probes(table: &mut Table) {
    // Odd numbers of rounds and single steps; a factor of -2 turns the sign and is exact.
    for (i, &(factor, times)) in
        [(-2.0, 1), (-2.0, 23), (-1.5, 8), (-0.37, 5), (0.25, 9), (-1.01, 1027), (3.0, 0)].iter().enumerate()
    {
        let shapes: [&[usize]; 3] = [&[5, 67], &[4096], &[33, 6]];
        for (j, shape) in shapes.into_iter().enumerate() {
            // What is multiplied first must be finite too.
            let is_small = f32::abs(factor) < 1.0 && factor < 0.0 && (i + j) % 2 == 0;
            let values = if is_small { Values::Sweep } else { Values::Scaled(3) };
            let case = Elements { shape: shape.to_vec(), values };
            let detail = format!("{shape:?} {} by={factor} times={times}", format!("{values:?}").to_lowercase());
            table.row(("probe", "rounds"), &detail, 4096, move |bench, inputs| {
                probe(bench, &case, (factor, times), inputs)
            });
        }
    }
}
