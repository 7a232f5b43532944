//! Rows of the ops that make one number of many.
//!
//! Lengths around a workgroup and around a part, beyond which a row is reduced in several dispatches, and as many as 70
//! parts.

use super::Table;
use crate::ops::PART;
use crate::reference::Reduction;
use crate::verify::inputs::Fill;
use crate::verify::reduce::{Reducing, dot, reduce};

pub(super) fn reduces(table: &mut Table) {
    reductions(table);
    dots(table);
}

fn reductions(table: &mut Table) {
    use Fill::{Integers, Outliers, Uniform};
    /// Class, shapes of x and out, numbers and what is added to them.
    type Row = (&'static str, Vec<usize>, Vec<usize>, Fill, f32);
    let rows: Vec<Row> = vec![
        ("one element", vec![1], vec![1], Uniform, 0.0),
        ("one element", vec![], vec![1, 1], Uniform, 0.0),
        ("one row", vec![257], vec![1], Uniform, 0.0),
        ("one column", vec![5, 1], vec![5], Uniform, 0.0),
        ("below a quad", vec![6, 3], vec![6], Integers, 0.0),
        ("rows to a row", vec![33, 65], vec![33], Uniform, 0.0),
        ("rows to a column", vec![33, 66], vec![33, 1], Outliers, 0.0),
        ("leading dimensions", vec![3, 5, 17], vec![3, 5], Uniform, 0.0),
        ("leading dimensions", vec![2, 3, 7, 129], vec![2, 3, 7], Integers, 0.0),
        ("another shape", vec![6, 9], vec![2, 3], Integers, 0.0),
        ("no rows", vec![0, 5], vec![0], Uniform, 0.0),
        ("a workgroup", vec![7, 64], vec![7], Integers, 0.0),
        ("past workgroups", vec![7, 257], vec![7], Integers, 0.0),
        ("far from zero", vec![5, 768], vec![5], Uniform, 100.0),
        ("negative", vec![5, 70], vec![5], Uniform, -10.0),
        ("negative", vec![2, 2 * PART + 70], vec![2], Uniform, -10.0),
        ("one part", vec![3, PART], vec![3], Integers, 0.0),
        ("past a part", vec![3, PART + 1], vec![3], Integers, 0.0),
        ("past a part", vec![5, PART + 67], vec![5, 1], Uniform, 0.0),
        ("parts", vec![2, 3 * PART], vec![2], Integers, 0.0),
        ("parts", vec![200_003], vec![1], Uniform, 0.0),
        ("many parts", vec![70 * PART - 3], vec![1], Integers, 0.0),
        ("vocabulary", vec![4, 50_257], vec![4], Outliers, 0.0),
        ("folded grid", vec![65_601, 3], vec![65_601], Integers, 0.0),
        ("folded grid", vec![32_801, 2, 1], vec![32_801, 2], Uniform, 0.0),
    ];
    for (class, x, out, fill, shift) in rows {
        for how in [Reduction::Sum, Reduction::Max, Reduction::Mean] {
            let kinds = format!("{how:?} {fill:?}").to_lowercase();
            let detail = format!("{x:?} to {out:?} {kinds} shift={shift}");
            let (work, case) = (x.iter().product(), Reducing { x: x.clone(), out: out.clone(), how, fill, shift });
            table.row(("reduce", class), &detail, work, move |bench, inputs| reduce(bench, &case, inputs));
        }
    }
    for out in [vec![5], vec![5, 1]] {
        let detail = format!("[5, 0] to {out:?} sum");
        let case = Reducing { x: vec![5, 0], out, how: Reduction::Sum, fill: Uniform, shift: 0.0 };
        table.row(("reduce", "no columns"), &detail, 0, move |bench, inputs| reduce(bench, &case, inputs));
    }
}

fn dots(table: &mut Table) {
    use Fill::{Integers, Outliers, Uniform};
    let rows: Vec<(&'static str, Vec<usize>, Fill)> = vec![
        ("one element", vec![1], Uniform),
        ("one element", vec![1, 1], Uniform),
        ("below a quad", vec![3], Integers),
        ("below a quad", vec![7, 3], Integers),
        ("one row", vec![257], Uniform),
        ("one row", vec![768], Outliers),
        ("rows", vec![33, 65], Integers),
        ("three dimensions", vec![3, 5, 17], Uniform),
        ("no rows", vec![0, 5], Uniform),
        ("no columns", vec![5, 0], Uniform),
        ("a workgroup", vec![256], Integers),
        ("past a workgroup", vec![261], Integers),
        ("one part", vec![PART], Integers),
        ("past a part", vec![PART + 1], Integers),
        ("past a part", vec![5, PART / 4 + 1], Uniform),
        ("parts", vec![3, PART + 5], Integers),
        ("parts", vec![200_003], Uniform),
        ("parts", vec![(1 << 18) - 1], Integers),
        ("padded rows", vec![5001, 5], Integers),
        ("many parts", vec![1025, 1023], Uniform),
        ("many parts", vec![65 * PART], Outliers),
    ];
    for (class, shape, fill) in rows {
        let detail = format!("{shape:?} {}", format!("{fill:?}").to_lowercase());
        let work = 2 * shape.iter().product::<usize>();
        table.row(("dot", class), &detail, work, move |bench, inputs| dot(bench, &shape, fill, inputs));
    }
}
