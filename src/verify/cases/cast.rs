//! Rows of casts.
//!
//! There are few enough halves for all of them. Of the 2^32 floats, those that round to even, every exponent and random
//! bits; and rows that lie dense or padded on either side, since two halves share a word and a row may end amid one.

use super::Table;
use crate::reference::Cast;
use crate::verify::Layout::{Dense, Padded};
use crate::verify::cast::{Bits, Casting, cast};

pub(super) fn casts(table: &mut Table) {
    for (kind, name) in
        [(Cast::F32ToF16, "f32 to f16"), (Cast::F16ToF32, "f16 to f32"), (Cast::Bf16ToF32, "bf16 to f32")]
    {
        let mut rows: Vec<(&'static str, Vec<usize>, Bits)> = vec![
            ("one element", vec![1], Bits::Random),
            ("below a quad", vec![5, 3], Bits::Random),
            ("odd columns", vec![33, 65], Bits::Random),
            ("odd columns", vec![3, 1], Bits::Random),
            ("even columns", vec![7, 22], Bits::Random),
            ("quads", vec![7, 8], Bits::Random),
            ("one row", vec![257], Bits::Random),
            ("three dimensions", vec![3, 5, 17], Bits::Random),
            ("no rows", vec![0, 5], Bits::Constant),
            ("no columns", vec![5, 0], Bits::Constant),
            ("every half", vec![1 << 16], Bits::Every),
            ("every half", vec![4096, 17], Bits::Every),
            ("folded grid", vec![65_535 * 64 / 4 + 77, if kind == Cast::F32ToF16 { 5 } else { 3 }], Bits::Constant),
        ];
        if kind == Cast::F32ToF16 {
            rows.push(("ties", vec![6 * 0x7c00], Bits::Ties));
            rows.push(("every exponent", vec![3 * 256, 256], Bits::Exponents));
        }
        for (class, shape, bits) in rows {
            add(table, name, class, Casting { kind, shape, bits, layouts: None });
        }
        for layouts in [(Padded, Dense), (Dense, Padded), (Dense, Dense)] {
            for shape in [vec![5, 7], vec![33, 1]] {
                add(table, name, "layouts", Casting { kind, shape, bits: Bits::Random, layouts: Some(layouts) });
            }
        }
    }
}

fn add(table: &mut Table, name: &'static str, class: &'static str, case: Casting) {
    let layouts = case.layouts.map_or(String::new(), |(x, out)| format!(" {x:?} to {out:?}").to_lowercase());
    let detail = format!("{:?} {name} {}{layouts}", case.shape, format!("{:?}", case.bits).to_lowercase());
    let work = case.shape.iter().product();
    table.typed(("cast", name, class), &detail, work, move |bench, inputs| cast(bench, &case, inputs));
}
